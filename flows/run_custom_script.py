"""Run a script that has no flow of its own."""

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
    Connection,
    DryRun,
    EveryAccount,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    Phones,
    RetryFailed,
    ScriptSettings,
    StartTime,
    Success,
    TimeoutSeconds,
    WhenBusy,
)


@stop_jobs_on_cancel
@flow(name="run-custom-script", flow_run_name=run_name("run custom script on"))
def run_custom_script(
    serials: Phones = None,
    usernames: Accounts = None,
    *,
    script: ScriptSettings,
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
    """Run any script of TikMatrix by its name, its settings untouched, and wait for its jobs.

    Which names there are depends on TikMatrix's version: `login`, `profile`, `match_account`, and
    those announced as coming soon, `like`, `message`, `super_marketing`, `scrape_user`. One that
    this TikMatrix does not run (code 40003) fails the run and says so. Phones or accounts: name
    one of the two.
    """
    return run_script_flow(
        script,
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
