"""Unfollow whom an earlier run followed: the second half of `follow_then_unfollow`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from tikmatrix_tasks import (
    FollowPair,
    Report,
    conclude_each,
    conclude_plan,
    count_of,
    reason_to_skip,
    run_each_job,
    skip,
    stop_jobs_on_cancel,
    unfollow_jobs,
)
from tikmatrix_tasks.parameters import (
    AccessMethod,
    Connection,
    DryRun,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    RetryFailed,
    Success,
    TimeoutSeconds,
    WhenBusy,
    on_form,
)


def _run_name() -> str:
    """`follow_then_unfollow` has named its run already, after the one that followed."""
    if (flow_run.name or "").startswith("unfollow "):
        return str(flow_run.name)
    return f"unfollow {count_of(len(flow_run.parameters.get('pairs') or ()), 'pair')}"


@stop_jobs_on_cancel
@flow(name="unfollow-pairs", flow_run_name=_run_name)
def unfollow_pairs(
    pairs: Annotated[
        list[FollowPair],
        on_form("Pairs", "Who unfollows whom. Each was followed by the run below."),
    ],
    followed_by: Annotated[
        UUID, on_form("Followed by", "The id of the flow run that followed them.")
    ],
    access_method: AccessMethod = "direct",
    tikmatrix: Connection = None,
    max_lateness_minutes: MaxLatenessMinutes = None,
    when_busy: WhenBusy = "queue",
    exclusive_phones: ExclusivePhones = False,
    timeout_seconds: TimeoutSeconds = None,
    on_timeout: OnTimeout = "stop",
    retry_failed: RetryFailed = 0,
    success: Success = "any",
    max_jobs: MaxJobs = None,
    dry_run: DryRun = False,
) -> Report:
    """Unfollow exactly these pairs, each once ever, however often it is run.

    `follow_then_unfollow` schedules runs of this flow. What its run did not follow is refused.
    """
    jobs = unfollow_jobs(pairs, followed_by, access_method)
    reason = None if dry_run else reason_to_skip(max_lateness_minutes)
    if reason is not None:
        return skip(reason)
    get_run_logger().info("Unfollowing what the flow run %s followed", followed_by)
    report = run_each_job(
        jobs,
        timeout_seconds=timeout_seconds,
        on_timeout=on_timeout,
        retry_failed=retry_failed,
        max_jobs=max_jobs,
        when_busy=when_busy,
        exclusive_phones=exclusive_phones,
        dry_run=dry_run,
        tikmatrix=tikmatrix,
    )
    if dry_run:
        return conclude_plan(report, "unfollowed")
    return conclude_each(report, "unfollowed", success=success)
