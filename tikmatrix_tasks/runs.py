"""Which flow run, and which task run, the current code belongs to, seen from outside."""

from __future__ import annotations

from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext, TaskRunContext

from tikmatrix_tasks.submission_keys import Place

_outermost: dict[tuple[UUID, int], FlowRun] = {}  # a subflow run has the same one all its life


def outermost_run() -> FlowRun | None:
    """The flow run that this process was started for; None outside a flow run.

    A subflow belongs to its parent's run: tried again, Prefect gives it a new run of its own. A run
    of a deployment, also one that another flow started, stands for itself.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    run = context.flow_run
    key = (run.id, run.run_count)
    if run.parent_task_run_id is None or run.deployment_id is not None:
        return run
    if key not in _outermost:
        _outermost[key] = _outermost_of(run)
    return _outermost[key]


def _outermost_of(run: FlowRun) -> FlowRun:
    with get_client(sync_client=True) as prefect:
        while run.parent_task_run_id is not None and run.deployment_id is None:
            parent = prefect.read_task_run(run.parent_task_run_id)
            if parent.flow_run_id is None:
                break
            run = prefect.read_flow_run(parent.flow_run_id)
    return run


def place_of(context: TaskRunContext) -> Place | None:
    """Where a request of this task run is made; None outside a flow run."""
    run = outermost_run()
    if run is None:
        return None
    return Place(
        flow_run_id=run.id,
        flow_attempt=run.run_count,
        task_run_id=context.task_run.id,
        callers=tuple((caller.id, caller.run_count) for caller in calling_task_runs(context)),
    )


def calling_task_runs(context: TaskRunContext) -> tuple[TaskRun, ...]:
    """The task runs inside which another one was called, the outermost first.

    Prefect keeps them in the tokens of its context variable only.
    """
    callers: list[TaskRun] = []
    outer: object = context
    while isinstance(outer, TaskRunContext):
        known = {context.task_run.id, *(run.id for run in callers)}
        if outer.task_run.id not in known:
            callers.insert(0, outer.task_run)
        token = getattr(outer, "_token", None)
        outer = None if token is None else token.old_value
    return tuple(callers)
