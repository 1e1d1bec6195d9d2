"""Run again what has failed."""

from __future__ import annotations

from typing import Annotated

from prefect import flow

from tikmatrix_tasks import (
    Report,
    claim_jobs,
    conclude,
    count_of,
    find_failed_jobs,
    reason_to_skip,
    retry_jobs,
    skip,
    stop_jobs_on_cancel,
    wait_for_jobs,
)
from tikmatrix_tasks.parameters import (
    Connection,
    DryRun,
    Either,
    MaxLatenessMinutes,
    OnlyOwn,
    OnTimeout,
    RecordDays,
    ScriptName,
    SomePhones,
    Success,
    TimeoutSeconds,
    on_form,
)


@stop_jobs_on_cancel
@flow(name="retry-failed-jobs", flow_run_name="retry failed jobs")
def retry_failed_jobs(
    serials: SomePhones = None,
    script_name: ScriptName = None,
    max_age_hours: Annotated[
        float, on_form("Not older than", "Leave older jobs as they are, in hours.", gt=0)
    ] = 24,
    only_own: OnlyOwn = True,
    record_days: RecordDays = 30,
    tikmatrix: Connection = None,
    max_lateness_minutes: MaxLatenessMinutes = None,
    timeout_seconds: TimeoutSeconds = None,
    on_timeout: OnTimeout = "stop",
    success: Success = "any",
    max_jobs: Annotated[
        int | None,
        Either("Jobs", unset="Usual limit"),
        on_form(
            "Most jobs",
            "Refuse to run more jobs again. The usual limit is the TikMatrix block's, or 200.",
            ge=1,
        ),
    ] = None,
    dry_run: DryRun = False,
) -> Report:
    """Run failed jobs again, under the same ids, and wait for their end.

    A job whose flow run still goes on is left to that run, and TikMatrix refuses a job that has
    used up its retries. Nothing else is touched: each job is asked for by its id.
    """
    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    failed = find_failed_jobs(
        serials=serials,
        script_name=script_name,
        max_age_hours=max_age_hours,
        only_own=only_own,
        max_jobs=max_jobs,
        record_days=record_days,
        tikmatrix=tikmatrix,
    )
    if not failed.jobs:
        return conclude(Report(), f"no failed job to run again{failed.notes}", failed=False)
    jobs = count_of(len(failed.jobs), "failed job")
    if dry_run:
        sentence = f"dry run: {jobs} would run again: {failed.named}{failed.notes}"
        return conclude(Report(jobs=failed.jobs), sentence, failed=False)
    claim_jobs(failed, tikmatrix=tikmatrix)
    retry_jobs(failed.job_ids, tikmatrix=tikmatrix)
    report = wait_for_jobs(
        failed.job_ids,
        timeout_seconds=timeout_seconds,
        on_timeout=on_timeout,
        fail_on="never",
        tikmatrix=tikmatrix,
    )
    bad = not report.completed or (success == "all" and not report.ok)
    return conclude(report, f"{jobs} run again: {report}{failed.notes}", failed=bad)
