"""Running jobs that must be told apart, each submitted by itself.

A row of TikMatrix need not tell a job's target or settings, so what became of the third post of a
table, or of one user on one phone, is known for certain only where each is a submission of its own.

A job with a `once_key` is done once ever: what became of it is kept, and later runs report it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.client import is_local
from tikmatrix_tasks.errors import (
    InvalidRequest,
    NotSentError,
    PlanError,
    SubmissionInDoubt,
    TikMatrixError,
)
from tikmatrix_tasks.guards import exclusive_phones as phones_alone
from tikmatrix_tasks.guards import phones_to_use
from tikmatrix_tasks.job_request import JobRequest, is_past
from tikmatrix_tasks.jobs import Batch, JobReport, Outcome, Report, first_few
from tikmatrix_tasks.ledger import Kept
from tikmatrix_tasks.observability import conclude, report_of
from tikmatrix_tasks.runs import outermost_run
from tikmatrix_tasks.submission_keys import once_submission_key
from tikmatrix_tasks.tasks import (
    as_ended,
    check_license,
    delete_jobs,
    submit_jobs,
    submitted_to,
    wait_for_jobs,
)

FINAL = (Outcome.COMPLETED, Outcome.FAILED)
WOULD_BE_SENT = "dry run"
MOST_REASONS = 10
"""How many jobs a run's state names; its report has all."""


@dataclass(frozen=True)
class EachJob:
    """A request for one job, and what a person calls it."""

    name: str
    request: JobRequest
    once_key: str | None = None
    former_key: str | None = None
    """A `once_key` that it may have been run under before."""
    if_changed: str | None = None
    """Why it is not run where something else was asked for under its key before."""

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
    changed: bool = False
    """Something else was asked for under its key."""

    @property
    def is_new(self) -> bool:
        return self.batch is None and not self.in_doubt

    @property
    def completed(self) -> bool:
        return self.end is not None and self.end.outcome is Outcome.COMPLETED

    @property
    def failed(self) -> bool:
        return self.end is not None and self.end.outcome is Outcome.FAILED


def run_each_job(
    jobs: Sequence[EachJob],
    *,
    timeout_seconds: float | None = None,
    on_timeout: Literal["stop", "leave"] = "stop",
    retry_failed: int = 0,
    repeat_failed: bool = False,
    max_jobs: int | None = None,
    when_busy: Literal["queue", "wait", "skip"] = "queue",
    exclusive_phones: bool = False,
    dry_run: bool = False,
    tikmatrix: TikMatrix | None = None,
) -> Report:
    """Submit each job by itself, wait until all have ended, and report on each, in their order.

    What was done in an earlier run is reported with `earlier`. With `repeat_failed` a job that
    failed in an earlier run is deleted, so that nobody can run it as well, and submitted anew.
    A failure with one job is its own; when TikMatrix is closed or refuses its plan, none is
    submitted after it. `when_busy` and `exclusive_phones` are about the phones of those jobs that
    are not done yet. `dry_run` sends nothing.

    Raises:
        InvalidRequest: more than `max_jobs` would be created, or `exclusive_phones` with accounts;
            nothing was sent.
        PhonesBusy: phones were busy, or another run's, for as long as this one waits.
        PlanError, NotSentError: TikMatrix cannot be used now; nothing was sent.
    """
    waiting: dict[str, Any] = {
        "timeout_seconds": timeout_seconds,
        "on_timeout": on_timeout,
        "retry_failed": retry_failed,
        "tikmatrix": tikmatrix,
    }
    allowed = max_jobs or (tikmatrix or TikMatrix()).settings.max_jobs
    each = _Each(jobs, waiting, tikmatrix, repeat_failed)
    each.refuse_above(allowed)
    if dry_run:
        return each.report_plan()
    todo = each.todo()
    serials = list(dict.fromkeys(job.owner for job in todo if job.request.serials))
    accounts = list(dict.fromkeys(job.owner for job in todo if job.request.usernames))
    if exclusive_phones and accounts:
        raise InvalidRequest("exclusive_phones", "goes with phones, not with accounts")
    with phones_alone(serials, exclusive_phones and bool(serials), timeout_seconds):
        if todo:
            check_license(tikmatrix)
        free = {
            *phones_to_use(serials, when_busy, tikmatrix, timeout_seconds),
            *phones_to_use(None, when_busy, tikmatrix, timeout_seconds, usernames=accounts),
        }
        each.run(free)
    return each.report()


