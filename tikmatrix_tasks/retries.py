"""Which error of which call may be tried again: one table, each row with its reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from tikmatrix_tasks.errors import (
    ApiError,
    BadRequestError,
    HttpStatusError,
    InternalError,
    NoAnswerError,
    NotFoundError,
    NotSentError,
    OverloadedError,
    PlanError,
    ScriptNotSupported,
    TikMatrixError,
)

R = TypeVar("R")

Call = Literal["read", "remove", "create"]
"""`read` changes nothing; `remove` (stop, delete) comes to the same when done twice; `create`
(create, retry) starts work on a phone and must never be sent twice in doubt."""

LONGEST_RETRY_AFTER_SECONDS = 60.0
"""What a server asks for is honoured up to this; a longer wait is the operator's to decide."""


@dataclass(frozen=True)
class Row:
    """What one kind of failure means for each kind of call."""

    seen: str
    error: type[Exception]
    retried: frozenset[Call]
    reason: str


_ALL: frozenset[Call] = frozenset({"read", "remove", "create"})
_HARMLESS: frozenset[Call] = frozenset({"read", "remove"})
_NEVER: frozenset[Call] = frozenset()

TABLE: tuple[Row, ...] = (
    Row("connection refused", NotSentError, _ALL, "it never arrived"),
    Row("no readable answer", NoAnswerError, _HARMLESS, "it may have been carried out"),
    Row("50001, other 5xxxx", InternalError, _HARMLESS, "it may have been carried out"),
    Row("HTTP 429, 503", OverloadedError, _HARMLESS, "`Retry-After` is honoured"),
    Row("40001, 40002", BadRequestError, _NEVER, "the same request is refused again"),
    Row("40003", ScriptNotSupported, _NEVER, "this TikMatrix does not know the script"),
    Row("40301", PlanError, _NEVER, "the plan has no API access"),
    Row("40401", NotFoundError, _NEVER, "gone; for stop and delete that is success"),
    Row("other 4xxxx", ApiError, _NEVER, "nobody documented that trying again helps"),
    Row("other HTTP 3xx, 4xx", HttpStatusError, _NEVER, "something else answers at this address"),
)


def may_retry(error: object, call: Call) -> bool:
    """Whether trying `call` again after `error` is both safe and of use."""
    if isinstance(error, OverloadedError) and error.http_status == 429:
        return True  # HTTP's own words: the request was not carried out (RFC 6585, section 4)
    row = next((row for row in TABLE if isinstance(error, row.error)), None)
    return row is not None and call in row.retried


def is_in_doubt(error: object) -> bool:
    """Whether a request that ended with `error` may have been carried out all the same."""
    if isinstance(error, OverloadedError):
        return error.http_status != 429
    return isinstance(error, NoAnswerError | InternalError)


async def patiently(
    read: Callable[[], Awaitable[R]], *, budget_seconds: float, when_closed: bool = True
) -> R:
    """Read, and for a while read again what may be; where TikMatrix is closed if `when_closed`.

    Raises:
        TikMatrixError: the last one, when the budget is spent or trying again cannot help.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + budget_seconds
    pause = 1.0
    while True:
        try:
            return await read()
        except TikMatrixError as err:
            hopeless = isinstance(err, NotSentError) and not when_closed
            if hopeless or not may_retry(err, "read") or now() >= deadline:
                raise
            asked = getattr(err, "retry_after_seconds", None) or 0.0
        pause_now = max(pause, min(asked, LONGEST_RETRY_AFTER_SECONDS))
        await asyncio.sleep(min(pause_now, max(deadline - now(), 0.1)))
        pause = min(pause * 2, 15.0)
