"""Choosing old, failed and forgotten jobs, and what is done about them.

Only jobs that are known to be this project's are chosen, unless the caller says otherwise; see
`records`. What cannot be told is left alone and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun
from prefect.context import TaskRunContext
from pydantic import BaseModel, ConfigDict

from tikmatrix_tasks import job_actions
from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.jobs import Batch, Job, JobReport, JobStatus, Outcome, first_few
from tikmatrix_tasks.ledger import Submitted, claim
from tikmatrix_tasks.records import OwnJob, Records, read_records
from tikmatrix_tasks.runs import outermost_run, place_of
from tikmatrix_tasks.submission_keys import submission_key
from tikmatrix_tasks.twins import READS, REMOVES, twins

RECORD_DAYS = 30.0
"""How far back flow runs are read unless told, in days."""
OPEN = (JobStatus.RUNNING, JobStatus.PENDING)
MOST_NAMED = 10
"""How many jobs a sentence names; the run's result has all."""

NOT_OURS = "not known to be this project's"
OTHER_JOB = "look like somebody else's under the same id"
IN_USE = "belong to a flow run that still goes on"
OTHER_AGE = "outside the age"
NO_AGE = "do not tell their age"
NO_END = "belong to a flow run that does not tell when it ended"


class Selection(BaseModel):
    """Jobs that were chosen, as they were then, and how many were left alone for which reason."""

    model_config = ConfigDict(frozen=True)

    jobs: tuple[JobReport, ...] = ()
    left_alone: dict[str, int] = {}
    unresolved: tuple[str, ...] = ()
    """Flow runs that are over and never learned which jobs a request of theirs made."""

    @property
    def job_ids(self) -> tuple[int, ...]:
        return tuple(job.job_id for job in self.jobs if job.job_id is not None)

    @property
    def named(self) -> str:
        """`phone-2: post failed (no signal); and 3 more`."""
        return "; ".join(first_few(self.jobs, MOST_NAMED))

    @property
    def notes(self) -> str:
        """What was left alone, and what needs a look; empty when there is nothing to say."""
        parts = [f"{number} {reason}" for reason, number in sorted(self.left_alone.items())]
        notes = f"; left alone: {', '.join(parts)}" if parts else ""
        if self.unresolved:
            names = ", ".join(self.unresolved[:MOST_NAMED])
            notes += (
                f"; {names} ended without learning which jobs they had created: look for those in "
                "TikMatrix"
            )
        return notes


async def _find_failed_jobs(
    *,
    serials: Sequence[str] | None = None,
    script_name: str | None = None,
    max_age_hours: float = 24.0,
    only_own: bool = True,
    max_jobs: int | None = None,
    record_days: float = RECORD_DAYS,
    tikmatrix: TikMatrix | None = None,
) -> Selection:
    """Find jobs that have failed and may be run again. Changes nothing.

    `serials` and `script_name` narrow the choice. The age of a job of this project counts from when
    it was created, that of any other (`only_own=False`) from the end that its row shows, which is
    taken to be in this machine's time zone. A job whose flow run still goes on is left to that run.
    The answer is kept: a run that is tried again goes on with the jobs it chose before.

    Raises:
        InvalidRequest: an argument, or more than `max_jobs` jobs (the setting's, unless given).
    """
    _check(serials, script_name, max_age_hours=max_age_hours, record_days=record_days)
    block = tikmatrix or TikMatrix()
    allowed = max_jobs if max_jobs is not None else block.settings.max_jobs
    records = await read_records(block.settings.base_url, record_days)
    youngest, here = timedelta(hours=max_age_hours), outermost_run()
    chosen = _Choice()
    async with block.get_client() as client:
        async for row in _rows(client, (JobStatus.FAILED,), serials, script_name):
            chosen.judge(row, _why_not(row, records, only_own, here, lambda age: age <= youngest))
    if len(chosen.jobs) > allowed:
        raise InvalidRequest(
            "max_jobs", f"{len(chosen.jobs)} failed jobs match; at most {allowed} are allowed"
        )
    return chosen.selection()


