"""Knowing where every awaited job stands, for as few requests as possible.

A look asks no more than it must, in this order:

1. `stats`: when no counter moved, nothing happened, and that was all;
2. what is running: a phone runs one job at a time, so these pages are few however long the queue;
3. what is pending: only when more jobs ended than were seen running, or fewer are pending than are
   believed to be;
4. the row of each job that is not where it was last seen, or pages of completed jobs where many
   left at once.

Counters can stay equal although jobs moved (one fails while another is revived), so now and then
the pages are read in place of the counters. A TikMatrix without usable counters is asked what is
running every time.

Polling each open job by itself is the measure: a question that may turn out to be in vain is asked
only from what earlier looks saved compared with that. With one job, or few, that comes to polling.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass

from tikmatrix_tasks.client import MAX_PAGE_SIZE, TikMatrixClient
from tikmatrix_tasks.errors import (
    NotSentError,
    OverloadedError,
    PlanError,
    TikMatrixError,
)
from tikmatrix_tasks.jobs import Job, JobStatus, Stats
from tikmatrix_tasks.retries import may_retry
from tikmatrix_tasks.rows import RowOrError, row_or_none

RUNNING_CHECK_LOOKS = 10
PENDING_CHECK_LOOKS = 30
"""So many looks by counters go by for each page of running, or of pending, jobs that is read to
check on them."""
_NEW_CHECK_LOOKS = 3  # jobs that were just created are checked on this soon
_COUNTERS_AGAIN_LOOKS = 100  # counters that failed or contradicted the pages are not asked so long
_LOAN = 2  # requests, or for each ten jobs one: nothing is saved yet at the start
_MANY = 4  # jobs that left at once: from here on a page of completed jobs may be cheaper
_BURST = 50  # so many that a page in vain does not matter
_PAGES_IN_VAIN = 3
_FAILURES_IN_A_ROW = 3


@dataclass
class Look:
    """What a look brought. With a `failure` it is not whole, which says nothing about any job."""

    rows: dict[int, RowOrError]
    """Of jobs whose row changed, or was asked for by itself."""
    failure: TikMatrixError | None = None
    whole: bool = False
    """Whether every job was looked at, and nothing inferred from counters."""


class Tracker:
    """Where certain jobs stood at the last look."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job | None] = {}
        """Each job that is followed, as its row was last seen."""
        self._with_status: defaultdict[int, set[int]] = defaultdict(set)
        self._unsure: set[int] = set()
        """Jobs whose own row has to be read."""
        self._asked: set[int] = set()
        """Jobs whose row is wanted, changed or not."""
        self._unreadable: set[int] = set()
        self._rows: dict[int, RowOrError] = {}

        self._stats: Stats | None = None
        self._running: set[int] | None = None
        """All that ran at the last reading of pages, also other people's."""
        self._left_running = 0  # how many of those left since the counters were last read
        self._left_early = 0  # of those, how many the counters then had not counted yet
        self._unseen = 0  # jobs that ended without having been seen to run, ours or other people's
        self._doubt = 0  # grows by that number with each look until pending jobs are read
        self._looks_since = {JobStatus.RUNNING: 0, JobStatus.PENDING: 0}
        self._pages = {JobStatus.RUNNING: 1, JobStatus.PENDING: 1}
        self._was_still = False  # nothing moved at the last look
        self._without_counters = 0  # for so many looks
        self._counters_failed = 0  # times in a row

        self._saved = 0  # requests, compared with polling each open job
        self._pages_in_vain = _PAGES_IN_VAIN

    def follow(self, job_ids: Iterable[int], *, just_created: bool = False) -> None:
        """Follow these jobs, too. Those just created are taken to be pending without asking."""
        for job_id in job_ids:
            if job_id in self._jobs:
                continue
            self._jobs[job_id] = None
            if just_created:
                self._with_status[JobStatus.PENDING].add(job_id)
            else:
                self._unsure.add(job_id)
        if just_created:
            soon = PENDING_CHECK_LOOKS - _NEW_CHECK_LOOKS
            looks = self._looks_since[JobStatus.PENDING]
            self._looks_since[JobStatus.PENDING] = max(looks, soon)

    def ask(self, job_ids: Iterable[int]) -> None:
        """Read the rows of these jobs at the next look, changed or not."""
        followed = [job_id for job_id in job_ids if job_id in self._jobs]
        self._unsure.update(followed)
        self._asked.update(followed)

    def seen(self, job_ids: Iterable[int]) -> dict[int, Job]:
        """Those of these jobs that were seen already, as they were then."""
        known = {job_id: self._jobs.get(job_id) for job_id in job_ids}
        return {job_id: job for job_id, job in known.items() if job is not None}

    def forget(self, job_ids: Iterable[int]) -> None:
        """Follow these jobs no more."""
        for job_id in job_ids:
            self._with_status[_status(self._jobs.pop(job_id, None))].discard(job_id)
            for some in (self._unsure, self._asked, self._unreadable):
                some.discard(job_id)

    async def look(self, client: TikMatrixClient, *, whole: bool = False) -> Look:
        """Look once. A `whole` look leaves nothing to inference."""
        self._client, self._sent_before = client, client.requests_sent
        self._rows = {}
        self._saved += len(self._jobs)
        self._looks_since = {status: looks + 1 for status, looks in self._looks_since.items()}
        self._without_counters = max(0, self._without_counters - 1)
        failure = None
        try:
            await self._survey(whole)
            await self._read_unsure()
        except TikMatrixError as err:
            failure = err
        self._settle_account()
        rows, self._rows = self._rows, {}
        return Look(rows, failure, whole)

    async def _survey(self, whole: bool) -> None:
        """Find out, if possible without their rows, which jobs are still where they were."""
        if whole:
            self._unsure.update(self._jobs)
        if len(self._jobs) <= 1 or not self._can_spare(1):
            self._unsure.update(self._jobs)
        elif len(self._unsure) > (pages := sum(self._pages.values())) and self._can_spare(pages):
            await self._read_pages(JobStatus.RUNNING)
            await self._read_pages(JobStatus.PENDING)
        elif len(self._unsure) == len(self._jobs):
            pass
        elif (due := self._check_due()) is not None:
            await self._read_pages(due)
        else:
            self._was_still = False
            await self._ask_what_moved()

    def _check_due(self) -> JobStatus | None:
        """Which pages are to be read in place of the counters this time.

        Pages of pending jobs tell late what ended meanwhile, so they are read while all is still,
        or when that does not come about.
        """
        for status, looks in (
            (JobStatus.RUNNING, RUNNING_CHECK_LOOKS),
            (JobStatus.PENDING, PENDING_CHECK_LOOKS * (1 if self._was_still else 2)),
        ):
            pages = self._pages[status]
            due = self._looks_since[status] >= looks * pages and self._with_status[status]
            if due and self._can_spare(pages):
                return status
        return None

    async def _ask_what_moved(self) -> None:
        stats = await self._count()
        if stats is None and len(self._jobs) <= self._pages[JobStatus.RUNNING] + 1:
            self._unsure.update(self._jobs)
            return
        if stats is None:
            await self._read_pages(JobStatus.RUNNING)
            pages = self._pages[JobStatus.PENDING]
            if self._looks_since[JobStatus.PENDING] >= pages and self._can_spare(pages):
                await self._read_pages(JobStatus.PENDING)
            return
        if stats == self._stats and not self._unseen and not self._contradicts(stats):
            self._was_still = True
            return
        self._pages[JobStatus.RUNNING] = _pages(stats.running)
        self._pages[JobStatus.PENDING] = _pages(stats.pending)
        pages = self._pages[JobStatus.RUNNING]
        if len(self._jobs) <= pages + 1 or not self._can_spare(pages):
            self._unsure.update(self._jobs)
            self._running, self._left_running, self._left_early = None, 0, 0
        else:
            await self._read_pages(JobStatus.RUNNING)
            await self._look_for_unseen(stats)
        self._stats = stats

    async def _look_for_unseen(self, stats: Stats) -> None:
        """Jobs may have started and ended between two looks: then pending ones are none any more.

        Their pages are read once there are as many such jobs as pages, or as many looks with one.
        """
        if self._stats is not None:
            ended = stats.completed + stats.failed - self._stats.completed - self._stats.failed
            unaccounted = ended - self._left_running - self._left_early
            self._left_early = max(0, min(-unaccounted, self._left_running))
            self._unseen += max(0, unaccounted)
        self._left_running = 0
        contradicted = self._contradicts(stats)
        if contradicted:
            self._unseen = max(self._unseen, 1)
        if not self._unseen:
            return
        self._doubt += self._unseen
        pages = self._pages[JobStatus.PENDING]
        if len(self._with_status[JobStatus.PENDING]) <= pages:
            self._unsure |= self._with_status[JobStatus.PENDING]
            self._unseen, self._doubt = 0, 0
        elif self._doubt >= pages and self._can_spare(pages):
            await self._read_pages(JobStatus.PENDING)
            if contradicted and self._contradicts(stats):
                self._without_counters = _COUNTERS_AGAIN_LOOKS

    def _contradicts(self, stats: Stats) -> bool:
        """Whether the counters are below what our own jobs alone would come to."""
        return (
            len(self._with_status[JobStatus.PENDING] - self._unsure) > stats.pending
            or len(self._with_status[JobStatus.RUNNING] - self._unsure) > stats.running
        )

    async def _count(self) -> Stats | None:
        """The counters; None where TikMatrix has none that are of use."""
        if self._without_counters:
            return None
        try:
            stats = await self._client.get_stats()
        except (NotSentError, OverloadedError, PlanError):
            raise
        except TikMatrixError as err:
            self._counters_failed += 1
            if self._counters_failed >= _FAILURES_IN_A_ROW or not may_retry(err, "read"):
                self._without_counters = _COUNTERS_AGAIN_LOOKS
            return None
        self._counters_failed = 0
        return stats

    async def _read_pages(self, status: JobStatus) -> None:
        """Read all jobs with a status. Ours that are missing there have to be asked for."""
        seen: set[int] = set()
        sent = self._client.requests_sent
        async for job in self._client.iter_jobs(status=status):
            seen.add(job.id)
            self._saw(job)
        self._unsure |= self._with_status[status] - seen
        self._looks_since[status] = 0
        self._pages[status] = max(self._client.requests_sent - sent, 1)
        if status is JobStatus.RUNNING:
            before = self._with_status[status] if self._running is None else self._running
            self._left_running += len(before - seen)
            self._running = seen
        else:
            self._unseen, self._doubt = 0, 0

    async def _read_unsure(self) -> None:
        if len(self._unsure) >= _MANY:
            await self._read_completed()
        failures = 0
        # Those that could not be read come last, lest they keep the others from being read.
        for job_id in sorted(self._unsure, key=lambda job_id: (job_id in self._unreadable, job_id)):
            if job_id not in self._jobs:
                continue
            try:
                job = await row_or_none(self._client, job_id)
            except (NotSentError, OverloadedError, PlanError):
                raise
            except TikMatrixError as err:
                self._rows[job_id] = err
                self._unreadable.add(job_id)
                failures += 1
                if failures >= _FAILURES_IN_A_ROW:
                    raise
                continue
            failures = 0
            self._unreadable.discard(job_id)
            if job is None:
                self._rows[job_id] = None  # asked again until whoever follows it lets it go
            else:
                self._saw(job)

    async def _read_completed(self) -> None:
        """Find many at once among the newest completed jobs, as long as that pays."""
        worth_it = self._pages_in_vain > 0 or len(self._unsure) >= _BURST
        if not worth_it or not self._can_spare(1):
            return
        sent = self._client.requests_sent
        found_in_all = 0
        async for page in _newest_completed(self._client):
            found = [job for job in page if job.id in self._unsure]
            for job in found:
                self._saw(job)
            found_in_all += len(found)
            if len(found) < 2 or not self._unsure:
                break
        saved = found_in_all - (self._client.requests_sent - sent)
        self._pages_in_vain = min(self._pages_in_vain + saved, _PAGES_IN_VAIN)

    def _saw(self, job: Job) -> None:
        self._unsure.discard(job.id)
        if job.id not in self._jobs:
            return
        before = self._jobs[job.id]
        if before is None or before.mark != job.mark or job.id in self._asked:
            self._with_status[_status(before)].discard(job.id)
            self._with_status[job.status].add(job.id)
            self._jobs[job.id] = self._rows[job.id] = job
            self._asked.discard(job.id)

    def _can_spare(self, requests: int) -> bool:
        """Whether so many requests may be in vain: each open job can be asked for all the same."""
        self._settle_account()
        loan = max(_LOAN, len(self._jobs) // 10)
        return self._saved + loan - requests >= len(self._jobs)

    def _settle_account(self) -> None:
        self._saved -= self._client.requests_sent - self._sent_before
        self._sent_before = self._client.requests_sent


async def _newest_completed(client: TikMatrixClient) -> AsyncIterator[Collection[Job]]:
    """Pages of completed jobs, those with the highest ids first; none where the order is neither.

    The order of rows is not documented. Where the oldest come first, `total` tells the last page.
    """
    first = await client.list_jobs(status=JobStatus.COMPLETED, page_size=MAX_PAGE_SIZE)
    ids = [job.id for job in first.jobs]
    pages = math.inf if first.total is None else _pages(first.total)
    if ids == sorted(ids, reverse=True) or pages == 1:
        yield first.jobs
        page, step = 2, 1
    elif ids == sorted(ids) and first.total is not None:
        page, step = _pages(first.total), -1
    else:
        return
    while 1 < page <= pages:
        rows = await client.list_jobs(
            status=JobStatus.COMPLETED, page=page, page_size=MAX_PAGE_SIZE
        )
        yield rows.jobs
        page += step
    if step < 0:
        yield first.jobs


def _pages(rows: int) -> int:
    return max(1, math.ceil(rows / MAX_PAGE_SIZE))


def _status(job: Job | None) -> int:
    """A job that was not seen yet, if it was just created, counts as pending."""
    return JobStatus.PENDING if job is None else job.status
