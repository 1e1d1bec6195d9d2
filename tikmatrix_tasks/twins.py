"""Two Prefect tasks of one coroutine function, and which failures Prefect tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from tikmatrix_tasks.background import run_awaiting, run_blocking
from tikmatrix_tasks.block import holds_headers
from tikmatrix_tasks.errors import InvalidRequest, OverloadedError
from tikmatrix_tasks.retries import LONGEST_RETRY_AFTER_SECONDS, Call, may_retry
from tikmatrix_tasks.runs import outermost_run

P = ParamSpec("P")
R = TypeVar("R")
RetryCondition = Callable[[Task[..., Any], TaskRun, State[Any]], bool]


def _retry_on(call: Call) -> RetryCondition:
    # A plain function that reads `state.data`: Prefect never calls a partial or a callable object,
    # and `state.result()` gives a coroutine in an asynchronous task (seen with Prefect 3.8).
    def condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
        return may_retry(state.data, call)

    return condition


def twins(
    name: str, logic: Callable[P, Coroutine[Any, Any, R]], **options: Any
) -> tuple[Task[P, R], Task[P, Coroutine[Any, Any, R]]]:
    """Make of one coroutine function a Prefect task that blocks and one that is awaited."""

    @wraps(logic)
    async def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_stored_headers()
        try:
            return await logic(*args, **kwargs)
        except OverloadedError as err:
            if err.retry_after_seconds and _may_run_again():
                await asyncio.sleep(min(err.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
            raise  # Prefect tries again, if at all, after its own delay

    @wraps(logic)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_blocking(patient(*args, **kwargs))

    @wraps(logic)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        return await run_awaiting(patient(*args, **kwargs))

    blocking.__name__, awaited.__name__ = name, f"a{name}"
    return task(name=name, **options)(blocking), task(name=f"a{name}", **options)(awaited)


def _refuse_stored_headers() -> None:
    """Let nobody get used to a run that keeps its header values where everybody reads them.

    A deployment refuses them by its schema before anything is stored, unless that is switched off.
    """
    run = outermost_run()
    if run is not None and holds_headers(run.parameters):
        raise InvalidRequest(
            "tikmatrix",
            "its header values stand in this run's parameters, which are stored and shown: save it "
            "as a block and name the block, delete this run, and change the values",
        )


def _may_run_again() -> bool:
    context = TaskRunContext.get()
    return context is not None and context.task_run.run_count <= context.task.retries


READS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [1, 5, 15],
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": _retry_on("read"),
}
REMOVES: dict[str, Any] = READS | {"retry_condition_fn": _retry_on("remove")}
CREATES: dict[str, Any] = READS | {"retry_condition_fn": _retry_on("create")}
# A wait has its own patience, so nothing is tried again. Prefect logs a traceback for a failure
# without retries, and none where a condition declined: a failed job is a result, not a bug.
NO_RETRIES: dict[str, Any] = {
    "retries": 1,
    "retry_condition_fn": lambda task, run, state: False,
}
