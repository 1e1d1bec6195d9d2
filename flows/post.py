"""Publish on phones."""

from __future__ import annotations

from prefect import flow

from tikmatrix_tasks import Post, Report, run_name, run_script_flow, stop_jobs_on_cancel
from tikmatrix_tasks.parameters import (
    Accounts,
    Connection,
    DryRun,
    EveryAccount,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    Phones,
    PostSettings,
    RetryFailed,
    StartTime,
    Success,
    TimeoutSeconds,
    WhenBusy,
)


@stop_jobs_on_cancel
@flow(name="post", flow_run_name=run_name("post on"))
def post(
    serials: Phones = None,
    usernames: Accounts = None,
    post: PostSettings = Post(),  # noqa: B008 (frozen)
    tikmatrix: Connection = None,
    enable_multi_account: EveryAccount = False,
    start_time: StartTime = None,
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
    """Publish a video or images on each phone, and wait until each has.

    Phones or accounts: name one of the two.
    """
    return run_script_flow(
        post,
        serials=serials,
        usernames=usernames,
        tikmatrix=tikmatrix,
        start_time=start_time,
        enable_multi_account=enable_multi_account,
        timeout_seconds=timeout_seconds,
        on_timeout=on_timeout,
        retry_failed=retry_failed,
        success=success,
        max_jobs=max_jobs,
        when_busy=when_busy,
        exclusive_phones=exclusive_phones,
        max_lateness_minutes=max_lateness_minutes,
        dry_run=dry_run,
    )
