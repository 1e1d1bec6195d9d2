"""Follow users now, and unfollow later exactly those that were followed."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow

from tikmatrix_tasks import (
    Delay,
    Report,
    conclude,
    conclude_each,
    count_of,
    follow_jobs,
    pairs_that_completed,
    reason_to_skip,
    run_each_job,
    run_name,
    skip,
    stop_jobs_on_cancel,
    unfollow_later,
)
from tikmatrix_tasks.parameters import (
    Accounts,
    Connection,
    DryRun,
    ExclusivePhones,
    FollowSettings,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    Phones,
    RetryFailed,
    StartTime,
    Success,
    TimeoutSeconds,
    WhenBusy,
    on_form,
)


@stop_jobs_on_cancel
@flow(name="follow-then-unfollow", flow_run_name=run_name("follow, then unfollow, from"))
def follow_then_unfollow(
    serials: Phones = None,
    usernames: Accounts = None,
    *,
    follow: FollowSettings,
    unfollow_after: Annotated[
        Delay,
        on_form(
            "Unfollow after",
            "How long after the follows have ended whoever was followed is unfollowed.",
        ),
    ] = Delay(days=3),  # noqa: B008 (frozen)
    tikmatrix: Connection = None,
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
    """Follow users from each phone, and unfollow them later where the follow completed.

    The second half is a scheduled run of the deployment `unfollow-pairs`, which the UI shows from
    now on. Pairs that an earlier run followed and that are still to be unfollowed are left out.
    Phones or accounts: name one of the two.
    """
    jobs = follow_jobs(follow, serials=serials, usernames=usernames, start_time=start_time)
    later = unfollow_later(unfollow_after, tikmatrix)
    pending = later.pending() & {pair.key for pair in jobs}
    new = {pair: job for pair, job in jobs.items() if pair.key not in pending}
    left_out = count_of(len(pending), "pair")
    told = [f"{left_out} left out, followed earlier and still to be unfollowed"] if pending else []
    if dry_run:
        plan = f"dry run: {count_of(len(new), 'pair')} would be followed"
        return conclude(Report(), "; ".join([plan, *told, "nothing was sent"]), failed=False)
    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    if not new:
        return conclude(Report(), "; ".join(["0 followed", *told]), failed=False)
    patience: dict[str, Any] = {
        "timeout_seconds": timeout_seconds,
        "on_timeout": on_timeout,
        "retry_failed": retry_failed,
        "max_jobs": max_jobs,
        "exclusive_phones": exclusive_phones,
    }
    each = list(new.values())
    report = run_each_job(each, when_busy=when_busy, tikmatrix=tikmatrix, **patience)
    unfollowed, sentence = later.unfollow(
        pairs_that_completed(new, report),
        access_method=follow.access_method,
        success=success,
        patience=patience,
        tikmatrix=tikmatrix,
    )
    then = [*told, sentence]
    return conclude_each(report, "followed", success=success, then=then, later=unfollowed)
