"""Publish what a table lists, each row once ever."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow

from tikmatrix_tasks import (
    Report,
    conclude_each,
    conclude_plan,
    read_post_table,
    reason_to_skip,
    run_each_job,
    skip,
    stop_jobs_on_cancel,
)
from tikmatrix_tasks.parameters import (
    Connection,
    DryRun,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    RepeatFailed,
    RetryFailed,
    Success,
    TimeoutSeconds,
    WhenBusy,
    on_form,
)


@stop_jobs_on_cancel
@flow(name="post-from-table", flow_run_name="post from table")
def post_from_table(
    table: Annotated[
        Path,
        on_form(
            "Table",
            "A .csv or .json file on the worker's machine, such as C:/posts.csv. What it holds, "
            "docs/post_from_table.md says.",
        ),
    ],
    repeat_failed: RepeatFailed = False,
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
    """Publish each row of a table once ever, however often the table is run.

    The whole table is checked first; a table with a wrong row posts nothing. The run's state tells
    how many rows were posted now, were posted before, failed and why, or were not started and why.
    """
    rows = read_post_table(table)
    reason = None if dry_run else reason_to_skip(max_lateness_minutes)
    if reason is not None:
        return skip(reason)
    report = run_each_job(
        rows,
        timeout_seconds=timeout_seconds,
        on_timeout=on_timeout,
        retry_failed=retry_failed,
        repeat_failed=repeat_failed,
        max_jobs=max_jobs,
        when_busy=when_busy,
        exclusive_phones=exclusive_phones,
        dry_run=dry_run,
        tikmatrix=tikmatrix,
    )
    if dry_run:
        return conclude_plan(report, "posted")
    return conclude_each(report, "posted", success=success)
