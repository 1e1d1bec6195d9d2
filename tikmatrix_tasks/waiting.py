"""Following the jobs of a batch to their end.

A poll that fails says nothing about a job. A failed job is final only after a grace, because the
program's own Auto Retry revives jobs 5 to 60 s after they failed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tikmatrix_tasks.errors import (
    HttpStatusError,
    NoAnswerError,
    OverloadedError,
    TikMatrixError,
    TikMatrixUnreachable,
    WaitTimedOut,
)
from tikmatrix_tasks.jobs import Batch, Job, JobReport, JobStatus, Outcome, Report
from tikmatrix_tasks.retries import LONGEST_RETRY_AFTER_SECONDS, may_retry
from tikmatrix_tasks.rows import NEW_JOB_GRACE_SECONDS, owner_of
from tikmatrix_tasks.watcher import Watcher

Retry = Callable[[Sequence[int]], Awaitable[Sequence[int]]]
"""Runs failed jobs again, and says which of them do."""
OnChange = Callable[[str], None]
"""Told in a sentence whenever a job's status changed, or TikMatrix went away or came back."""

_SLOWER = 1.3  # after a poll that showed nothing new, the next one is this much later
_SOON_SECONDS = 0.05  # so that the end of a grace is past when it is looked at
_LAST_LOOK_SECONDS = 5.0  # how long a look may go on when the time is up
_JITTER = 0.2  # so that several waits do not ask at the same moments


@dataclass(frozen=True)
class Pace:
    """How often to look and how long to put up with silence, in seconds."""

    poll_interval_seconds: float = 2.0
    max_poll_interval_seconds: float = 15.0
    failure_grace_seconds: float = 65.0
    outage_budget_seconds: float = 900.0


async def follow(
    watcher: Watcher,
    batch: Batch,
    pace: Pace,
    *,
    timeout_seconds: float,
    retry_failed: int = 0,
    retry: Retry | None = None,
    on_change: OnChange = lambda sentence: None,
) -> Report:
    """Wait until every job of a batch has ended, and report what became of each.

    `retry` is called at most `retry_failed` times, each time with the jobs that have failed for
    good until then, and says which of them run again.

    Raises:
        WaitTimedOut: not all had ended after `timeout_seconds`.
        TikMatrixUnreachable: no answer for longer than the outage budget.
        UnknownJobStatus: a job shows a status that nobody documented.
        TikMatrixError: an answer that asking again cannot mend, such as 40301.
    """
    follower = _Follower(watcher, batch, pace, on_change)
    return await follower.run(timeout_seconds, retry_failed, retry)


