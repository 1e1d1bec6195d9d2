"""Four ways of waiting for the same jobs, at the same interval.

- `ours`: `tikmatrix_tasks.waiting.follow`.
- `each`: one GET per open job every interval, as Prefect's dbt and Databricks collections do.
- `vendor`: what TikMatrix's docs show ("API Examples", "Monitor Task Progress"): the counters every
  interval until nothing is pending or running, then one page of what failed. It cannot tell its
  jobs from others, and knows of no end before the last.
- `limit`: one request per interval and one page per hundred ended jobs. No way of waiting gets
  below it and notices every end within an interval; it is reckoned, not run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial

from benchmarks.scenario import (
    INTERVAL_SECONDS,
    SCRIPT,
    Evening,
    Figures,
    MeteredTikMatrix,
    Notices,
    Work,
    counted,
    evenings,
    figures,
)
from tikmatrix_tasks import Batch, JobStatus, TikMatrixClient
from tikmatrix_tasks.client import MAX_PAGE_SIZE
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

ENDED = (JobStatus.COMPLETED, JobStatus.FAILED)

PACE = Pace(
    poll_interval_seconds=INTERVAL_SECONDS,
    max_poll_interval_seconds=INTERVAL_SECONDS,
    failure_grace_seconds=0,
)


async def ours(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    watcher = Watcher(tikmatrix.client)

    def told(sentence: str) -> None:
        name, _, became = sentence.partition(": ")
        if became.startswith((f"{SCRIPT} completed", f"{SCRIPT} failed")):
            noticed(tikmatrix.job_named[name])

    await asyncio.gather(
        *(
            follow(watcher, batch, PACE, timeout_seconds=math.inf, on_change=told)
            for batch in batches
        )
    )


async def each(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    async with tikmatrix.client() as client:
        await asyncio.gather(*(_poll_each(client, batch, noticed) for batch in batches))


async def _poll_each(client: TikMatrixClient, batch: Batch, noticed: Notices) -> None:
    still_open = list(batch.job_ids)
    while True:
        rows = [await client.get_job(job_id) for job_id in still_open]
        for row in rows:
            if row.status in ENDED:
                noticed(row.id)
        still_open = [row.id for row in rows if row.status not in ENDED]
        if not still_open:
            return
        await asyncio.sleep(INTERVAL_SECONDS)


async def vendor(tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices) -> None:
    async with tikmatrix.client() as client:
        await asyncio.gather(*(_poll_counters(client, batch, noticed) for batch in batches))


async def _poll_counters(client: TikMatrixClient, batch: Batch, noticed: Notices) -> None:
    while True:
        stats = await client.get_stats()
        if not stats.pending and not stats.running:
            break
        await asyncio.sleep(INTERVAL_SECONDS)
    await client.list_jobs(status=JobStatus.FAILED)
    for job_id in batch.job_ids:
        noticed(job_id)


def next_look(second: float) -> float:
    """The first multiple of the interval that is not before this second."""
    return math.ceil(second / INTERVAL_SECONDS) * INTERVAL_SECONDS


def counted_each(evening: Evening) -> Evening:
    """What `each` sends: every job is asked for at the beginning, and then until it has ended."""
    looks = (1 + next_look(end) / INTERVAL_SECONDS for end in evening.ends.values())
    return counted(evening, next_look, sum(looks))


def counted_limit(evening: Evening) -> Evening:
    looks = math.ceil(max(evening.ends.values()) / INTERVAL_SECONDS)
    pages = math.ceil(len(evening.ends) / MAX_PAGE_SIZE)
    return counted(evening, next_look, looks + pages)


def side_by_side(work: Work, *, most_sent: float) -> list[Figures]:
    """All four on the same work. `each` is counted where it would send more than `most_sent`."""
    ours_seen = evenings(ours, work)
    reckoned = partial(figures, work=work, counted=True)
    by_count = reckoned("each", seen=[counted_each(evening) for evening in ours_seen])
    if by_count.requests * work.evenings > most_sent:
        each_figures = by_count
    else:
        each_figures = figures("each", work, evenings(each, work))
    return [
        figures("ours", work, ours_seen),
        each_figures,
        figures("vendor", work, evenings(vendor, work)),
        reckoned("limit", seen=[counted_limit(evening) for evening in ours_seen]),
    ]
