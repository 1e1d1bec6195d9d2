"""Prefect's global concurrency limits, one for each phone: who holds it has the phone alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tikmatrix_tasks.background import BLOCKED_SECONDS
from tikmatrix_tasks.errors import InvalidRequest, PhonesBusy

POLL_SECONDS = 5.0
"""How often to ask whether the phones are free."""
_NOT_IN_A_NAME = r"[/%&<>]"  # what Prefect refuses there


def limit_name(serial: str) -> str:
    """`tikmatrix-phone-<serial>`."""
    return f"tikmatrix-phone-{re.sub(_NOT_IN_A_NAME, '_', serial)}"


def create_limits(serials: Sequence[str]) -> list[str]:
    """Create the limits of phones that have none, mend those that do not exclude.

    Returns:
        The phones whose limit was created or changed.
    """
    changed = []
    with get_client(sync_client=True) as prefect:
        for serial in serials:
            name = limit_name(serial)
            limit = _read(name)
            if limit is None:
                prefect.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=name, limit=1)
                )
            elif not _excludes(limit):
                prefect.update_global_concurrency_limit(
                    name,
                    GlobalConcurrencyLimitUpdate(limit=1, active=True, slot_decay_per_second=0),
                )
            else:
                continue
            changed.append(serial)
    return changed


@contextmanager
def hold(
    serials: Sequence[str],
    *,
    flow_run_id: UUID | None,
    timeout_seconds: float,
    poll_seconds: float = POLL_SECONDS,
    tell: Callable[[str], None],
) -> Iterator[None]:
    """Have these phones alone. All are taken in one call, so that two runs cannot deadlock.

    Prefect renews what is held every few minutes and frees it at the end; what a killed process
    held is free after 5 minutes. Asking is ours, in short pieces: Prefect's own wait sleeps for up
    to 30 s, and a cancellation would have to wait for it.

    Raises:
        InvalidRequest: a phone has no limit that excludes.
        PhonesBusy: the time was up.
    """
    _refuse_without_limits(serials)
    names = sorted(limit_name(serial) for serial in serials)
    holder = ConcurrencyLeaseHolder(type="flow_run", id=flow_run_id) if flow_run_id else None
    deadline = time.monotonic() + timeout_seconds
    told: tuple[str, ...] = ()
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(
                    concurrency(
                        names,
                        max_retries=0,
                        strict=True,
                        holder=holder,
                        # The jobs exist by then. Ending the run would not end them.
                        raise_on_lease_renewal_failure=False,
                    )
                )
            except ConcurrencySlotAcquisitionError as err:
                if not _is_taken(err):
                    raise
            else:
                break
            in_use = _in_use(serials)
            if time.monotonic() >= deadline:
                raise PhonesBusy(in_use or tuple(serials), timeout_seconds)
            if in_use and in_use != told:
                told = in_use
                tell(f"waiting for {', '.join(in_use)}: in use by another run")
            _sleep(min(poll_seconds, deadline - time.monotonic()))
        yield


def _refuse_without_limits(serials: Sequence[str]) -> None:
    limits = {serial: _read(limit_name(serial)) for serial in serials}
    missing = [serial for serial, limit in limits.items() if limit is None or not _excludes(limit)]
    if missing:
        raise InvalidRequest(
            "exclusive_phones",
            f"Prefect has no concurrency limit of 1 for {', '.join(missing)}; "
            f"`prefect-tikmatrix limits --phones {' '.join(missing)}` creates what is missing",
        )


def _excludes(limit: GlobalConcurrencyLimitResponse) -> bool:
    return limit.active and limit.limit == 1 and not limit.slot_decay_per_second


def _in_use(serials: Sequence[str]) -> tuple[str, ...]:
    limits = {serial: _read(limit_name(serial)) for serial in serials}
    return tuple(serial for serial, limit in limits.items() if limit and limit.active_slots)


def _read(name: str) -> GlobalConcurrencyLimitResponse | None:
    with get_client(sync_client=True) as prefect:
        try:
            return prefect.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return None


def _is_taken(err: ConcurrencySlotAcquisitionError) -> bool:
    answer = err.__cause__
    return (
        isinstance(answer, httpx.HTTPStatusError)
        and answer.response.status_code == httpx.codes.LOCKED
    )


def _sleep(seconds: float) -> None:
    """In pieces: on Windows an interrupt arrives only between them."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, BLOCKED_SECONDS))
