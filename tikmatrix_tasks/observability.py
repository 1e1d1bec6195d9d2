"""What a person reads of a run: its sentence, its final state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.board import board_of
from tikmatrix_tasks.errors import EndedBadly, JobsFailed, TikMatrixError
from tikmatrix_tasks.jobs import Batch, JobReport, Outcome, Report
from tikmatrix_tasks.runs import outermost_run

R = TypeVar("R")


def count_of(number: int, thing: str) -> str:
    """`1 phone`, `2 phones`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def run_name(what: str) -> Callable[[], str]:
    """For `flow_run_name` of a flow with the shared parameters.

    `run_name("post on")` is `post on 3 phones`, or `post on phone-4`.
    """

    def name() -> str:
        parameters = flow_run.parameters
        thing = "account" if parameters.get("usernames") else "phone"
        owners: Sequence[str] = parameters.get("usernames") or parameters.get("serials") or []
        return f"{what} {owners[0] if len(owners) == 1 else count_of(len(owners), thing)}"

    return name


def report_of(wait: PrefectFuture[Report], batch: Batch) -> Report:
    """What a submitted `wait_for_jobs` came to, also where it ended badly.

    Where not even a report is known, each job of the batch counts as unknown, and why.
    """
    try:
        return wait.result()
    except EndedBadly as ended:
        return ended.report
    except TikMatrixError as err:
        return unknown_report(batch, err)


def unknown_report(batch: Batch, why: TikMatrixError) -> Report:
    """Each job of a batch as unknown, with what was seen last as the remark."""
    owner = batch.owners[0] if len(batch.owners) == 1 else None
    return Report(
        jobs=tuple(
            JobReport(
                job_id=job_id,
                script_name=batch.script_name,
                outcome=Outcome.UNKNOWN,
                owner=owner,
                remark=str(why),
            )
            for job_id in batch.job_ids
        )
    )


def complete(result: R, sentence: str, *, name: str | None = None) -> R:
    """End a flow run well: its state, Completed or as named, shows the sentence.

    Return what this returns, as with `conclude`; it is for results that are no `Report`.
    """
    return cast("R", Completed(message=sentence, data=result, name=name or "Completed"))


def expect_jobs(number: int) -> None:
    """Say how many jobs this flow run is going to have in all, so that its progress can tell.

    Without it the jobs that exist count, and progress falls back where more are created later.
    """
    run = outermost_run()
    if run is not None:
        run_blocking(_expect(run, number))


async def _expect(run: FlowRun, number: int) -> None:
    board_of(run).expect(number)


def conclude(report: Report, sentence: str, *, failed: bool) -> Report:
    """End a flow run: its state shows the sentence, its result is the report, and its summary both.

    Return what this returns. Prefect unwraps it: the caller of the flow gets the report, or
    `JobsFailed` with the report when the run failed.
    """
    run, context = outermost_run(), FlowRunContext.get()
    if run is not None and context is not None and context.flow_run is not None:
        run_blocking(board_of(run).conclude(report, sentence, context.flow_run.id))
    state: State[Any] = (
        Failed(message=sentence, data=JobsFailed(sentence, report))
        if failed
        else Completed(message=sentence, data=report)
    )
    return cast("Report", state)
