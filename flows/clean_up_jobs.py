"""Delete old finished jobs from TikMatrix's list."""

from __future__ import annotations

from typing import Annotated

from prefect import flow

from tikmatrix_tasks import (
    Report,
    conclude,
    count_of,
    delete_finished_jobs,
    find_finished_jobs,
    reason_to_skip,
    skip,
)
from tikmatrix_tasks.parameters import (
    Connection,
    DryRun,
    MaxLatenessMinutes,
    OnlyOwn,
    RecordDays,
    ScriptName,
    SomePhones,
    on_form,
)


@flow(name="clean-up-jobs", flow_run_name="clean up jobs")
def clean_up_jobs(
    serials: SomePhones = None,
    script_name: ScriptName = None,
    min_age_days: Annotated[
        float, on_form("Older than", "Keep younger jobs, in days since they were created.", gt=0)
    ] = 7,
    keep_failed: Annotated[
        bool, on_form("Keep failed jobs", "Failed jobs stay in the list, with their reasons.")
    ] = True,
    only_own: OnlyOwn = True,
    record_days: RecordDays = 90,
    tikmatrix: Connection = None,
    max_lateness_minutes: MaxLatenessMinutes = None,
    dry_run: DryRun = False,
) -> Report:
    """Delete old completed jobs, and failed ones if told to; never pending or running ones.

    The result lists the jobs as they were.
    """
    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    old = find_finished_jobs(
        serials=serials,
        script_name=script_name,
        min_age_days=min_age_days,
        keep_failed=keep_failed,
        only_own=only_own,
        record_days=record_days,
        tikmatrix=tikmatrix,
    )
    if dry_run:
        found = f"{count_of(len(old.jobs), 'old job')} would be deleted"
        return conclude(Report(jobs=old.jobs), f"dry run: {found}{old.notes}", failed=False)
    deleted = delete_finished_jobs(old, tikmatrix=tikmatrix) if old.jobs else ()
    gone = Report(jobs=tuple(job for job in old.jobs if job.job_id in deleted))
    sentence = f"{count_of(len(deleted), 'old job')} deleted{old.notes}"
    return conclude(gone, sentence, failed=False)
