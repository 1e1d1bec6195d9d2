"""What stops jobs when a person cancels a flow run.

In the run's own process, when the cancellation arrives there; and as a hook, which Prefect's worker
runs in a new process, also when the run's process was killed. Both may run: stopping twice comes to
the same. A crash is no cancellation: its jobs go on, and a retried run waits for them.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

from prefect import Flow, get_client, get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import TerminationSignal
from prefect.logging import get_logger
from prefect.logging.loggers import flow_run_logger

from tikmatrix_tasks import background
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.board import Board
from tikmatrix_tasks.errors import TikMatrixError
from tikmatrix_tasks.feed import Feed
from tikmatrix_tasks.job_actions import Stopped, stop_submitted
from tikmatrix_tasks.jobs import tell_ids
from tikmatrix_tasks.ledger import submitted_by
from tikmatrix_tasks.rows import reports_on
from tikmatrix_tasks.runs import outermost_run

F = TypeVar("F", bound=Flow[..., Any])


def stop_jobs_on_cancel(flow: F) -> F:
    """Give a flow of one's own this behaviour: when a run of it is cancelled, its jobs are stopped.

    ```python
    @stop_jobs_on_cancel
    @flow
    def evening() -> None: ...
    ```
    """
    inner = flow.fn

    @wraps(inner)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        with _stopping_jobs(flow):
            return await inner(*args, **kwargs)

    @wraps(inner)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        with _stopping_jobs(flow):
            return inner(*args, **kwargs)

    outer: Any = asynchronous if flow.isasync else synchronous
    # Prefect resolves annotations that are text in the module of the function it is given.
    outer.__signature__ = inspect.signature(inner, eval_str=True)
    outer.__annotations__ = inspect.get_annotations(inner, eval_str=True)
    flow.fn = outer
    flow.on_cancellation(stop_jobs_of_run)
    return flow


def stop_jobs_of_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Stop the jobs that a flow run and its subflows submitted. For `on_cancellation`.

    The parameters must have these names: Prefect calls hooks by them.
    """
    logger = flow_run_logger(flow_run, flow)
    _in_a_thread(lambda: _stop_all(flow_run, flow, logger.info, thoroughly=True))


@contextmanager
def _stopping_jobs(flow: Flow[..., Any]) -> Iterator[None]:
    try:
        yield
    except (TerminationSignal, asyncio.CancelledError):
        flow_run = outermost_run()
        if flow_run is not None and _is_being_cancelled(flow_run.id):
            logger = get_run_logger()
            logger.info("Cancelled: stopping this run's jobs")
            background.close()  # wakes every thread that waits, and lets no submission begin
            # Quickly, as Prefect kills the process 30 s after the signal; the hook comes after.
            _in_a_thread(lambda: _stop_all(flow_run, flow, logger.info, thoroughly=False))
        raise


def _is_being_cancelled(flow_run_id: UUID) -> bool:
    """Whether a person cancelled the run; a signal alone may also be a machine that shuts down."""
    try:
        with get_client(sync_client=True) as prefect:
            state = prefect.read_flow_run(flow_run_id).state
    except Exception:  # Prefect's API is away as well: then the hook decides
        get_logger("tikmatrix").debug("could not read the run's state", exc_info=True)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _in_a_thread(work: Callable[[], Any]) -> None:
    """Run a coroutine to its end whatever loop runs in this thread."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    while thread.is_alive():
        thread.join(timeout=background.BLOCKED_SECONDS)


async def _stop_all(
    flow_run: FlowRun, flow: Flow[..., Any], tell: Callable[[str], None], *, thoroughly: bool
) -> None:
    """Stop what a run submitted, then show on a board of its own what became of it."""
    board = Board(flow_run)
    for submitted in await submitted_by(flow_run.id, flow):
        block = TikMatrix(base_url=submitted.base_url)
        if submitted.block_name is not None:
            block = await TikMatrix.aload(submitted.block_name)
        settings, feed = block.settings, Feed(submitted.base_url, flow.name, flow_run)
        async with block.get_client() as client:
            try:
                stopped = await stop_submitted(
                    client,
                    submitted.intent,
                    submitted.batch,
                    settle_seconds=settings.settle_seconds,
                    revival_seconds=settings.failure_grace_seconds if thoroughly else 0,
                    on_stopped=feed.stopped,
                )
                _tell_what_stopped(stopped, tell)
            except TikMatrixError as err:
                tell(f"Jobs of {submitted.key} may go on, they could not be stopped: {err}")
            try:
                if submitted.batch is not None:
                    board.saw(
                        await reports_on(client, submitted.batch),
                        by_account=submitted.batch.by_account,
                        looked=True,
                    )
            except TikMatrixError as err:
                tell(f"What became of the jobs is not shown in the table: {err}")
    if board.rows:
        await board.write()


def _tell_what_stopped(stopped: Stopped, tell: Callable[[str], None]) -> None:
    tell(f"Stopped jobs {tell_ids(stopped.job_ids) or 'none'}")
    if stopped.still_open:
        tell(f"Jobs {tell_ids(stopped.still_open)} still show as open; look at them in TikMatrix")
    if stopped.unclear:
        tell(
            f"Jobs {tell_ids(stopped.unclear)} may be this run's, their rows do not tell; they go "
            "on. Look at them in TikMatrix"
        )
