"""Four ways of waiting for the same jobs, at the same interval.

- `ours`: `tikmatrix_tasks.waiting.follow`.
- `each`: one GET per open job every interval, as Prefect's dbt and Databricks collections do.
- `vendor`: what TikMatrix's docs show ("API Examples", "Monitor Task Progress"): the counters every
  interval until nothing is pending or running, then one page of what failed. It cannot tell its
  jobs from others, and knows of no end before the last.
- `limit`: one request per interval and one page per hundred ended jobs: about the least that can
  notice every end within an interval. It is reckoned, not run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from benchmarks.scenario import (
    INTERVAL_SECONDS,
    Evening,
    Figures,
    MeteredTikMatrix,
    Notices,
    Work,
    counted,
    evenings,
    figures,
)
from tests.virtual_clock import run
from tikmatrix_tasks import Batch, JobReport, JobStatus, Outcome, TikMatrixClient
from tikmatrix_tasks.client import MAX_PAGE_SIZE
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

Noticed = Callable[[int], None]
Reckon = Callable[[Evening, Work], Evening]
"""What a way of waiting would have sent and noticed, from when the jobs ended."""

_UNTIL_ALL_RUN_SECONDS = 60.0
_STILL_SECONDS = 1800.0
_JOINING_SECONDS = 3.0  # Prefect takes about so long to start the waits of a hundred phones
_LONG_ANSWER_SECONDS = 0.3
ENDED = (JobStatus.COMPLETED, JobStatus.FAILED)

PACE = Pace(
    poll_interval_seconds=INTERVAL_SECONDS,
    max_poll_interval_seconds=INTERVAL_SECONDS,
    failure_grace_seconds=0,
)


async def ours(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    await _ours(tikmatrix, batches, noticed)


async def _ours(
    tikmatrix: MeteredTikMatrix,
    batches: Sequence[Batch],
    noticed: Notices,
    apart_seconds: float = 0.0,
) -> None:
    watcher = Watcher(tikmatrix.client)

    def told(jobs: Sequence[JobReport]) -> None:
        for job in jobs:
            if job.outcome in (Outcome.COMPLETED, Outcome.FAILED) and job.job_id is not None:
                noticed(job.job_id)

    async def wait(number: int, batch: Batch) -> None:
        await asyncio.sleep(number * apart_seconds)
        await follow(watcher, batch, PACE, timeout_seconds=math.inf, on_jobs=told)

    await asyncio.gather(*(wait(number, batch) for number, batch in enumerate(batches)))


async def each(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    async with tikmatrix.client() as client:
        await asyncio.gather(
            *(poll_each(client, batch.job_ids, INTERVAL_SECONDS, noticed) for batch in batches)
        )


async def vendor(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    async with tikmatrix.client() as client:
        await asyncio.gather(
            *(poll_counters(client, batch.job_ids, INTERVAL_SECONDS, noticed) for batch in batches)
        )


async def poll_each(
    client: TikMatrixClient, job_ids: Sequence[int], interval_seconds: float, noticed: Noticed
) -> None:
    """Wait as `each` does, by any client."""
    still_open = list(job_ids)
    while True:
        asked, still_open = still_open, []
        for job_id in asked:
            if (await client.get_job(job_id)).status in ENDED:
                noticed(job_id)
            else:
                still_open.append(job_id)
        if not still_open:
            return
        await asyncio.sleep(interval_seconds)


async def poll_counters(
    client: TikMatrixClient, job_ids: Sequence[int], interval_seconds: float, noticed: Noticed
) -> None:
    """Wait as `vendor` does, by any client."""
    while True:
        stats = await client.get_stats()
        if not stats.pending and not stats.running:
            break
        await asyncio.sleep(interval_seconds)
    await client.list_jobs(status=JobStatus.FAILED)
    for job_id in job_ids:
        noticed(job_id)


def next_look(second: float) -> float:
    """The first multiple of the interval that is not before this second."""
    return math.ceil(second / INTERVAL_SECONDS) * INTERVAL_SECONDS


def counted_each(evening: Evening, work: Work) -> Evening:
    """What `each` sends: every job is asked for at the beginning, and then until it has ended."""
    looks = (1 + next_look(end) / INTERVAL_SECONDS for end in evening.ends.values())
    return counted(evening, next_look, sum(looks))


def counted_vendor(evening: Evening, work: Work) -> Evening:
    """What `vendor` sends: every wait looks from the beginning until all jobs have ended."""
    last = next_look(max(evening.ends.values()))
    looks = 1 + last / INTERVAL_SECONDS
    return counted(evening, lambda end: last, work.waits * (looks + 1))


def counted_limit(evening: Evening, work: Work) -> Evening:
    looks = math.ceil(max(evening.ends.values()) / INTERVAL_SECONDS)
    pages = math.ceil(len(evening.ends) / MAX_PAGE_SIZE)
    return counted(evening, next_look, looks + pages)


def side_by_side(work: Work, *, most_sent: float) -> list[Figures]:
    """All four on the same work. What would send more than `most_sent` requests is counted."""
    seen = evenings(ours, work)

    def by_count(name: str, reckon: Reckon) -> Figures:
        return figures(name, work, [reckon(evening, work) for evening in seen], counted=True)

    side = [figures("ours", work, seen)]
    for name, strategy, reckon in (
        ("each", each, counted_each),
        ("vendor", vendor, counted_vendor),
    ):
        reckoned = by_count(name, reckon)
        cheap = reckoned.requests * work.evenings <= most_sent
        side.append(figures(name, work, evenings(strategy, work)) if cheap else reckoned)
    return [*side, by_count("limit", counted_limit)]


def requests_while_still(work: Work) -> float:
    """What `ours` sends per interval while all jobs run and none ends."""
    return run(_while_still(work))


async def _while_still(work: Work) -> float:
    tikmatrix = MeteredTikMatrix(work, job_seconds=2 * _STILL_SECONDS)
    waiting = asyncio.create_task(ours(tikmatrix, tikmatrix.batches(work.waits), Notices()))
    await asyncio.sleep(_UNTIL_ALL_RUN_SECONDS)
    before = len(tikmatrix.api.requests)
    await asyncio.sleep(_STILL_SECONDS)
    sent = len(tikmatrix.api.requests) - before
    waiting.cancel()
    return sent / (_STILL_SECONDS / INTERVAL_SECONDS)


def requests_when_joining(work: Work) -> tuple[float, float]:
    """What `ours` sends when answers take long: for waits that begin together, and one by one.

    As the waits of a flow do, which begin while the first look is still waiting for its answer.
    """
    together = [run(_when_joining(work, seed, 0.0)) for seed in range(work.evenings)]
    one_by_one = [
        run(_when_joining(work, seed, _JOINING_SECONDS / work.waits))
        for seed in range(work.evenings)
    ]
    return sum(together) / work.evenings, sum(one_by_one) / work.evenings


async def _when_joining(work: Work, seed: int, apart_seconds: float) -> int:
    tikmatrix = MeteredTikMatrix(work, seed)
    tikmatrix.answer_seconds = _LONG_ANSWER_SECONDS
    await _ours(tikmatrix, tikmatrix.batches(work.waits), Notices(), apart_seconds)
    return len(tikmatrix.api.requests)
