"""Running jobs that must be told apart, each submitted by itself.

A row of TikMatrix need not tell a job's target or settings, so what became of the third post of a
table, or of one user on one phone, is known for certain only where each is a submission of its own.

A job with a `once_key` is done once ever: what became of it is kept, and later runs report it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.errors import (
    InvalidRequest,
    NotSentError,
    PlanError,
    SubmissionInDoubt,
    TikMatrixError,
)
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import Batch, JobReport, Outcome, Report
from tikmatrix_tasks.ledger import Kept
from tikmatrix_tasks.observability import report_of
from tikmatrix_tasks.runs import outermost_run
from tikmatrix_tasks.submission_keys import once_submission_key
from tikmatrix_tasks.tasks import as_ended, delete_jobs, submit_jobs, submitted_to, wait_for_jobs

FINAL = (Outcome.COMPLETED, Outcome.FAILED)


@dataclass(frozen=True)
class EachJob:
    """A request for one job, and what a person calls it."""

    name: str
    request: JobRequest
    once_key: str | None = None

    @property
    def owner(self) -> str:
        return self.request.owners[0]

    def report(self, outcome: Outcome, remark: str | None = None, **known: Any) -> JobReport:
        """That this became of it."""
        return JobReport(
            name=self.name,
            script_name=self.request.script.name,
            owner=self.owner,
            outcome=outcome,
            remark=remark,
            **known,
        )


@dataclass(frozen=True)
class _Past:
    """What is kept of a job: its latest attempt, of whichever run."""

    attempt: int = 1
    batch: Batch | None = None
    in_doubt: bool = False
    """It was about to be submitted; what came of that is not known yet."""
    end: JobReport | None = None
    ours: bool = False
    """This very run submitted it, and is being run again."""

    @property
    def is_new(self) -> bool:
        return self.batch is None and not self.in_doubt


def run_each_job(
    jobs: Sequence[EachJob],
    *,
    timeout_seconds: float | None = None,
    on_timeout: Literal["stop", "leave"] = "stop",
    retry_failed: int = 0,
    repeat_failed: bool = False,
    max_jobs: int | None = None,
    dry_run: bool = False,
    tikmatrix: TikMatrix | None = None,
) -> Report:
    """Submit each job by itself, wait until all have ended, and report on each, in their order.

    What was done in an earlier run is reported with `earlier`. With `repeat_failed` a job that
    failed in an earlier run is deleted, so that nobody can run it as well, and submitted anew.
    A failure with one job is its own; when TikMatrix is closed or refuses its plan, none is
    submitted after it. `dry_run` sends nothing.

    Raises:
        InvalidRequest: more than `max_jobs` would be created; nothing was sent.
    """
    waiting: dict[str, Any] = {
        "timeout_seconds": timeout_seconds,
        "on_timeout": on_timeout,
        "retry_failed": retry_failed,
        "tikmatrix": tikmatrix,
    }
    allowed = max_jobs or (tikmatrix or TikMatrix()).settings.max_jobs
    each = _Each(jobs, waiting, tikmatrix)
    each.refuse_above(allowed, repeat_failed=repeat_failed)
    if dry_run:
        return each.report_plan(repeat_failed=repeat_failed)
    each.run()
    if repeat_failed:
        each.repeat_failed()
    return each.report()


@dataclass
class _Each:
    jobs: Sequence[EachJob]
    waiting: dict[str, Any]
    tikmatrix: TikMatrix | None
    reports: dict[str, JobReport] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    """The jobs' latest attempts, those that were submitted."""

    def __post_init__(self) -> None:
        run = outermost_run()
        self.run_id = None if run is None else run.id
        self.kept = Kept()
        self.past: Mapping[str, _Past] = run_blocking(_look_back(self.kept, self.jobs, self.run_id))

    def refuse_above(self, allowed: int, *, repeat_failed: bool) -> None:
        new = sum(self._would_send(job, repeat_failed) for job in self.jobs)
        if new > allowed:
            raise InvalidRequest(
                "max_jobs", f"{new} jobs would be created; at most {allowed} are allowed"
            )

    def _would_send(self, job: EachJob, repeat_failed: bool) -> bool:
        past = self.past[job.name]
        failed = past.end is not None and past.end.outcome is Outcome.FAILED
        return past.is_new or (repeat_failed and failed and not past.ours)

    def report_plan(self, *, repeat_failed: bool) -> Report:
        reports = []
        for job in self.jobs:
            past = self.past[job.name]
            if self._would_send(job, repeat_failed):
                reports.append(job.report(Outcome.NOT_STARTED, "dry run"))
            elif past.end is not None:
                reports.append(past.end)
            else:
                why = "an earlier run submitted it; what became of it is looked up when it is run"
                reports.append(job.report(Outcome.UNKNOWN, why, earlier=True))
        return Report(jobs=tuple(reports))

    def run(self) -> None:
        todo = []
        for job in self.jobs:
            end = self.past[job.name].end
            if end is not None and end.outcome is Outcome.COMPLETED:
                self.reports[job.name] = end
            else:
                todo.append(job)
        self._attach(todo)
        self._submit(todo)
        self._wait([job for job in todo if job.name in self.batches])

    def repeat_failed(self) -> None:
        """Submit those anew that failed in an earlier run, and still show as failed or are gone."""
        again = []
        for job in self.jobs:
            past = self.past[job.name]
            failed = self.reports[job.name].outcome is Outcome.FAILED
            if not failed or past.ours or past.batch is None:
                continue
            try:
                delete_jobs(past.batch, tikmatrix=self.tikmatrix)
            except TikMatrixError as err:
                why = f"failed, and could not be deleted to be repeated: {err}"
                self.reports[job.name] = job.report(Outcome.FAILED, why)
                continue
            again.append(job)
        self.past = {**self.past} | {
            job.name: _Past(self.past[job.name].attempt + 1) for job in again
        }
        self._submit(again)
        self._wait([job for job in again if job.name in self.batches])

    def report(self) -> Report:
        return Report(jobs=tuple(self.reports[job.name] for job in self.jobs))

    def _attach(self, jobs: Sequence[EachJob]) -> None:
        """Whoever cancels this run stops the jobs that it waits for, also an earlier run's."""
        if self.run_id is None:
            return
        submissions = [
            submitted_to(self.tikmatrix, key).model_copy(update={"attached": True})
            for job in jobs
            if (key := self._key(job)) is not None and self.past[job.name].batch is not None
        ]
        run_blocking(self.kept.attach(self.run_id, submissions))

    def _submit(self, jobs: Sequence[EachJob]) -> None:
        closed: TikMatrixError | None = None
        for job in jobs:
            past, request = self.past[job.name], job.request
            if closed is not None and past.batch is None:
                self.reports[job.name] = job.report(Outcome.NOT_STARTED, str(closed))
                continue
            self.batches.pop(job.name, None)
            try:
                batch = submit_jobs(
                    request.script,
                    serials=request.serials or None,
                    usernames=request.usernames or None,
                    start_time=request.start_time,
                    once_key=_attempt(job.once_key, past.attempt),
                    tikmatrix=self.tikmatrix,
                )
            except SubmissionInDoubt as err:
                why = f"whether its job exists is not known: {err.doubt}"
                self.reports[job.name] = job.report(Outcome.UNKNOWN, why)
            except TikMatrixError as err:
                self.reports[job.name] = job.report(Outcome.NOT_CREATED, str(err))
                if isinstance(err, NotSentError | PlanError):
                    closed = err
            else:
                self.batches[job.name] = batch
                if not batch.job_ids:
                    why = "TikMatrix made no job"
                    self.reports[job.name] = job.report(Outcome.NOT_CREATED, why)

    def _wait(self, jobs: Sequence[EachJob]) -> None:
        """Wait for all at the same time, and keep what became of each."""
        failed = [job for job in jobs if self.past[job.name].end is not None]
        fresh = [job for job in jobs if self.past[job.name].end is None]
        # What failed in an earlier run is looked at, because somebody may have run it again since;
        # it is not for this run to do so.
        waits = {
            wait_for_jobs.submit(batch, fail_on="never", **patience): batch
            for batch, patience in (
                (self._together(fresh), self.waiting),
                (self._together(failed), self.waiting | {"retry_failed": 0}),
            )
            if batch.job_ids
        }
        job_of = {job_id: job for job in jobs for job_id in self.batches[job.name].job_ids}
        for wait in as_ended(waits):
            for told in report_of(wait, waits[wait]).jobs:
                if told.job_id in job_of:
                    self._ended(job_of[told.job_id], told)

    def _together(self, jobs: Sequence[EachJob]) -> Batch:
        batches = [self.batches[job.name] for job in jobs]
        return Batch(
            job_ids=tuple(job_id for batch in batches for job_id in batch.job_ids),
            script_name=batches[0].script_name if batches else None,
            start_time=max((batch.start_time or "" for batch in batches), default="") or None,
        )

    def _ended(self, job: EachJob, told: JobReport) -> None:
        end = self.past[job.name].end
        if end is not None and told.outcome is Outcome.GONE:
            self.reports[job.name] = end  # it failed before somebody deleted it
            return
        earlier = end is not None and end.outcome is told.outcome
        known = told.model_copy(update={"name": job.name, "owner": job.owner, "earlier": earlier})
        self.reports[job.name] = known
        key = self._key(job)
        if key is not None and told.outcome in FINAL:
            run_blocking(self.kept.write(f"{key}-end", known.model_dump(mode="json")))

    def _key(self, job: EachJob) -> str | None:
        once_key = _attempt(job.once_key, self.past[job.name].attempt)
        return None if once_key is None else once_submission_key(once_key)


