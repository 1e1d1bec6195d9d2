"""What every flow of one script does, from its guards to its concluded state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.errors import EndedBadly, TikMatrixUnreachable
from tikmatrix_tasks.events import announce_ended
from tikmatrix_tasks.guards import exclusive_phones as phones_alone
from tikmatrix_tasks.guards import phones_to_use, reason_to_skip, skip
from tikmatrix_tasks.jobs import JobReport, Outcome, Report, first_few
from tikmatrix_tasks.observability import conclude, count_of
from tikmatrix_tasks.scripts import Script
from tikmatrix_tasks.tasks import check_license, plan_jobs, submit_jobs, wait_for_jobs

DONE = {
    "post": "posted",
    "follow": "followed",
    "unfollow": "unfollowed",
    "comment": "commented",
    "account_warmup": "warmed up",
}
"""What a script has done where its job completed; of any other it is said by name."""
MOST_REASONS = 10
"""How many jobs a run's state names; its report has all."""


def run_script_flow(
    script: Script,
    *,
    serials: Sequence[str] | None = None,
    usernames: Sequence[str] | None = None,
    tikmatrix: TikMatrix | None = None,
    start_time: str | None = None,
    enable_multi_account: bool = False,
    timeout_seconds: float | None = None,
    on_timeout: Literal["stop", "leave"] = "stop",
    retry_failed: int = 0,
    success: Literal["any", "all"] = "any",
    max_jobs: int | None = None,
    when_busy: Literal["queue", "wait", "skip"] = "queue",
    exclusive_phones: bool = False,
    max_lateness_minutes: float | None = None,
    dry_run: bool = False,
) -> Report:
    """Run a script as a whole flow run, and conclude the run with what became of its jobs.

    Checks the arguments, then whether the run may happen at all (`reason_to_skip`), takes the
    phones (`exclusive_phones`, `phones_to_use`), creates the jobs, waits for their end, and ends
    the run as `success` says. To be returned by a flow, as with `conclude`; the arguments are the
    flows' parameters.
    """
    options: dict[str, Any] = {
        "start_time": start_time,
        "enable_multi_account": enable_multi_account,
        "max_jobs": max_jobs,
        "tikmatrix": tikmatrix,
    }
    plan = plan_jobs(script, serials=serials, usernames=usernames, **options)
    if dry_run:
        jobs = count_of(plan.least_jobs, "job")
        return conclude(Report(), f"dry run: {plan}, {jobs}; nothing was sent", failed=False)
    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    with phones_alone(serials, exclusive_phones, timeout_seconds):
        check_license(tikmatrix)
        free = phones_to_use(serials, when_busy, tikmatrix, timeout_seconds, usernames=usernames)
        if not free:
            return skip("every phone has open jobs already; nothing was sent")
        named: dict[str, Any] = {"serials" if serials else "usernames": free}
        batch = submit_jobs(script, **named, **options)
        unreachable = False
        try:
            report = wait_for_jobs(
                batch,
                timeout_seconds=timeout_seconds,
                on_timeout=on_timeout,
                retry_failed=retry_failed,
                fail_on="never",
                tikmatrix=tikmatrix,
            )
            sentence = _sentence(script, report)
        except EndedBadly as ended:
            report, sentence = ended.report, f"{script.name}: {ended}"
            unreachable = isinstance(ended, TikMatrixUnreachable)
    announce_ended(report, script.name, by_account=not serials)
    left_out = [owner for owner in plan.owners if owner not in free]
    if left_out:
        sentence += f"; left out, because they had open jobs: {', '.join(left_out)}"
    return conclude(report, sentence, failed=unreachable or _counts_as_failed(report, success))


def _counts_as_failed(report: Report, success: Literal["any", "all"]) -> bool:
    unknown = any(job.outcome is Outcome.UNKNOWN for job in report.jobs)
    return unknown or not report.completed or (success == "all" and not report.ok)


def _sentence(script: Script, report: Report) -> str:
    """`11 of 12 posted; phone-4: upload timed out`."""
    done = DONE.get(script.name)
    told = f"{len(report.completed)} of {len(report.jobs)} {done or 'completed'}"
    bad = report.not_completed
    whole = "; ".join([told, *first_few([*map(_became, bad)], MOST_REASONS)])
    return whole if done else f"{script.name}: {whole}"


def _became(job: JobReport) -> str:
    who = job.owner or f"job {job.job_id}"
    if job.outcome is Outcome.FAILED:
        return f"{who}: {job.remark or 'failed'}"
    return f"{who}: {job.outcome.value}" + (f" ({job.remark})" if job.remark else "")