def _kept_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    place = place_of(context)
    if place is None:
        return None
    block = parameters["tikmatrix"] or TikMatrix()
    asked = {name: value for name, value in parameters.items() if name != "tikmatrix"}
    return submission_key(
        place,
        base_url=block.settings.base_url,
        fingerprint=f"failed jobs {json.dumps(asked, sort_keys=True)}",
    )


find_failed_jobs, afind_failed_jobs = twins(
    "find_failed_jobs",
    _find_failed_jobs,
    task_run_name="find failed jobs",
    cache_key_fn=_kept_key,
    persist_result=True,
    result_serializer="json",
    refresh_cache=False,  # a setting that refreshes all caches must not choose other jobs
    **READS,
)


async def _find_finished_jobs(
    *,
    serials: Sequence[str] | None = None,
    script_name: str | None = None,
    min_age_days: float = 7.0,
    keep_failed: bool = True,
    only_own: bool = True,
    record_days: float = RECORD_DAYS,
    tikmatrix: TikMatrix | None = None,
) -> Selection:
    """Find completed jobs, and without `keep_failed` failed ones, that are old. Changes nothing.

    `serials` and `script_name` narrow the choice. Ages count as in `find_failed_jobs`. A job whose
    flow run still goes on is left alone, because that run would take it for deleted.
    """
    _check(serials, script_name, min_age_days=min_age_days, record_days=record_days)
    block = tikmatrix or TikMatrix()
    records = await read_records(block.settings.base_url, record_days)
    oldest, here = timedelta(days=min_age_days), outermost_run()
    statuses = (JobStatus.COMPLETED,) if keep_failed else (JobStatus.COMPLETED, JobStatus.FAILED)
    chosen = _Choice()
    async with block.get_client() as client:
        async for row in _rows(client, statuses, serials, script_name):
            chosen.judge(row, _why_not(row, records, only_own, here, lambda age: age >= oldest))
    return chosen.selection()


find_finished_jobs, afind_finished_jobs = twins(
    "find_finished_jobs", _find_finished_jobs, task_run_name="find finished jobs", **READS
)


async def _find_orphans(
    *,
    serials: Sequence[str] | None = None,
    over_for_minutes: float = 60.0,
    record_days: float = RECORD_DAYS,
    tikmatrix: TikMatrix | None = None,
) -> Selection:
    """Find pending and running jobs of this project whose flow runs are over. Changes nothing.

    Over means that every flow run which answers for the job ended at least `over_for_minutes` ago:
    until then somebody may have a crashed run tried again, which waits for its jobs. Jobs of other
    origin are never chosen.
    """
    _check(serials, None, record_days=record_days)
    if not over_for_minutes >= 0:
        raise InvalidRequest("over_for_minutes", f"is {over_for_minutes:g}; must be 0 or more")
    block = tikmatrix or TikMatrix()
    records = await read_records(block.settings.base_url, record_days)
    ended_by = datetime.now(timezone.utc) - timedelta(minutes=over_for_minutes)
    chosen = _Choice()
    async with block.get_client() as client:
        async for row in _rows(client, OPEN, serials, None):
            own = records.jobs.get(row.id)
            chosen.judge(row, NOT_OURS if own is None else _why_no_orphan(row, own, ended_by))
    return chosen.selection(records.unresolved)


find_orphans, afind_orphans = twins(
    "find_orphans", _find_orphans, task_run_name="find jobs whose flow run is over", **READS
)


async def _delete_finished_jobs(
    selection: Selection, *, tikmatrix: TikMatrix | None = None
) -> tuple[int, ...]:
    """Delete the chosen jobs that are completed or failed; pending and running ones stay.

    Completed jobs, which stay so, go a hundred at a time. A failed job may have been run again
    meanwhile, so each is looked at and deleted by itself.

    Returns:
        The ids that are gone now.
    """
    completed = [job.job_id for job in selection.jobs if job.outcome is Outcome.COMPLETED]
    failed = [job.job_id for job in selection.jobs if job.outcome is Outcome.FAILED]
    async with (tikmatrix or TikMatrix()).get_client() as client:
        await job_actions.delete_completed(client, _ids(completed))
        gone = await job_actions.delete_failed(client, _ids(failed))
    get_run_logger().info("Deleted %d jobs", len(completed) + len(gone))
    return (*_ids(completed), *gone)


