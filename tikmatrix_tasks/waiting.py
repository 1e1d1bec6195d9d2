"""Following the jobs of a batch to their end.

A poll that fails says nothing about a job. A failed job is final only after a grace, because the
program's own Auto Retry revives jobs 5 to 60 s after they failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from tikmatrix_tasks.cadence import Cadence
from tikmatrix_tasks.errors import (
    HttpStatusError,
    TikMatrixError,
    TikMatrixUnreachable,
    WaitTimedOut,
)
from tikmatrix_tasks.jobs import (
    Batch,
    Job,
    JobReport,
    JobStatus,
    Outcome,
    Report,
    tell_ids,
    tell_names,
)
from tikmatrix_tasks.retries import may_retry
from tikmatrix_tasks.rows import NEW_JOB_GRACE_SECONDS, owner_of
from tikmatrix_tasks.tracker import Look
from tikmatrix_tasks.watcher import Watch, Watcher

Retry = Callable[[Sequence[int]], Awaitable[Sequence[int]]]
"""Runs failed jobs again, and says which of them do."""
OnChange = Callable[[str], None]
"""Told in a sentence whenever a job's status changed, or TikMatrix went away or came back. What
several jobs did at the same time is one sentence."""
OnJobs = Callable[[Sequence[JobReport]], None]
"""Told how jobs stand: all of them when the wait begins, then those that changed."""
OnEnded = Callable[[Sequence[JobReport]], None]
"""Told of jobs that have ended, once each, when nothing will run them again: no Auto Retry, and no
retry of this wait."""
OnSilence = Callable[[TikMatrixError | None], None]
"""Told why TikMatrix gives no answer, once, and None when it answers again."""

_LAST_LOOK_SECONDS = 5.0  # how long a look may go on when the time is up
_JUST_CREATED_SECONDS = 10.0  # TikMatrix takes up to so long to pick a job up
_ROUNDING = 0.001  # seconds by which a timer may be early
_TOLD_APART = 3  # up to so many jobs that do the same at the same time get a sentence each
_NAMED = 10  # of more, so many are named

DAY_SECONDS = 24 * 3600.0


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
    on_jobs: OnJobs = lambda jobs: None,
    on_ended: OnEnded = lambda jobs: None,
    on_silence: OnSilence = lambda why: None,
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
    now = asyncio.get_running_loop().time()
    cadence = Cadence(pace.poll_interval_seconds, pace.max_poll_interval_seconds)
    cadence.mark(now)
    if batch.start_time is not None:
        cadence.mark(now + _seconds_until(batch.start_time))
    with watcher.watch(batch.job_ids, cadence, just_created=_is_new(batch)) as watch:
        follower = _Follower(watch, batch, pace, on_change, on_jobs, on_ended, on_silence)
        try:
            return await follower.run(timeout_seconds, retry_failed, retry)
        finally:
            follower.tell_ended(failures=True)


def _is_new(batch: Batch) -> bool:
    if batch.created_at is None:
        return False
    age = (datetime.now(timezone.utc) - batch.created_at).total_seconds()
    return 0 <= age < _JUST_CREATED_SECONDS


def _seconds_until(start_time: str) -> float:
    """By this machine's clock. TikMatrix's may differ, then looks are less well spread."""
    hour, minute = map(int, start_time.split(":"))
    now = datetime.now()
    start = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (start - now).total_seconds() % DAY_SECONDS


@dataclass(slots=True)
class _Seen:
    """What is kept of a job's row: a batch may hold ten thousand."""

    status: JobStatus
    mark: object
    owner: str | None
    serial: str | None
    username: str | None
    script_name: str | None
    remark: str | None
    retry_count: int | None
    seconds: float | None

    @classmethod
    def of(cls, job: Job, batch: Batch) -> _Seen:
        return cls(
            status=job.known_status,
            mark=job.mark,
            owner=owner_of(job, batch),
            serial=job.serial,
            username=job.username,
            script_name=job.script_name,
            remark=job.remark,
            retry_count=job.retry_count,
            seconds=job.seconds,
        )