def _attempt(once_key: str | None, attempt: int) -> str | None:
    """A failed job that is repeated is a new submission, and that is made once ever, too."""
    return once_key if once_key is None or attempt == 1 else f"{once_key} (attempt {attempt})"


async def _look_back(kept: Kept, jobs: Sequence[EachJob], run_id: UUID | None) -> dict[str, _Past]:
    listed = await kept.listed(run_id) if run_id is not None else []
    ours = {submitted.key for submitted in listed if not submitted.attached}
    return {job.name: await _past_of(kept, job, ours) for job in jobs}


async def _past_of(kept: Kept, job: EachJob, ours: set[str]) -> _Past:
    past, attempt = _Past(), 1
    while (once_key := _attempt(job.once_key, attempt)) is not None:
        key = once_submission_key(once_key)
        batch = await kept.batch(key)
        in_doubt = batch is None and await kept.intended(key)
        if batch is None and not in_doubt:
            return past if past.batch is None or past.batch.job_ids else _Past(attempt)
        end = await kept.read(f"{key}-end")
        past = _Past(
            attempt,
            batch,
            in_doubt,
            None if end is None else _end_of(job, JobReport.model_validate(end)),
            key in ours,
        )
        attempt += 1
    return past


def _end_of(job: EachJob, end: JobReport) -> JobReport:
    """As it was kept, under the name that it has today: a row may have moved."""
    return end.model_copy(update={"name": job.name, "earlier": True})
