"""What keeps a run from happening at the wrong moment, or on phones that others use.

A retried run must come to the same decisions as before: what it would do differently, it would do
again. So a run that has submitted something is never skipped, and which phones it uses is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal, cast
from uuid import UUID

from prefect import Flow, Task, get_client, get_run_logger, task
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Completed

from tikmatrix_tasks import busy, phone_limits
from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.jobs import Report
from tikmatrix_tasks.ledger import keep, submitted_by
from tikmatrix_tasks.retries import may_retry
from tikmatrix_tasks.runs import outermost_run, place_of
from tikmatrix_tasks.submission_keys import submission_key
from tikmatrix_tasks.tasks import DEFAULT_WAIT_SECONDS


def reason_to_skip(max_lateness_minutes: float | None = None) -> str | None:
    """Why the current flow run must not happen, in a sentence; None when it may.

    It starts more than `max_lateness_minutes` after its scheduled time, because the machine slept
    for instance; or Prefect's scheduler made two runs for one slot, which it does at times when a
    deployment is updated (prefect#18894), and this is the second. A subflow counts by the run that
    it belongs to. A run that was tried again by a person is never late, and one that has submitted
    something already is not skipped.
    """
    run, context = outermost_run(), FlowRunContext.get()
    if run is None or context is None:
        return None
    with get_client(sync_client=True) as prefect:
        run = prefect.read_flow_run(run.id)
    if max_lateness_minutes is not None and not _is_deliberate(run):
        late = _lateness(run)
        if late > timedelta(minutes=max_lateness_minutes):
            return (
                f"it started {late.total_seconds() / 60:.0f} minutes after its scheduled time; "
                f"at most {max_lateness_minutes:g} are allowed"
            )
    first = _first_of_slot(run)
    if first is not None and not _has_submitted(run.id, context.flow):
        return f"the scheduler fired twice for one slot; {first.name!r} is the run for it"
    return None


def skip(sentence: str) -> Report:
    """End a flow run that does nothing: its state is Completed, named "Skipped", and says why.

    Return what this returns, as with `conclude`.
    """
    state: State[Any] = Completed(name="Skipped", message=sentence, data=Report())
    return cast("Report", state)


@contextmanager
def exclusive_phones(
    serials: Sequence[str] | None,
    enabled: bool = True,
    timeout_seconds: float | None = None,
    *,
    poll_seconds: float = phone_limits.POLL_SECONDS,
) -> Iterator[None]:
    """Have phones alone among the runs that ask for it; without `enabled` do nothing.

    It takes Prefect's global concurrency limits `tikmatrix-phone-<serial>`, all at once, waiting
    for them for at most `timeout_seconds` (4 hours unless set).

    Raises:
        InvalidRequest: a phone has no such limit, or no phones are named.
        PhonesBusy: another run had one of them until the time was up.
    """
    if not enabled:
        yield
        return
    if not serials:
        raise InvalidRequest("exclusive_phones", "goes with serials, not with usernames")
    context = FlowRunContext.get()
    with phone_limits.hold(
        serials,
        flow_run_id=context.flow_run.id if context and context.flow_run else None,
        timeout_seconds=DEFAULT_WAIT_SECONDS if timeout_seconds is None else timeout_seconds,
        poll_seconds=poll_seconds,
        tell=get_run_logger().info,
    ):
        yield


def phones_to_use(
    serials: Sequence[str] | None,
    when_busy: Literal["queue", "wait", "skip"],
    tikmatrix: TikMatrix | None = None,
    timeout_seconds: float | None = None,
    *,
    usernames: Sequence[str] | None = None,
) -> list[str]:
    """The phones, or with `usernames` the accounts, to submit to, after a look at open jobs.

    Pending and running jobs of anybody count, also those started on TikMatrix's screen. `queue`
    leaves everything to TikMatrix, which runs one job at a time on a phone; `wait` waits until they
    have ended, for at most `timeout_seconds` (4 hours unless set); `skip` leaves out who is busy.
    The answer is kept: a run that is tried again uses the phones it used before.

    Raises:
        PhonesBusy: `wait`, and some were busy until the time was up.
    """
    owners = list(serials or usernames or ())
    if when_busy == "queue" or not owners:
        return owners
    return _look_for_free(
        owners,
        by_account=not serials,
        wait=when_busy == "wait",
        timeout_seconds=DEFAULT_WAIT_SECONDS if timeout_seconds is None else timeout_seconds,
        tikmatrix=tikmatrix,
    )


def _kept_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    place = place_of(context)
    if place is None:
        return None
    asked = json.dumps([parameters[name] for name in ("owners", "by_account", "wait")])
    return submission_key(
        place,
        base_url=(parameters["tikmatrix"] or TikMatrix()).settings.base_url,
        fingerprint=sha256(f"phones {asked}".encode()).hexdigest(),
    )


def _may_look_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    return may_retry(state.data, "read")


@task(
    name="look_for_busy_phones",
    task_run_name="look for busy phones",
    cache_key_fn=_kept_key,
    persist_result=True,
    result_serializer="json",
    refresh_cache=False,  # a setting that refreshes all caches must not choose other phones
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=_may_look_again,
)
def _look_for_free(
    owners: list[str],
    *,
    by_account: bool,
    wait: bool,
    timeout_seconds: float,
    tikmatrix: TikMatrix | None,
) -> list[str]:
    block, logger = tikmatrix or TikMatrix(), get_run_logger()
    settings = block.settings
    context = TaskRunContext.get()
    key = None if context is None else _kept_key(context, context.parameters)

    async def look() -> list[str]:
        async with block.get_client() as client:
            if wait:
                pace = busy.Pace(
                    poll_interval_seconds=settings.poll_interval_seconds,
                    max_poll_interval_seconds=settings.max_poll_interval_seconds,
                    outage_budget_seconds=settings.outage_budget_seconds,
                    timeout_seconds=timeout_seconds,
                )
                found = await busy.until_free(
                    client, owners, pace, by_account=by_account, on_change=logger.info
                )
            else:
                found = await busy.look(client, owners, by_account=by_account)
        if found.unclear:
            logger.warning(
                "%d open jobs do not tell which account they belong to; queueing behind them",
                found.unclear,
            )
        if found.owners:
            logger.warning("Left out, because they have open jobs: %s", ", ".join(found.owners))
        free = [owner for owner in owners if owner not in found.owners]
        if key is not None:
            await keep(key, free)
        return free

    return run_blocking(look())


def _lateness(run: FlowRun) -> timedelta:
    """From the scheduled time to the first start."""
    if run.expected_start_time is None or run.start_time is None:
        return timedelta(0)
    return run.start_time - run.expected_start_time


def _is_deliberate(run: FlowRun) -> bool:
    """Whether somebody had the run tried again, also where it had ended before it began."""
    if run.run_count > 1:
        return True
    with get_client(sync_client=True) as prefect:
        return any(state.is_final() for state in prefect.read_flow_run_states(run.id))


def _first_of_slot(run: FlowRun) -> FlowRun | None:
    """The run of the same deployment and slot that goes before this one; None usually.

    The one that was created first goes first, unless it ended before it began. Runs with other
    parameters belong to another schedule of the deployment.
    """
    if not run.auto_scheduled or run.deployment_id is None or run.expected_start_time is None:
        return None
    slot = FlowRunFilterExpectedStartTime(
        after_=run.expected_start_time, before_=run.expected_start_time
    )
    with get_client(sync_client=True) as prefect:
        runs = prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
                expected_start_time=slot,
            )
        )
    earlier = [
        other
        for other in runs
        if other.auto_scheduled
        and other.parameters == run.parameters
        and _order(other) < _order(run)
        and not _never_began(other)
    ]
    return min(earlier, key=_order, default=None)


def _order(run: FlowRun) -> tuple[float, UUID]:
    return (run.created.timestamp() if run.created else 0.0, run.id)


def _never_began(run: FlowRun) -> bool:
    # Not `start_time`: Prefect sets it when a run ends, also one that never began.
    return run.state is not None and run.state.is_final() and run.run_count == 0


def _has_submitted(flow_run_id: UUID, flow: Flow[..., Any] | None) -> bool:
    """Whether the run noted a submission: it had passed this guard by then."""
    return bool(run_blocking(submitted_by(flow_run_id, flow)))
