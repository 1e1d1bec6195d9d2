"""Warm phones up, and let each publish as soon as its own warm-up is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.futures import PrefectFuture

from tikmatrix_tasks import (
    AccountWarmup,
    Batch,
    JobReport,
    Outcome,
    Post,
    Report,
    SubmissionInDoubt,
    TikMatrixError,
    announce_ended,
    as_ended,
    check_license,
    conclude,
    count_of,
    expect_jobs,
    natural,
    phones_to_use,
    plan_jobs,
    reason_to_skip,
    report_of,
    run_name,
    skip,
    stop_jobs_on_cancel,
    submit_jobs,
    wait_for_each,
)
from tikmatrix_tasks import (
    exclusive_phones as phones_alone,
)
from tikmatrix_tasks.parameters import (
    Accounts,
    Connection,
    DryRun,
    Either,
    EveryAccount,
    ExclusivePhones,
    MaxJobs,
    MaxLatenessMinutes,
    OnTimeout,
    Phones,
    PostSettings,
    StartTime,
    Success,
    WarmupSettings,
    WhenBusy,
    on_form,
)


@stop_jobs_on_cancel
@flow(name="warmup-then-post", flow_run_name=run_name("warm up, then post on"))
def warmup_then_post(
    serials: Phones = None,
    usernames: Accounts = None,
    warmup: WarmupSettings = AccountWarmup(),  # noqa: B008 (frozen)
    post: PostSettings = Post(),  # noqa: B008 (frozen)
    post_when: Annotated[
        Literal["each", "all"],
        on_form(
            "When to post",
            "Each posts as soon as its own warm-up completed, or all post when all warm-ups did.",
        ),
    ] = "each",
    tikmatrix: Connection = None,
    enable_multi_account: EveryAccount = False,
    start_time: StartTime = None,
    max_lateness_minutes: MaxLatenessMinutes = None,
    when_busy: WhenBusy = "queue",
    exclusive_phones: ExclusivePhones = False,
    timeout_seconds: Annotated[
        float | None,
        Either("Seconds", unset="4 hours"),
        on_form(
            "Longest wait",
            "How long each warm-up, and then each post, is waited for, in seconds.",
            gt=0,
        ),
    ] = None,
    on_timeout: OnTimeout = "stop",
    success: Success = "any",
    max_jobs: MaxJobs = None,
    dry_run: DryRun = False,
) -> Report:
    """Warm up phones and publish on each whose warm-up completed.

    A phone whose warm-up failed does not post. The run's state tells how many posted and, for each
    other phone, why not. Phones or accounts: name one of the two.
    """
    options: dict[str, Any] = {
        "enable_multi_account": enable_multi_account,
        "max_jobs": max_jobs,
        "tikmatrix": tikmatrix,
    }
    patience: dict[str, Any] = {
        "timeout_seconds": timeout_seconds,
        "on_timeout": on_timeout,
        "tikmatrix": tikmatrix,
    }
    plan = plan_jobs(warmup, serials=serials, usernames=usernames, start_time=start_time, **options)
    posts = plan_jobs(post, serials=serials, usernames=usernames, **options)
    if dry_run:
        sentence = f"dry run: {plan}, then post where it completed; nothing was sent"
        return conclude(Report(), sentence, failed=False)

    if reason := reason_to_skip(max_lateness_minutes):
        return skip(reason)
    with phones_alone(serials, exclusive_phones, timeout_seconds):
        check_license(tikmatrix)
        free = phones_to_use(serials, when_busy, tikmatrix, timeout_seconds, usernames=usernames)
        if not free:
            return skip("every phone has open jobs already; nothing was sent")
        expect_jobs(plan.least_jobs + posts.least_jobs)
        report = _warm_up_and_post(
            warmup,
            post,
            free,
            "usernames" if usernames else "serials",
            post_when,
            start_time=start_time,
            options=options,
            patience=patience,
        )
    busy = [owner for owner in plan.owners if owner not in free]
    report += _posts_that(Outcome.NOT_STARTED, busy, "it had open jobs already")

    announce_ended(report, post.name, by_account=bool(usernames))
    posted = Report(jobs=tuple(job for job in report.jobs if job.script_name == post.name))
    unknown = any(job.outcome is Outcome.UNKNOWN for job in report.jobs)
    failed = unknown or not posted.completed or (success == "all" and not posted.ok)
    everyone = count_of(len(plan.owners), "account" if usernames else "phone")
    return conclude(report, _sentence(posted, plan.owners, everyone), failed=failed)


def _warm_up_and_post(
    warmup: AccountWarmup,
    post: Post,
    free: list[str],
    naming: str,
    post_when: Literal["each", "all"],
    *,
    start_time: str | None,
    options: dict[str, Any],
    patience: dict[str, Any],
) -> Report:
    """What became of each warm-up, and of the post that followed it or did not.

    `naming` tells whether `free` are "serials" or "usernames".
    """

    def publish(owners: Sequence[str], after: list[PrefectFuture[Report]]) -> Report:
        """Submit posts and begin to wait for them; tell what could not be submitted."""
        named: dict[str, Any] = {naming: list(owners)}
        try:
            batch = submit_jobs(post, **named, **options, wait_for=after)
        except TikMatrixError as err:
            in_doubt = isinstance(err, SubmissionInDoubt)
            outcome = Outcome.UNKNOWN if in_doubt else Outcome.NOT_CREATED
            return _posts_that(outcome, owners, str(err))
        posting.update(wait_for_each(batch, "post on {owner}", **patience))
        return _posts_that(Outcome.NOT_CREATED, _left_out(batch, posting), "TikMatrix made no job")

    named_all: dict[str, Any] = {naming: free}
    warmups = submit_jobs(warmup, **named_all, start_time=start_time, **options)
    warming = wait_for_each(warmups, "warm up {owner}", **patience)
    posting: dict[PrefectFuture[Report], Batch] = {}
    report = _posts_that(Outcome.NOT_STARTED, _left_out(warmups, warming), "no warm-up was created")
    ready: list[str] = []
    for wait in as_ended(warming):
        owners, warmed = warming[wait].owners, report_of(wait, warming[wait])
        report += warmed
        for owner in owners:
            why_not = _what_went_wrong(warmed, owner)
            if why_not:
                report += _posts_that(Outcome.NOT_STARTED, [owner], why_not)
            elif post_when == "each":
                report += publish([owner], after=[wait])
            else:
                ready.append(owner)
    announce_ended(report, warmup.name, by_account=naming == "usernames")
    if post_when == "all" and len(ready) == len(free):
        report += publish(free, after=list(warming))
    else:
        report += _posts_that(Outcome.NOT_STARTED, ready, "another warm-up did not complete")
    for wait in as_ended(posting):
        report += report_of(wait, posting[wait])
    return report


def _left_out(batch: Batch, waits: Mapping[PrefectFuture[Report], Batch]) -> list[str]:
    """The owners of a batch for whom TikMatrix created no job."""
    waited_for = {owner for part in waits.values() for owner in part.owners}
    return [owner for owner in batch.owners if owner not in waited_for]


def _posts_that(outcome: Outcome, owners: Sequence[str], why: str) -> Report:
    return Report(
        jobs=tuple(
            JobReport(script_name=Post.script_name, outcome=outcome, owner=owner, remark=why)
            for owner in owners
        )
    )


def _what_went_wrong(warmed: Report, owner: str) -> str | None:
    """Why a phone must not post; None when its warm-up completed.

    Where a failed job does not tell whose it is, it may be anybody's.
    """
    bad = [job for job in warmed.not_completed if job.owner in (owner, None)]
    if warmed.jobs and not bad:
        return None
    job = bad[0] if bad else JobReport(outcome=Outcome.UNKNOWN)
    open_still = job.outcome in (Outcome.PENDING, Outcome.RUNNING)
    became = f"last seen {job.outcome.value}" if open_still else job.outcome.value
    return f"warm-up {became}" + (f" ({job.remark})" if job.remark else "")


def _sentence(posts: Report, owners: Sequence[str], everyone: str) -> str:
    """`5 of 6 phones posted; phone-4: warm-up failed (element not found)`."""
    missed: dict[str, str] = {}
    for job in posts.not_completed:
        why = str(job) if job.job_id is not None else f"{job.owner}: {job.remark}"
        missed.setdefault(job.owner or str(job), why)  # one reason for each phone will do
    posted = len(owners) - len(missed)
    reasons = [missed[owner] for owner in sorted(missed, key=natural)]
    return "; ".join([f"{posted} of {everyone} posted", *reasons])