def conclude_each(
    report: Report,
    done: str,
    *,
    success: Literal["any", "all"] = "any",
    then: Sequence[str] = (),
    later: Report | None = None,
) -> Report:
    """End a flow run with what `run_each_job` reported; `done` is the word, such as "posted".

    `2 posted, 1 already posted, 1 failed; row 4, phone-2: post failed (upload timed out)`, and what
    is to be said `then`. Of a `later` part only `then` tells; it can fail the run all the same.
    Return what this returns, as with `conclude`.
    """
    parts = [report] if later is None or not later.jobs else [report, later]
    unknown = any(job.outcome is Outcome.UNKNOWN for part in parts for job in part.jobs)
    failed = unknown or not all(part.completed for part in parts)
    failed |= success == "all" and not all(part.ok for part in parts)
    sentence = "; ".join([tell_each(report, done), *then])
    return conclude(sum(parts, Report()), sentence, failed=failed)


def conclude_plan(report: Report, done: str) -> Report:
    """End a dry run of `run_each_job`: how many would be done, and how many are."""
    new = [job for job in report.jobs if job.remark == WOULD_BE_SENT]
    others = Report(jobs=tuple(job for job in report.jobs if job.remark != WOULD_BE_SENT))
    told = f", {tell_each(others, done)}" if others.jobs else ""
    sentence = f"dry run: {len(new)} would be {done}{told}; nothing was sent"
    return conclude(report, sentence, failed=False)


def tell_each(report: Report, done: str) -> str:
    """How many are `done`, and what became of the others."""
    counts = Counter(_word(job, done) for job in report.jobs)
    counts.setdefault(done, 0)
    first = [done, f"already {done}"]
    words = [*first, *sorted(word for word in counts if word not in first)]
    told = ", ".join(f"{counts[word]} {word}" for word in words if word == done or counts[word])
    return "; ".join([told, *first_few(report.not_completed, MOST_REASONS)])


def _word(job: JobReport, done: str) -> str:
    if job.outcome is Outcome.COMPLETED:
        return f"already {done}" if job.earlier else done
    not_created = job.outcome is Outcome.NOT_CREATED  # to an operator, it comes to the same
    return str((Outcome.NOT_STARTED if not_created else job.outcome).value)


