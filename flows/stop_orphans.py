"""Stop jobs that nobody waits for any more."""

from __future__ import annotations

from typing import Annotated

from prefect import flow

from tikmatrix_tasks import (
    Report,
    conclude,
    count_of,
    find_orphans,
    reason_to_skip,
    skip,
    stop_jobs,
)
from tikmatrix_tasks.parameters import (
    Connection,
    MaxLatenessMinutes,
    RecordDays,
    SomePhones,
    on_form,
)


@flow(name="stop-orphans", flow_run_name="stop orphans")
def stop_orphans(
    serials: SomePhones = None,
    over_for_minutes: Annotated[
        float,
        on_form(
            "Over for",
            "How many minutes ago a flow run must have ended before its jobs count as orphans. "
            "Until then a crashed run may be tried again, and waits for them.",
            ge=0,
        ),
    ] = 60,
    record_days: RecordDays = 30,
    tikmatrix: Connection = None,
    max_lateness_minutes: MaxLatenessMinutes = None,
    dry_run: Annotated[
        bool, on_form("Dry run", "Only show the orphans. Switch it off to stop them.")
    ] = True,
) -> Report:
    """Stop pending and running jobs whose flow runs are over, however these ended.

    Only jobs that this project's own records name; never what people started on TikMatrix's screen.
    Jobs that were left running on purpose, by `on_timeout` for instance, are orphans too: look at
    a dry run first. The result lists the jobs as they were found.
    """
    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    orphans = find_orphans(
        serials=serials,
        over_for_minutes=over_for_minutes,
        record_days=record_days,
        tikmatrix=tikmatrix,
    )
    report = Report(jobs=orphans.jobs)
    if not orphans.jobs:
        return conclude(report, f"no orphans{orphans.notes}", failed=False)
    found = f"{count_of(len(orphans.jobs), 'orphan')}: {orphans.named}{orphans.notes}"
    if dry_run:
        return conclude(report, f"dry run, nothing was stopped; {found}", failed=False)
    still_open = stop_jobs(orphans.job_ids, tikmatrix=tikmatrix)
    if still_open:
        ids = ", ".join(map(str, still_open))
        return conclude(report, f"jobs {ids} could not be stopped; {found}", failed=True)
    return conclude(report, f"stopped {found}", failed=False)