delete_finished_jobs, adelete_finished_jobs = twins(
    "delete_finished_jobs", _delete_finished_jobs, task_run_name="delete finished jobs", **REMOVES
)


def claim_jobs(selection: Selection, *, tikmatrix: TikMatrix | None = None) -> None:
    """Let the current flow run answer for jobs that another run created.

    Cancelled, it stops them, if its flow has `stop_jobs_on_cancel`.
    """
    run = outermost_run()
    if run is None or not selection.jobs:
        return
    block = tikmatrix or TikMatrix()
    submitted = Submitted(
        key=_claim_key(run.id, selection.job_ids),
        base_url=block.settings.base_url,
        block_name=block._block_document_name,
        attached=True,
        batch=Batch.of(selection.job_ids),
    )
    run_blocking(claim(run.id, submitted))


def _claim_key(flow_run_id: UUID, job_ids: Sequence[int]) -> str:
    jobs = sha256(",".join(map(str, job_ids)).encode()).hexdigest()[:24]
    return f"tikmatrix-{flow_run_id}-claimed-{jobs}"


class _Choice:
    """Jobs chosen so far, and the reasons against the others."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobReport] = {}
        self._left_alone: Counter[str] = Counter()

    def judge(self, row: Job, why_not: str | None) -> None:
        if why_not is not None:
            self._left_alone[why_not] += 1
            return
        self.jobs[row.id] = row.report(row.serial or row.username)

    def selection(self, unresolved: tuple[str, ...] = ()) -> Selection:
        jobs = tuple(self.jobs[job_id] for job_id in sorted(self.jobs))
        return Selection(jobs=jobs, left_alone=dict(self._left_alone), unresolved=unresolved)


async def _rows(
    client: TikMatrixClient,
    statuses: Collection[JobStatus],
    serials: Sequence[str] | None,
    script_name: str | None,
) -> AsyncIterator[Job]:
    """The jobs in some statuses, by TikMatrix's own filters: a row need not tell its phone."""
    for status in statuses:
        for serial in serials or (None,):
            async for job in client.iter_jobs(
                status=status, serial=serial, script_name=script_name
            ):
                if job.known_status is status:  # not one that has moved on since the filter
                    yield job


def _why_not(
    row: Job,
    records: Records,
    only_own: bool,
    here: FlowRun | None,
    fits: Callable[[timedelta], bool],
) -> str | None:
    """Why a job that has ended is left alone; None when it is not."""
    own = records.jobs.get(row.id)
    if own is None and only_own:
        return NOT_OURS
    if own is not None and not own.looks_like(row):
        return OTHER_JOB
    if own is not None and own.is_in_use_beside(here):
        return IN_USE
    age = _age(row, own)
    if age is None:
        return NO_AGE
    return None if fits(age) else OTHER_AGE


def _why_no_orphan(row: Job, own: OwnJob, ended_by: datetime) -> str | None:
    if not own.looks_like(row):
        return OTHER_JOB
    if own.is_in_use_beside(None):
        return IN_USE
    if own.over_since is None:
        return NO_END
    return None if own.over_since <= ended_by else "belong to a flow run that ended just now"


def _age(row: Job, own: OwnJob | None) -> timedelta | None:
    if own is not None:
        created = own.created_at
        return None if created is None else datetime.now(timezone.utc) - created
    seen = row.end_time or row.start_time
    return None if seen is None else datetime.now() - seen


def _ids(job_ids: Sequence[int | None]) -> list[int]:
    return [job_id for job_id in job_ids if job_id is not None]


def _check(serials: Sequence[str] | None, script_name: str | None, **numbers: float) -> None:
    if isinstance(serials, str):
        raise InvalidRequest("serials", "must be a list, also of one")
    if serials is not None and not serials:
        raise InvalidRequest("serials", "is empty; leave it out for all phones")
    if any(not serial.strip() for serial in serials or ()):
        raise InvalidRequest("serials", "holds an empty entry")
    if script_name is not None and not script_name.strip():
        raise InvalidRequest("script_name", "is empty; leave it out for all scripts")
    for field, number in numbers.items():
        if not number > 0:
            raise InvalidRequest(field, f"is {number:g}; must be above 0")
