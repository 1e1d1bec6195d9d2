"""Comment on posts from phones."""

from __future__ import annotations

from prefect import flow

from tikmatrix_tasks import (
    Report,
    run_name,
    run_script_flow,
    stop_jobs_on_cancel,
)
from tikmatrix_tasks.parameters import (
    Accounts,
    CommentSettings,
    Connection,
    DryRun,
    EveryAccount,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    Phones,
    RetryFailed,
    StartTime,
    Success,
    TimeoutSeconds,
    WhenBusy,
)


@stop_jobs_on_cancel
@flow(name="comment", flow_run_name=run_name("comment from"))
def comment(
    serials: Phones = None,
    usernames: Accounts = None,
    *,
    comment: CommentSettings,
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
    """Comment on each post from each phone, and wait until all is written.

    Phones or accounts: name one of the two.
    """
    return run_script_flow(
        comment,
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
