"""Looking at jobs on behalf of every wait: one watcher per TikMatrix per process.

Each wait says which jobs it wants to see and by when. The watcher looks when the first of them is
due and answers all of them at once, so the number of waits costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from dataclasses import dataclass

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.rows import RowOrError, read_rows

_LINGER_SECONDS = 5.0  # keeps the connection for waits that ask again, or begin, meanwhile


@dataclass(eq=False)
class _Ask:
    job_ids: Collection[int]
    script_name: str | None
    due: float
    answer: asyncio.Future[dict[int, RowOrError]]


class Watcher:
    """Looks at jobs while somebody asks, and closes its client when nobody does any more."""

    def __init__(self, open_client: Callable[[], TikMatrixClient]) -> None:
        self._open_client = open_client
        self._asks: list[_Ask] = []
        self._asked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def look(
        self, job_ids: Collection[int], script_name: str | None, *, within_seconds: float
    ) -> dict[int, RowOrError]:
        """The rows of some jobs, asked for in `within_seconds` at the latest; see `read_rows`.

        Raises:
            TikMatrixError: the look failed, which says nothing about any job.
        """
        loop = asyncio.get_running_loop()
        ask = _Ask(job_ids, script_name, loop.time() + within_seconds, loop.create_future())
        self._asks.append(ask)
        self._asked.set()
        if self._watching is None:
            self._watching = loop.create_task(self._watch())
        try:
            return await ask.answer
        finally:
            with suppress(ValueError):  # answered already
                self._asks.remove(ask)

    async def _watch(self) -> None:
        try:
            async with self._open_client() as client:
                await self._answer_asks(client)
        except Exception as err:  # an impossible address, say: those who asked must hear of it
            _fail(self._asks, err)
        except asyncio.CancelledError:
            _fail(self._asks, asyncio.CancelledError())
            raise
        finally:
            self._watching = None
            if self._asks:  # they came while the connection was being closed
                self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _answer_asks(self, client: TikMatrixClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = min((ask.due for ask in self._asks), default=loop.time() + _LINGER_SECONDS)
            self._asked.clear()
            if due > loop.time() and await self._another_ask(due - loop.time()):
                continue  # it may be due sooner
            asks, self._asks = self._asks, []
            if not asks:
                return
            await _answer(client, asks)

    async def _another_ask(self, within_seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._asked.wait(), within_seconds)
        except asyncio.TimeoutError:  # not the builtin one before Python 3.11
            return False
        return True


_shared: dict[Hashable, Watcher] = {}


def shared_watcher(key: Hashable, open_client: Callable[[], TikMatrixClient]) -> Watcher:
    """The one watcher that all callers with an equal key share. For one event loop only."""
    return _shared.setdefault(key, Watcher(open_client))


async def _answer(client: TikMatrixClient, asks: list[_Ask]) -> None:
    wanted: set[int] = set().union(*(ask.job_ids for ask in asks))
    scripts = {ask.script_name for ask in asks}
    try:
        rows = await read_rows(client, wanted, scripts.pop() if len(scripts) == 1 else None)
    except Exception as err:  # whatever it is, those who asked must hear of it
        _fail(asks, err)
        return
    except asyncio.CancelledError:
        _fail(asks, asyncio.CancelledError())
        raise
    for ask in asks:
        if not ask.answer.done():
            ask.answer.set_result({job_id: rows[job_id] for job_id in ask.job_ids})


def _fail(asks: list[_Ask], error: BaseException) -> None:
    for ask in asks:
        if ask.answer.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            ask.answer.cancel()
        else:
            ask.answer.set_exception(error)
    asks.clear()