@dataclass
class _Each:
    jobs: Sequence[EachJob]
    waiting: dict[str, Any]
    tikmatrix: TikMatrix | None
    repeat_failed: bool
    reports: dict[str, JobReport] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    """The jobs' latest attempts, those that were submitted."""

    def __post_init__(self) -> None:
        run = outermost_run()
        self.run_id = None if run is None else run.id
        self.kept = Kept()
        self.jobs, self.past = run_blocking(_look_back(self.kept, self.jobs, self.run_id))

    def refuse_above(self, allowed: int) -> None:
        new = sum(self._would_send(job) for job in self.jobs)
        if new > allowed:
            raise InvalidRequest(
                "max_jobs", f"{new} jobs would be created; at most {allowed} are allowed"
            )

    def _would_send(self, job: EachJob) -> bool:
        past = self.past[job.name]
        return past.is_new or (self.repeat_failed and past.failed and not past.ours)

    def report_plan(self) -> Report:
        reports = []
        for job in self.jobs:
            past = self.past[job.name]
            if self._would_send(job):
                reports.append(job.report(Outcome.NOT_STARTED, WOULD_BE_SENT))
            elif self._is_another(job):
                reports.append(job.report(Outcome.NOT_STARTED, job.if_changed))
            elif past.end is not None:
                reports.append(past.end)
            else:
                why = "an earlier run submitted it; what became of it is looked up when it is run"
                reports.append(job.report(Outcome.UNKNOWN, why, earlier=True))
        return Report(jobs=tuple(reports))

    def todo(self) -> list[EachJob]:
        """The jobs that this run has to do with, also when it is run again."""
        pasts = self.past
        return [job for job in self.jobs if not pasts[job.name].completed or pasts[job.name].ours]

    def run(self, free: Collection[str]) -> None:
        """Run what is not done yet. Jobs of owners who are not free are not begun."""
        begun = []
        for job in self.jobs:
            past = self.past[job.name]
            if self._is_another(job):
                self.reports[job.name] = job.report(Outcome.NOT_STARTED, job.if_changed)
            elif past.end is not None and past.completed:
                self.reports[job.name] = past.end
            elif past.is_new and (why := self._why_not_now(job, free)) is not None:
                self.reports[job.name] = job.report(Outcome.NOT_STARTED, why)
            else:
                begun.append(job)
        self._attach(begun)
        self._submit(begun)
        self._wait([job for job in begun if job.name in self.batches])
        if self.repeat_failed:
            self._repeat_failed(free)

    def _is_another(self, job: EachJob) -> bool:
        past = self.past[job.name]
        repeated = past.failed and self.repeat_failed
        return past.changed and job.if_changed is not None and not repeated

    def _why_not_now(self, job: EachJob, free: Collection[str]) -> str | None:
        if job.owner not in free:
            return f"{job.owner} has open jobs"
        base_url = (self.tikmatrix or TikMatrix()).settings.base_url
        start_time = job.request.start_time
        # Only a TikMatrix on this machine is known to have this machine's clock.
        if start_time and is_local(base_url) and is_past(start_time, datetime.now()):
            return f"its time {start_time} is past; what TikMatrix makes of that is not known"
        return None

    def _repeat_failed(self, free: Collection[str]) -> None:
        """Submit those anew that failed in an earlier run, and still show as failed or are gone."""
        again = []
        for job in self.jobs:
            past, report = self.past[job.name], self.reports[job.name]
            if past.batch is None or past.ours or report.outcome is not Outcome.FAILED:
                continue
            why_not = self._why_not_now(job, free)
            if why_not is None:
                try:
                    delete_jobs(past.batch, tikmatrix=self.tikmatrix)
                except TikMatrixError as err:
                    why_not = f"its job could not be deleted: {err}"
            if why_not is None:
                again.append(job)
            else:
                why = f"{report.remark or 'no reason given'}; not repeated: {why_not}"
                self.reports[job.name] = report.model_copy(update={"remark": why})
        attempts = {job.name: _Past(self.past[job.name].attempt + 1) for job in again}
        self.past = {**self.past, **attempts}
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
            created_at=max(filter(None, (batch.created_at for batch in batches)), default=None),
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


async def _look_back(
    kept: Kept, jobs: Sequence[EachJob], run_id: UUID | None
) -> tuple[list[EachJob], dict[str, _Past]]:
    listed = await kept.listed(run_id) if run_id is not None else []
    ours = {submitted.key for submitted in listed if not submitted.attached}
    known = [await _under_its_key(kept, job) for job in jobs]
    return known, {job.name: await _past_of(kept, job, ours) for job in known}


async def _under_its_key(kept: Kept, job: EachJob) -> EachJob:
    """The job under the key that it was run under before, if it was."""
    if job.once_key is None or job.former_key is None:
        return job
    if (await _past_of(kept, job, set())).is_new:
        former = replace(job, once_key=job.former_key)
        if (await _past_of(kept, former, set())).batch is not None:
            return former
    return job


async def _past_of(kept: Kept, job: EachJob, ours: set[str]) -> _Past:
    past, attempt = _Past(), 1
    while (once_key := _attempt(job.once_key, attempt)) is not None:
        key = once_submission_key(once_key)
        batch, intent = await kept.batch(key), await kept.intent(key)
        if batch is None and intent is None:
            return past if past.batch is None or past.batch.job_ids else _Past(attempt)
        end = await kept.read(f"{key}-end")
        past = _Past(
            attempt,
            batch,
            in_doubt=batch is None,
            end=None if end is None else _end_of(job, JobReport.model_validate(end)),
            ours=key in ours,
            changed=intent is not None and intent.fingerprint != job.request.fingerprint(),
        )
        attempt += 1
    return past


def _end_of(job: EachJob, end: JobReport) -> JobReport:
    """As it was kept, under the name that it has today: a row may have moved."""
    return end.model_copy(update={"name": job.name, "earlier": True})