class _Follower:
    def __init__(self, watcher: Watcher, batch: Batch, pace: Pace, on_change: OnChange) -> None:
        self._watcher, self._batch, self._pace, self._on_change = watcher, batch, pace, on_change
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._rows: dict[int, Job] = {}
        self._failed: dict[int, tuple[float, object]] = {}  # since when, and by which mark
        self._retried: dict[int, tuple[float, object]] = {}  # when, and its mark until then
        self._final: dict[int, Outcome] = {}
        self._moved = False

    async def run(self, timeout_seconds: float, retries: int, retry: Retry | None) -> Report:
        deadline = self._started + timeout_seconds
        pause, asked_pause = 0.0, 0.0
        silent_since: float | None = None
        while True:
            if len(self._final) == len(self._batch.job_ids):
                failed = [job for job, how in self._final.items() if how is Outcome.FAILED]
                if retry is None or not retries or not failed:
                    return self.report()
                retries -= 1
                self._open_again(await retry(failed))
                continue
            self._moved = False
            left = max(deadline - self._now(), 0.0)
            jittered = pause * random.uniform(1 - _JITTER, 1 + _JITTER)
            try:
                await self._look(min(max(jittered, asked_pause), left), left)
            except TikMatrixError as err:
                # Also an HTTP error page: a look that fails says nothing about a job.
                if not may_retry(err, "read") and not isinstance(err, HttpStatusError):
                    raise
                asked = err.retry_after_seconds if isinstance(err, OverloadedError) else None
                asked_pause = min(asked or 0.0, LONGEST_RETRY_AFTER_SECONDS)
                if silent_since is None:
                    silent_since = self._now()
                    self._on_change(f"no answer from TikMatrix, asking on: {err}")
                elif self._now() - silent_since >= self._pace.outage_budget_seconds:
                    raise TikMatrixUnreachable(self._silence(err), self.report()) from err
            else:
                asked_pause = 0.0
                if silent_since is not None:
                    silent_since = None
                    self._on_change("TikMatrix answers again")
            if left == 0 and len(self._final) < len(self._batch.job_ids):
                raise WaitTimedOut(self._overdue(timeout_seconds), self.report())
            slower = max(pause * _SLOWER, self._pace.poll_interval_seconds)
            pause = self._pace.poll_interval_seconds if self._moved else slower
            pause = min(pause, self._pace.max_poll_interval_seconds)

    def _open_again(self, job_ids: Sequence[int]) -> None:
        for job_id in job_ids:
            del self._final[job_id]
            self._retried[job_id] = (self._now(), _mark(self._rows[job_id]))
            self._on_change(f"job {job_id} runs again")

    async def _look(self, within_seconds: float, left: float) -> None:
        open_ids = [job_id for job_id in self._batch.job_ids if job_id not in self._final]
        graces = [self._grace_left(job_id) for job_id in self._failed]
        soonest = min((grace for grace in graces if grace > 0), default=within_seconds)
        within_seconds = min(within_seconds, max(soonest, _SOON_SECONDS))
        # Until a grace ends, asking about that job changes nothing, unless nothing else is asked.
        wanted = [job_id for job_id in open_ids if self._grace_left(job_id) <= within_seconds]
        look = self._watcher.look(
            wanted or open_ids, self._batch.script_name, within_seconds=within_seconds
        )
        try:
            rows = await asyncio.wait_for(look, left + _LAST_LOOK_SECONDS)
        except asyncio.TimeoutError:  # not the builtin one before Python 3.11
            raise NoAnswerError("look at jobs", "not whole when the time was up") from None
        failures = [row for row in rows.values() if isinstance(row, TikMatrixError)]
        for job_id, job in rows.items():
            if isinstance(job, TikMatrixError):
                continue
            if job is not None:
                self._saw(job)
            elif job_id in self._rows or self._now() - self._started >= NEW_JOB_GRACE_SECONDS:
                self._end(job_id, Outcome.GONE)
        if failures:
            raise failures[0]

    def _saw(self, job: Job) -> None:
        status = job.known_status
        before = self._rows.get(job.id)
        self._rows[job.id] = job
        if before is None or before.status != status:
            self._moved = True
            if status in (JobStatus.RUNNING, JobStatus.FAILED):
                self._tell(job)
        if status is JobStatus.COMPLETED:
            self._end(job.id, Outcome.COMPLETED)
        elif status is JobStatus.FAILED:
            mark = _mark(job)
            retried_at, old_mark = self._retried.get(job.id, (-NEW_JOB_GRACE_SECONDS, None))
            just_retried = self._now() - retried_at < NEW_JOB_GRACE_SECONDS
            if just_retried and mark == old_mark:
                return  # the row of before the retry
            since, known_mark = self._failed.get(job.id, (self._now(), mark))
            self._failed[job.id] = (since if mark == known_mark else self._now(), mark)
            if self._grace_left(job.id) <= 0:
                self._end(job.id, Outcome.FAILED)
        else:
            self._failed.pop(job.id, None)

    def _end(self, job_id: int, outcome: Outcome) -> None:
        self._final[job_id] = outcome
        self._failed.pop(job_id, None)
        self._moved = True
        if outcome is not Outcome.FAILED:  # a failure was told when it was seen
            self._on_change(str(self._report_on(job_id)))

    def _tell(self, job: Job) -> None:
        waits = job.status == JobStatus.FAILED and self._pace.failure_grace_seconds > 0
        grace = f"; final in {self._pace.failure_grace_seconds:g} s" if waits else ""
        self._on_change(f"{self._report_on(job.id)}{grace}")

    def _grace_left(self, job_id: int) -> float:
        if job_id not in self._failed:
            return 0.0
        since, _ = self._failed[job_id]
        return since + self._pace.failure_grace_seconds - self._now()

    def _silence(self, err: TikMatrixError) -> str:
        return (
            f"no answer from TikMatrix for {self._pace.outage_budget_seconds:g} s ({err}). "
            f"Its jobs may go on; last known: {self.report()}"
        )

    def _overdue(self, timeout_seconds: float) -> str:
        return f"not ended after {timeout_seconds:g} s: {self.report()}"

    def report(self) -> Report:
        known = [self._report_on(job_id) for job_id in self._batch.job_ids]
        missing = max(0, (self._batch.expected_jobs or 0) - len(known))
        seen = {job.owner for job in known}
        without = [owner for owner in self._batch.owners if owner not in seen]
        owners: list[str | None] = [*without] if len(without) == missing else [None] * missing
        script = self._batch.script_name
        return Report(
            jobs=(
                *known,
                *(
                    JobReport(script_name=script, outcome=Outcome.NOT_CREATED, owner=owner)
                    for owner in owners
                ),
            )
        )

    def _report_on(self, job_id: int) -> JobReport:
        outcome = self._final.get(job_id)
        row = self._rows.get(job_id)
        script = self._batch.script_name
        if row is None:
            owner = self._batch.owners[0] if len(self._batch.owners) == 1 else None
            return JobReport(
                job_id=job_id, script_name=script, outcome=outcome or Outcome.UNKNOWN, owner=owner
            )
        ran = row.end_time - row.start_time if row.start_time and row.end_time else None
        return JobReport(
            job_id=job_id,
            script_name=script or row.script_name,
            outcome=outcome or Outcome(row.known_status.name.lower()),
            owner=owner_of(row, self._batch),
            remark=row.remark,
            retry_count=row.retry_count,
            seconds=None if ran is None else ran.total_seconds(),
        )


def _mark(job: Job) -> object:
    """What changes when a job fails once more."""
    return (job.retry_count, job.end_time)
