"""Looking at jobs on behalf of every wait: one watcher per TikMatrix per process.

Each wait opens a `Watch` on its jobs and says by a `Cadence` when a look would be worth its while.
The watcher looks when the first of them says so, and tells each what is new about its own jobs; so
the number of waits costs nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone

from tikmatrix_tasks.cadence import Cadence
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import OverloadedError, TikMatrixError
from tikmatrix_tasks.jobs import Job
from tikmatrix_tasks.retries import LONGEST_RETRY_AFTER_SECONDS
from tikmatrix_tasks.rows import RowOrError
from tikmatrix_tasks.tracker import Look, Tracker

_LINGER_SECONDS = 5.0  # keeps the connection for waits that begin soon after the last one ended
_ROUNDING = 0.001  # seconds by which a timer may be early
_JITTER = 0.1  # so that several processes do not ask at the same moments


class Watch:
    """What one wait wants to know about, and what is new for it."""

    def __init__(self, watcher: Watcher, cadence: Cadence) -> None:
        self.job_ids: set[int] = set()
        self.cadence = cadence
        self.in_a_hurry = False
        self._watcher = watcher
        self._news = asyncio.Event()
        self._rows: dict[int, RowOrError] = {}
        self._failure: BaseException | None = None
        self._whole = False

    async def news(self, within_seconds: float) -> Look | None:
        """Wait for a look that brought something new, or failed, or answered after failures.

        None when there was none in time.
        """
        if not await _is_set(self._news, within_seconds):
            return None
        self._news.clear()
        rows, self._rows = self._rows, {}
        failure, self._failure = self._failure, None
        whole, self._whole = self._whole, False
        if failure is not None and not isinstance(failure, TikMatrixError):
            raise failure
        return Look(rows, failure, whole)

    def add(self, job_ids: Iterable[int], *, just_created: bool = False) -> None:
        """Watch these jobs. They are looked at soon, unless they were created just now."""
        new = set(job_ids) - self.job_ids
        self.job_ids |= new
        seen = self._watcher.hold(new, just_created=just_created)
        if seen:
            self.tell(seen)
        self._watcher.look_soon(self.cadence.shortest_seconds, at_once=not just_created)

    def forget(self, job_ids: Iterable[int]) -> None:
        """Watch these jobs no more."""
        gone = self.job_ids.intersection(job_ids)
        self.job_ids -= gone
        self._watcher.release(gone)

    def ask(self, job_ids: Iterable[int]) -> None:
        """Read the rows of these jobs at the next look, changed or not."""
        self._watcher.tracker.ask(job_ids)

    def hurry(self) -> None:
        """Look at once and at everything, and bring news even if nothing is new."""
        self.in_a_hurry = True
        self._watcher.wake()

    def tell(
        self,
        rows: Mapping[int, RowOrError],
        failure: BaseException | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """For the watcher: what a look brought."""
        self._rows.update(rows)
        self._failure, self._whole = failure, whole
        self._news.set()


class Watcher:
    """Looks at jobs while somebody waits, and closes its client when nobody does any more.

    For one event loop only.
    """

    def __init__(self, open_client: Callable[[], TikMatrixClient]) -> None:
        self.tracker = Tracker()
        self.answered_at: datetime | None = None
        """When TikMatrix last answered a look, by this machine's clock."""
        self._open_client = open_client
        self._watches: list[Watch] = []
        self._held: Counter[int] = Counter()
        self._woken = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._due = math.inf
        self._failing = False

    @contextmanager
    def watch(
        self, job_ids: Iterable[int], cadence: Cadence, *, just_created: bool = False
    ) -> Iterator[Watch]:
        """Watch jobs while the context lasts."""
        watch = Watch(self, cadence)
        self._watches.append(watch)
        watch.add(job_ids, just_created=just_created)
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield watch
        finally:
            watch.forget(list(watch.job_ids))
            with suppress(ValueError):  # told already that there will be no more looks
                self._watches.remove(watch)
            self.wake()

    def hold(self, job_ids: Collection[int], *, just_created: bool) -> dict[int, Job]:
        """One more watch wants to know about these jobs. Returns what others had seen of them."""
        new = [job_id for job_id in job_ids if not self._held[job_id]]
        self._held.update(job_ids)
        self.tracker.follow(new, just_created=just_created)
        return self.tracker.seen(job_ids)

    def release(self, job_ids: Collection[int]) -> None:
        """One watch less wants to know about these jobs."""
        self._held.subtract(job_ids)
        gone = [job_id for job_id in job_ids if self._held[job_id] <= 0]
        for job_id in gone:
            del self._held[job_id]
        self.tracker.forget(gone)

    def look_soon(self, shortest_seconds: float, *, at_once: bool) -> None:
        """Look `shortest_seconds` after the last look, or if not `at_once` after now."""
        now = asyncio.get_running_loop().time()
        soon = max(now, self._looked_at + shortest_seconds) if at_once else now + shortest_seconds
        self._due = min(self._due, soon)
        self.wake()

    def wake(self) -> None:
        """Let the watcher see that something is wanted of it."""
        self._woken.set()

    async def _watch(self) -> None:
        try:
            async with self._open_client() as client:
                await self._look_while_watched(client)
        except Exception as err:  # an impossible address, say: those who wait must hear of it
            self._end_watches(err)
        except asyncio.CancelledError:
            self._end_watches(asyncio.CancelledError())
            raise
        finally:
            self._watching = None
            if self._watches:  # they came while the connection was being closed
                self._watching = asyncio.get_running_loop().create_task(self._watch())
            else:
                self.tracker = Tracker()

    def _end_watches(self, failure: BaseException) -> None:
        for watch in self._watches:
            watch.tell({}, failure)
        self._watches.clear()

    async def _look_while_watched(self, client: TikMatrixClient) -> None:
        now = asyncio.get_running_loop().time
        idle_since = now()
        while True:
            self._woken.clear()
            if self._watches:
                idle_since = now()
            until = self._due if self._watches else idle_since + _LINGER_SECONDS
            hurry = any(watch.in_a_hurry for watch in self._watches)
            pause = 0.0 if hurry else until - now()
            if pause > _ROUNDING and await _is_set(self._woken, pause):
                continue  # there is another watch, or one less
            if not self._watches:
                return
            await self._look(client)

    async def _look(self, client: TikMatrixClient) -> None:
        hurried = [watch for watch in self._watches if watch.in_a_hurry]
        for watch in hurried:
            watch.in_a_hurry = False
        look = await self.tracker.look(client, whole=bool(hurried))
        now = asyncio.get_running_loop().time()
        was_failing, self._failing = self._failing, look.failure is not None
        if not self._failing:
            self.answered_at = datetime.now(timezone.utc)
        for watch in self._watches:
            rows = {job_id: row for job_id, row in look.rows.items() if job_id in watch.job_ids}
            moved = any(isinstance(row, Job) for row in rows.values())
            if moved or was_failing != self._failing:
                watch.cadence.mark(now)
            if rows or self._failing or was_failing or watch in hurried:
                watch.tell(rows, look.failure, whole=look.whole)
        self._looked_at = now
        # Also for waits that came meanwhile: many of them must not make one look follow another.
        self._due = now + self._pause(now, look.failure)

    def _pause(self, now: float, failure: TikMatrixError | None) -> float:
        if not self._watches:
            return math.inf
        keenest = min((watch.cadence for watch in self._watches), key=lambda it: it.pause(now))
        jittered = keenest.pause(now) * random.uniform(1 - _JITTER, 1 + _JITTER)
        pause = min(max(jittered, keenest.shortest_seconds), keenest.longest_seconds)
        asked = failure.retry_after_seconds if isinstance(failure, OverloadedError) else None
        return max(pause, min(asked or 0.0, LONGEST_RETRY_AFTER_SECONDS))


async def _is_set(event: asyncio.Event, within_seconds: float) -> bool:
    """Wait for an event. Before Python 3.12 `asyncio.wait_for` swallows some cancellations."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=within_seconds)
        return event.is_set()
    finally:
        waiting.cancel()


_shared: dict[Hashable, Watcher] = {}


def shared_watcher(key: Hashable, open_client: Callable[[], TikMatrixClient]) -> Watcher:
    """The one watcher that all callers with an equal key share. For one event loop only."""
    return _shared.setdefault(key, Watcher(open_client))
