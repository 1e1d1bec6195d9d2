"""Which jobs this project's flow runs created, read back from Prefect.

Prefect's API tells the flow runs, and its result storage what each of them submitted (see
`ledger`). So a job is known as ours when Prefect still has its flow run, that run started within
the days looked back (or still goes on), its results are kept where this process looks for them, and
it named TikMatrix by the same address. Every other job counts as somebody else's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from tikmatrix_tasks.client import normalized_base_url
from tikmatrix_tasks.jobs import Batch, Job
from tikmatrix_tasks.ledger import submitted_by

GOING_ON = (
    StateType.SCHEDULED,  # such as one that waits for its next attempt
    StateType.PENDING,
    StateType.RUNNING,
    StateType.PAUSED,
    StateType.CANCELLING,
)
_PAGE = 200  # the most flow runs that Prefect's API gives at once


@dataclass(frozen=True)
class Claim:
    """A flow run that answers for a job, and the batch and key by which it knows the job."""

    run: FlowRun
    key: str
    batch: Batch

    @property
    def is_over(self) -> bool:
        return _is_over(self.run)


@dataclass(frozen=True)
class OwnJob:
    """A job that this project created, with every flow run that answers for it."""

    id: int
    claims: tuple[Claim, ...]

    @property
    def created_at(self) -> datetime | None:
        times = [claim.batch.created_at for claim in self.claims if claim.batch.created_at]
        return min(times, default=None)

    @property
    def over_since(self) -> datetime | None:
        """When the last of its flow runs ended; None while one goes on, or where it is not told."""
        ends = [claim.run.end_time for claim in self.claims if claim.is_over]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(self.claims) else None

    def is_in_use_beside(self, run: FlowRun | None) -> bool:
        """Whether a flow run that goes on answers for it, other than this one."""
        return any(
            not claim.is_over and (run is None or claim.run.id != run.id) for claim in self.claims
        )

    def looks_like(self, row: Job) -> bool:
        """Whether a row may be that of this job.

        A TikMatrix that was set up anew gives ids again, and then a row is somebody else's.
        """
        return all(_may_be_of(claim.batch, row) for claim in self.claims)


@dataclass(frozen=True)
class Records:
    """What is known of the jobs that this project created."""

    jobs: Mapping[int, OwnJob]
    unresolved: tuple[str, ...] = ()
    """Flow runs, by name, that are over and never learned which jobs a request of theirs made."""


async def read_records(base_url: str, days: float) -> Records:
    """Read what flow runs of the last so many days submitted to one TikMatrix."""
    address = normalized_base_url(base_url)
    claims: dict[int, list[Claim]] = defaultdict(list)
    unresolved: dict[str, None] = {}
    async for run in _runs(datetime.now(timezone.utc) - timedelta(days=days)):
        for submitted in await submitted_by(run.id, None):
            if normalized_base_url(submitted.base_url) != address:
                continue
            if submitted.batch is not None:
                for job_id in submitted.batch.job_ids:
                    claims[job_id].append(Claim(run, submitted.key, submitted.batch))
            elif submitted.intent is not None and _is_over(run):
                unresolved[run.name] = None
    jobs = {job_id: OwnJob(job_id, tuple(those)) for job_id, those in claims.items()}
    return Records(jobs, tuple(unresolved))


async def _runs(since: datetime) -> AsyncIterator[FlowRun]:
    """The flow runs that started since then or still go on, each once."""
    seen: set[UUID] = set()
    filters = (
        FlowRunFilter(start_time=FlowRunFilterStartTime.model_validate({"after_": since})),
        FlowRunFilter(
            start_time=FlowRunFilterStartTime(is_null_=False),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(GOING_ON))),
        ),
    )
    async with get_client() as prefect:
        for wanted in filters:
            offset = 0
            while runs := await prefect.read_flow_runs(
                flow_run_filter=wanted,
                sort=FlowRunSort.START_TIME_DESC,  # what starts meanwhile pushes rows back: no gap
                limit=_PAGE,
                offset=offset,
            ):
                for run in runs:
                    if run.id not in seen:
                        seen.add(run.id)
                        yield run
                offset += len(runs)


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def _may_be_of(batch: Batch, row: Job) -> bool:
    owner = row.username if batch.by_account else row.serial
    return (
        (batch.script_name is None or row.script_name in (None, batch.script_name))
        and row.source in (None, "api")
        and (owner is None or not batch.owners or owner in batch.owners)
    )