class _Follower:
    def __init__(
        self,
        watch: Watch,
        batch: Batch,
        pace: Pace,
        on_change: OnChange,
        on_jobs: OnJobs,
        on_ended: OnEnded,
        on_silence: OnSilence,
    ) -> None:
        self._watch, self._batch, self._pace = watch, batch, pace
        self._on_change, self._on_jobs, self._on_silence = on_change, on_jobs, on_silence
        self._on_ended = on_ended
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._seen: dict[int, _Seen] = {}
        self._failed: dict[int, tuple[float, object]] = {}  # since when, and by which mark
        self._grace_over: set[int] = set()  # of those, whose row has been asked for since
        self._retried: dict[int, tuple[float, object]] = {}  # when, and its mark until then
        self._final: dict[int, Outcome] = {}
        self._to_tell_ended: dict[int, None] = {}
        self._retries_left = False
        self._silent_since: float | None = None
        self._changed: dict[int, None] = {}  # by this look, in order
        self._to_tell: dict[int, str] = {}  # of those, which get a sentence, and how that ends

    async def run(self, timeout_seconds: float, retries: int, retry: Retry | None) -> Report:
        deadline = self._started + timeout_seconds
        self._on_jobs(self.report().jobs)
        while True:
            self._retries_left = retry is not None and retries > 0
            if len(self._final) == len(self._batch.job_ids):
                failed = [job for job, how in self._final.items() if how is Outcome.FAILED]
                if retry is None or not retries or not failed:
                    return self.report()
                retries -= 1
                self._open_again(await retry(failed))
                continue
            look = await self._watch.news(self._patience(deadline))
            if look is not None:
                self._take(look)
            elif self._now() < deadline - _ROUNDING:
                self._end_graces()
            else:
                await self._last_look()
                if len(self._final) < len(self._batch.job_ids):
                    raise WaitTimedOut(self._overdue(timeout_seconds), self.report())

    def _patience(self, deadline: float) -> float:
        """Seconds until the deadline, or until a failure becomes final."""
        ends = [self._grace_end(job) for job in self._failed if job not in self._grace_over]
        return max(min([deadline, *ends]) - self._now(), 0)

    async def _last_look(self) -> None:
        """The time is up: what is reported is to be the truth of now, if it can be had."""
        look_by = self._now() + _LAST_LOOK_SECONDS
        self._watch.hurry()
        look: Look | None = Look({})
        while look is not None and not look.whole:
            look = await self._watch.news(max(look_by - self._now(), 0))
            if look is not None:
                self._take(look)

    def _take(self, look: Look) -> None:
        failures: list[TikMatrixError] = [] if look.failure is None else [look.failure]
        for job_id, row in look.rows.items():
            if job_id in self._final:
                continue
            if isinstance(row, Job):
                self._saw(row)
            elif isinstance(row, TikMatrixError):
                failures.append(row)
            elif job_id in self._seen or self._now() - self._started >= NEW_JOB_GRACE_SECONDS:
                self._end(job_id, Outcome.GONE)
        self._tell_changes()
        if failures:
            self._missed(failures[0])
        elif self._silent_since is not None:
            self._silent_since = None
            self._on_change("TikMatrix answers again")
            self._on_silence(None)

    def _tell_changes(self) -> None:
        if not self._changed:
            return
        alike: dict[tuple[str, str], list[JobReport]] = {}
        reports = {job_id: self._report_on(job_id) for job_id in self._changed}
        for job_id, ending in self._to_tell.items():
            job = reports[job_id]
            alike.setdefault((job.what, ending), []).append(job)
        self._on_jobs(list(reports.values()))
        for (_, ending), jobs in alike.items():
            for sentence in _sentences(jobs):
                self._on_change(f"{sentence}{ending}")
        self._changed, self._to_tell = {}, {}
        self.tell_ended(failures=not self._retries_left)

    def tell_ended(self, *, failures: bool) -> None:
        """Tell of what has ended, without `failures` only of what did not fail."""
        ended = [
            job for job in self._to_tell_ended if failures or self._final[job] is not Outcome.FAILED
        ]
        for job_id in ended:
            del self._to_tell_ended[job_id]
        if ended:
            self._on_ended([self._report_on(job_id) for job_id in ended])

    def _missed(self, err: TikMatrixError) -> None:
        """A look that fails, also with an HTTP error page, says nothing about a job."""
        if not may_retry(err, "read") and not isinstance(err, HttpStatusError):
            raise err
        if self._silent_since is None:
            self._silent_since = self._now()
            self._on_change(f"no answer from TikMatrix, asking on: {err}")
            self._on_silence(err)
        elif self._now() - self._silent_since >= self._pace.outage_budget_seconds:
            raise TikMatrixUnreachable(self._silence(err), self.report()) from err

    def _open_again(self, job_ids: Sequence[int]) -> None:
        for job_id in job_ids:
            del self._final[job_id]
            self._to_tell_ended.pop(job_id, None)
            self._retried[job_id] = (self._now(), self._seen[job_id].mark)
            self._on_change(f"job {job_id} runs again")
        self._watch.add(job_ids)

    def _end_graces(self) -> None:
        """Ask about failed jobs that nothing has revived in time."""
        over = {job for job in self._failed if self._now() >= self._grace_end(job) - _ROUNDING}
        self._watch.ask(over - self._grace_over)
        self._grace_over |= over

    def _grace_end(self, job_id: int) -> float:
        since, _ = self._failed[job_id]
        return since + self._pace.failure_grace_seconds

    def _saw(self, job: Job) -> None:
        seen = _Seen.of(job, self._batch)
        before = self._seen.get(job.id)
        self._seen[job.id] = seen
        if before is None or before.status != seen.status:
            self._changed[job.id] = None
            if seen.status in (JobStatus.RUNNING, JobStatus.FAILED):
                self._tell(job.id)
            if seen.status is JobStatus.RUNNING and self._batch.expected_seconds is not None:
                self._watch.cadence.mark(self._now() + self._batch.expected_seconds)
        if seen.status is JobStatus.COMPLETED:
            self._end(job.id, Outcome.COMPLETED)
        elif seen.status is JobStatus.FAILED:
            self._saw_failed(job.id, seen.mark)
        else:
            self._failed.pop(job.id, None)
            self._grace_over.discard(job.id)

    def _saw_failed(self, job_id: int, mark: object) -> None:
        retried_at, old_mark = self._retried.get(job_id, (-NEW_JOB_GRACE_SECONDS, None))
        if self._now() - retried_at < NEW_JOB_GRACE_SECONDS and mark == old_mark:
            self._watch.ask([job_id])  # this is still the row of before the retry
            return
        since, known_mark = self._failed.get(job_id, (self._now(), mark))
        self._failed[job_id] = (since if mark == known_mark else self._now(), mark)
        self._grace_over.discard(job_id)
        if self._now() >= self._grace_end(job_id) - _ROUNDING:
            self._end(job_id, Outcome.FAILED)
        else:
            self._watch.cadence.mark(self._grace_end(job_id))

    def _end(self, job_id: int, outcome: Outcome) -> None:
        self._final[job_id] = outcome
        self._failed.pop(job_id, None)
        self._grace_over.discard(job_id)
        self._watch.forget([job_id])
        self._changed[job_id] = self._to_tell_ended[job_id] = None
        if outcome is not Outcome.FAILED:  # a failure was told when it was seen
            self._to_tell[job_id] = ""

    def _tell(self, job_id: int) -> None:
        failed = self._seen[job_id].status is JobStatus.FAILED
        waits = failed and self._pace.failure_grace_seconds > 0
        self._to_tell[job_id] = (
            f"; final in {self._pace.failure_grace_seconds:g} s" if waits else ""
        )

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
        seen = self._seen.get(job_id)
        script = self._batch.script_name
        if seen is None:
            owner = self._batch.owners[0] if len(self._batch.owners) == 1 else None
            return JobReport(
                job_id=job_id, script_name=script, outcome=outcome or Outcome.UNKNOWN, owner=owner
            )
        return JobReport(
            job_id=job_id,
            script_name=script or seen.script_name,
            outcome=outcome or Outcome(seen.status.name.lower()),
            owner=seen.owner,
            remark=seen.remark,
            retry_count=seen.retry_count,
            seconds=seen.seconds,
            serial=seen.serial,
            username=seen.username,
        )


def _sentences(jobs: Sequence[JobReport]) -> list[str]:
    """What jobs of which the same is to be told did."""
    if len(jobs) <= _TOLD_APART:
        return [f"{job} [job {job.job_id}]" for job in jobs]
    owners = list(dict.fromkeys(job.owner or f"job {job.job_id}" for job in jobs))
    ids = tell_ids(job.job_id for job in jobs if job.job_id is not None)
    return [f"{jobs[0].what} on {tell_names(owners, _NAMED)} [jobs {ids}]"]
