"""The Prefect tasks. Each has an asynchronous twin with an `a` in front; the logic is written once.

Every task takes `tikmatrix`, a block; None means the settings
`PREFECT_INTEGRATIONS_TIKMATRIX_...`, and those default to `http://localhost:50809/api/v1`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from queue import Empty, SimpleQueue
from typing import Any, Literal

from prefect import get_run_logger
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture

from tikmatrix_tasks import job_actions, rows, submission, waiting
from tikmatrix_tasks.background import BLOCKED_SECONDS
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.board import shown_on_board
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import (
    InvalidRequest,
    JobsFailed,
    TikMatrixError,
    WaitTimedOut,
)
from tikmatrix_tasks.feed import Feed, feed_of_wait, telling
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import (
    Account,
    Batch,
    Job,
    JobReport,
    JobStatus,
    License,
    Report,
    Stats,
    tell_ids,
)
from tikmatrix_tasks.ledger import RunLedger, Submitted
from tikmatrix_tasks.parameter_errors import keep_parameters_out_of_logs
from tikmatrix_tasks.runs import outermost_run, place_of
from tikmatrix_tasks.scripts import Script
from tikmatrix_tasks.submission_keys import once_submission_key, submission_key
from tikmatrix_tasks.twins import CREATES, NO_RETRIES, READS, REMOVES, twins
from tikmatrix_tasks.watcher import Watcher, shared_watcher

keep_parameters_out_of_logs()

Jobs = Batch | Sequence[int]

DEFAULT_WAIT_SECONDS = 4 * 3600.0
"""How long `wait_for_jobs` waits unless told; a `start_time` adds up to a day."""


async def _check_license(tikmatrix: TikMatrix | None = None) -> License:
    """Ask TikMatrix which plan it runs under.

    Raises:
        PlanError: the plan has no API access (40301).
        NotSentError: nothing listens at the address, after about 21 s of trying.
    Source: TikMatrix docs, "Local API Overview", "Check API access".
    """
    feed = _feed(tikmatrix)
    async with _client(tikmatrix) as client:
        with telling(feed):
            license = await client.check_license()
    feed.license(license)
    return license


check_license, acheck_license = twins(
    "check_license", _check_license, task_run_name="check licence", **READS
)


async def _get_stats(tikmatrix: TikMatrix | None = None) -> Stats:
    """Ask how many jobs TikMatrix keeps, by status; everybody's, not only this project's."""
    async with _client(tikmatrix) as client:
        return await client.get_stats()


get_stats, aget_stats = twins("get_stats", _get_stats, task_run_name="count jobs", **READS)


async def _list_jobs(
    *,
    status: JobStatus | None = None,
    serial: str | None = None,
    script_name: str | None = None,
    source: Literal["ui", "api"] | None = None,
    limit: int = 1000,
    tikmatrix: TikMatrix | None = None,
) -> list[Job]:
    """List jobs that match, in TikMatrix's order. A log line says when `limit` cut the list."""
    jobs: list[Job] = []
    async with _client(tikmatrix) as client:
        async for job in client.iter_jobs(
            status=status, serial=serial, script_name=script_name, source=source
        ):
            if len(jobs) >= limit:
                get_run_logger().warning("More than %d jobs match; the rest is left out.", limit)
                break
            jobs.append(job)
    return jobs


list_jobs, alist_jobs = twins(
    "list_jobs",
    _list_jobs,
    task_run_name="list jobs",
    persist_result=False,  # rows hold the settings of jobs, anybody's
    **READS,
)


async def _list_accounts(
    *,
    platform: Literal["tiktok", "instagram"] | None = None,
    device: str | None = None,
    logined: bool | None = None,
    disabled: bool | None = None,
    tag: str | None = None,
    tikmatrix: TikMatrix | None = None,
) -> list[Account]:
    """List the accounts that match. `device` is a phone's serial.

    Raises:
        HttpStatusError, NotFoundError: an older TikMatrix has no such endpoint.
    """
    async with _client(tikmatrix) as client:
        return [
            account
            async for account in client.iter_accounts(
                platform=platform, device=device, logined=logined, disabled=disabled, tag=tag
            )
        ]


list_accounts, alist_accounts = twins(
    "list_accounts", _list_accounts, task_run_name="list accounts", **READS
)


def plan_jobs(
    script: Script,
    *,
    serials: Sequence[str] | None = None,
    usernames: Sequence[str] | None = None,
    enable_multi_account: bool = False,
    start_time: str | None = None,
    min_interval: int | None = None,
    max_interval: int | None = None,
    max_jobs: int | None = None,
    tikmatrix: TikMatrix | None = None,
) -> JobRequest:
    """What `submit_jobs` would ask TikMatrix for, by the same arguments. Sends nothing.

    Raises:
        InvalidRequest: naming the field that TikMatrix would refuse, or `max_jobs`.
    """
    for field, names in (("serials", serials), ("usernames", usernames)):
        if isinstance(names, str):
            raise InvalidRequest(field, "must be a list, also of one")
    request = JobRequest(
        script,
        serials=tuple(serials or ()),
        usernames=tuple(usernames or ()),
        enable_multi_account=enable_multi_account,
        start_time=start_time,
        min_interval=min_interval,
        max_interval=max_interval,
    )
    allowed = max_jobs if max_jobs is not None else _block(tikmatrix).settings.max_jobs
    request.refuse_above(allowed)
    return request


async def _submit_jobs(
    script: Script,
    *,
    serials: Sequence[str] | None = None,
    usernames: Sequence[str] | None = None,
    enable_multi_account: bool = False,
    start_time: str | None = None,
    min_interval: int | None = None,
    max_interval: int | None = None,
    max_jobs: int | None = None,
    on_doubt: Literal["fail", "adopt"] = "fail",
    once_key: str | None = None,
    tikmatrix: TikMatrix | None = None,
) -> Batch:
    """Create the jobs that run a script on phones (`serials`) or for accounts (`usernames`).

    One job per phone or account; for follow, unfollow and comment one per phone and target. The
    batch is kept by Prefect: a flow run that is retried, resumed or restarted after a crash gets
    it back instead of creating the jobs again. `start_time` is "HH:MM" on the TikMatrix machine's
    clock; `min_interval` and `max_interval` are minutes.

    Where no answer tells what became of the request, the jobs that are newer than it are looked
    at: all there, they are adopted; none after `settle_seconds`, it is sent again; some, only what
    is missing is sent. With `on_doubt="adopt"` jobs that may be ours are adopted where the default
    stops. `decisions` of the batch says what was decided and why.

    With a `once_key` the jobs are created once ever: every later call with the same key, of
    whichever run, gets the first one's batch, also where it asks for something else. Result storage
    remembers it. A call that TikMatrix refused, or did not get, does not count.

    Raises:
        InvalidRequest: a field that TikMatrix would refuse, or more than `max_jobs`; nothing sent.
        SubmissionInDoubt: which jobs exist because of it cannot be told. Nothing is sent again.
        PlanError, BadRequestError, ScriptNotSupported: TikMatrix refused (40301, 4000x).
        NotSentError: nothing listens at the address, after about 21 s of trying.
    Source: TikMatrix docs, "Task Management API", "Create Task".
    """
    block = _block(tikmatrix)
    settings = block.settings  # once: reading them takes 1.5 ms
    request = plan_jobs(
        script,
        serials=serials,
        usernames=usernames,
        enable_multi_account=enable_multi_account,
        start_time=start_time,
        min_interval=min_interval,
        max_interval=max_interval,
        max_jobs=settings.max_jobs if max_jobs is None else max_jobs,
    )
    if once_key is not None and not once_key.strip():
        raise InvalidRequest("once_key", "is empty")
    logger, feed = get_run_logger(), Feed.here(settings.base_url)
    ledger = _ledger(tikmatrix)
    async with AsyncExitStack() as held:
        if ledger is not None and once_key is not None:
            await held.enter_async_context(ledger.alone())
            kept = await ledger.read_batch()
            if kept is not None:  # another process was faster
                return kept
        client = await held.enter_async_context(block.get_client())
        await held.enter_async_context(_turn(settings.base_url))
        with telling(feed):
            batch = await submission.submit(
                client,
                request,
                ledger or submission.MemoryLedger(),
                patience=submission.Patience(
                    settle_seconds=settings.settle_seconds,
                    outage_budget_seconds=settings.outage_budget_seconds,
                ),
                on_doubt=on_doubt,
                on_decision=logger.warning,
            )
        if ledger is not None:
            await ledger.write_batch(batch)
    feed.submitted(batch)
    logger.info("Submitted %s: jobs %s", request, tell_ids(batch.job_ids) or "none")
    if batch.expected_jobs is not None and len(batch.job_ids) < batch.expected_jobs:
        logger.warning("TikMatrix created %d of %d jobs", len(batch.job_ids), batch.expected_jobs)
    return batch


def _ledger(tikmatrix: TikMatrix | None) -> RunLedger | None:
    """Where the current submission is kept; None where nothing could repeat it."""
    context = TaskRunContext.get()
    key = None if context is None else _submission_key(context, context.parameters)
    if key is None:
        return None
    run = outermost_run()
    return RunLedger(None if run is None else run.id, submitted_to(tikmatrix, key))


def submitted_to(tikmatrix: TikMatrix | None, key: str) -> Submitted:
    """The entry in a run's list of submissions for one under this key."""
    block = _block(tikmatrix)
    name = block._block_document_name
    return Submitted(key=key, base_url=block.settings.base_url, block_name=name)


_turns: dict[str, asyncio.Lock] = {}


def _turn(base_url: str) -> asyncio.Lock:
    """One submission at a time for each TikMatrix, so that newer jobs are not another's."""
    return _turns.setdefault(base_url, asyncio.Lock())


def _planned(parameters: dict[str, Any]) -> JobRequest | None:
    """The request of a `submit_jobs` run; None when it would be refused, whatever its size."""
    others = ("on_doubt", "once_key", "max_jobs", "tikmatrix")
    arguments = {name: value for name, value in parameters.items() if name not in others}
    try:
        return plan_jobs(**arguments, max_jobs=sys.maxsize)
    except InvalidRequest:
        return None


def _submission_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    request, place = _planned(parameters), place_of(context)
    if request is not None and parameters["once_key"] is not None:
        return once_submission_key(parameters["once_key"])
    if request is None or place is None:
        return None  # outside a flow run there is nothing that could be retried as a whole
    return submission_key(
        place,
        base_url=_block(parameters["tikmatrix"]).settings.base_url,
        fingerprint=request.fingerprint(),
    )


def _submission_name(parameters: dict[str, Any]) -> str:
    return f"submit {_planned(parameters) or 'jobs'}"


submit_jobs, asubmit_jobs = twins(
    "submit_jobs",
    _submit_jobs,
    task_run_name=_submission_name,
    cache_key_fn=_submission_key,
    persist_result=True,
    result_serializer="json",
    refresh_cache=False,  # a setting that refreshes all caches must not post twice
    **CREATES,
)


async def _split_batch(batch: Batch, *, tikmatrix: TikMatrix | None = None) -> list[Batch]:
    """Find out which of a batch's jobs belong to each phone, or with `usernames` to each account.

    Raises:
        JobsNotIdentified: TikMatrix's rows do not tell.
    """
    async with _client(tikmatrix) as client:
        return await rows.split_by_owner(client, batch)


split_batch, asplit_batch = twins(
    "split_batch", _split_batch, task_run_name="find each phone's jobs", **READS
)


def _named_after_jobs(verb: str) -> Callable[[dict[str, Any]], str]:
    def name(parameters: dict[str, Any]) -> str:
        batch = _as_batch(parameters["jobs"])
        whose = f" of {batch.owners[0]}" if len(batch.owners) == 1 else ""
        return f"{verb} {batch}{whose}"

    return name


async def _wait_for_jobs(
    jobs: Jobs,
    *,
    timeout_seconds: float | None = None,
    on_timeout: Literal["stop", "leave"] = "stop",
    retry_failed: int = 0,
    fail_on: Literal["any", "all", "never"] = "any",
    tikmatrix: TikMatrix | None = None,
) -> Report:
    """Wait until every job of a batch, or of a list of ids, has ended.

    A poll that fails says nothing about a job. A failed job is final only after
    `failure_grace_seconds`, because TikMatrix's Auto Retry may revive it until then.
    `timeout_seconds` counts from here; by default 4 hours, and a day more with a `start_time`.
    `on_timeout` tells whether the open jobs are then stopped or left running. `retry_failed` is how
    often those of these jobs that have failed are run again, after the grace; a refusal is kept to.

    Raises:
        JobsFailed: some jobs (`fail_on="any"`), or all of them (`"all"`), did not complete.
        WaitTimedOut: the time was up.
        TikMatrixUnreachable: no answer for longer than `outage_budget_seconds`; jobs may go on.
        UnknownJobStatus: a job shows a status that nobody documented.
        PlanError: the plan has no API access any more (40301).
    All but the last two carry the `report`.
    """
    batch = _as_batch(jobs)
    settings = _block(tikmatrix).settings
    if timeout_seconds is None:
        timeout_seconds = DEFAULT_WAIT_SECONDS + (waiting.DAY_SECONDS if batch.start_time else 0)

    async def again(job_ids: Sequence[int]) -> Sequence[int]:
        async with _client(tikmatrix) as client:
            return await job_actions.retry(client, job_ids, _refused)

    pace = waiting.Pace(
        poll_interval_seconds=settings.poll_interval_seconds,
        max_poll_interval_seconds=settings.max_poll_interval_seconds,
        failure_grace_seconds=settings.failure_grace_seconds,
        outage_budget_seconds=settings.outage_budget_seconds,
    )
    watcher = _watcher(tikmatrix)
    async with (
        shown_on_board(batch, lambda: watcher.answered_at) as shown,
        feed_of_wait(settings.base_url, batch) as feed,
    ):

        def saw(jobs: Sequence[JobReport]) -> None:
            shown.saw(jobs)
            feed.jobs(jobs)

        def silent(why: TikMatrixError | None) -> None:
            shown.silent(why)
            feed.silence(why)

        try:
            report = await waiting.follow(
                watcher,
                batch,
                pace,
                timeout_seconds=timeout_seconds,
                retry_failed=retry_failed,
                retry=again,
                on_change=get_run_logger().info,
                on_jobs=saw,
                on_ended=feed.ended,
                on_silence=silent,
            )
            feed.over(report)
        except WaitTimedOut as late:
            ended = "were left running"
            if on_timeout == "stop":
                ended = await _stop_overdue(batch, tikmatrix)
                shown.saw(await _look_again(batch, tikmatrix))
            raise WaitTimedOut(f"{late}; the open jobs {ended}", late.report) from late
    if fail_on != "never" and not report.ok and (fail_on == "any" or not report.completed):
        raise JobsFailed(str(report), report)
    return report


async def _stop_overdue(batch: Batch, tikmatrix: TikMatrix | None) -> str:
    """Stop what a wait has no more time for, and say how that went."""
    async with _client(tikmatrix) as client:
        try:
            grace = _block(tikmatrix).settings.failure_grace_seconds
            still_open = await job_actions.stop(
                client,
                batch.job_ids,
                revival_seconds=grace,
                on_stopped=_feed(tikmatrix).stopped,
            )
        except TikMatrixError as err:
            return f"could not be stopped and may go on ({err})"
    ids = tell_ids(still_open)
    return f"were stopped, but {ids} still show as open" if ids else "were stopped"


async def _look_again(batch: Batch, tikmatrix: TikMatrix | None) -> list[JobReport]:
    async with _client(tikmatrix) as client:
        try:
            return await rows.reports_on(client, batch)
        except TikMatrixError:
            return []


wait_for_jobs, await_for_jobs = twins(
    "wait_for_jobs",
    _wait_for_jobs,
    task_run_name=_named_after_jobs("wait for"),
    **NO_RETRIES,
)


def wait_for_each(
    batch: Batch, run_name: str, **arguments: Any
) -> dict[PrefectFuture[Report], Batch]:
    """Submit a `wait_for_jobs` for each phone or account of a batch, to run side by side.

    The task runs are named after `run_name`, in which `{owner}` stands for the phone or account;
    `arguments` go to each. Where TikMatrix does not tell the owners apart, one wait follows all.
    """
    parts = [batch]
    if len(batch.owners) > 1:
        try:
            parts = split_batch(batch, tikmatrix=arguments.get("tikmatrix"))
        except TikMatrixError as err:  # the jobs run all the same
            get_run_logger().warning("Waiting for all jobs as one: %s", err)
    return {
        wait_for_jobs.with_options(
            task_run_name=run_name.replace("{owner}", ", ".join(part.owners))
        ).submit(part, **arguments): part
        for part in parts
    }


def as_ended(waits: Iterable[PrefectFuture[Report]]) -> Iterator[PrefectFuture[Report]]:
    """Yield submitted waits as they end.

    Like Prefect's `as_completed`, which blocks without a break; here an interrupt gets through on
    Windows too.
    """
    waits = list(waits)
    ended: SimpleQueue[PrefectFuture[Report]] = SimpleQueue()
    for wait in waits:
        wait.add_done_callback(ended.put)
    for _ in waits:
        while True:
            try:
                wait = ended.get(timeout=BLOCKED_SECONDS)
            except Empty:
                continue
            yield wait
            break


async def _run_script(
    script: Script,
    *,
    serials: Sequence[str] | None = None,
    usernames: Sequence[str] | None = None,
    enable_multi_account: bool = False,
    start_time: str | None = None,
    min_interval: int | None = None,
    max_interval: int | None = None,
    max_jobs: int | None = None,
    on_doubt: Literal["fail", "adopt"] = "fail",
    once_key: str | None = None,
    timeout_seconds: float | None = None,
    on_timeout: Literal["stop", "leave"] = "stop",
    retry_failed: int = 0,
    fail_on: Literal["any", "all", "never"] = "any",
    tikmatrix: TikMatrix | None = None,
) -> Report:
    """Create the jobs of a script and wait until each has ended: `submit_jobs`, `wait_for_jobs`.

    The two are task runs of their own, so a retried flow run waits for the jobs it has. Arguments
    and errors are theirs.
    """
    batch = await asubmit_jobs(
        script,
        serials=serials,
        usernames=usernames,
        enable_multi_account=enable_multi_account,
        start_time=start_time,
        min_interval=min_interval,
        max_interval=max_interval,
        max_jobs=max_jobs,
        on_doubt=on_doubt,
        once_key=once_key,
        tikmatrix=tikmatrix,
    )
    return await await_for_jobs(
        batch,
        timeout_seconds=timeout_seconds,
        on_timeout=on_timeout,
        retry_failed=retry_failed,
        fail_on=fail_on,
        tikmatrix=tikmatrix,
    )


run_script, arun_script = twins(
    "run_script",
    _run_script,
    task_run_name=lambda parameters: f"run {parameters['script'].name}",
    **NO_RETRIES,
)


async def _stop_jobs(jobs: Jobs, *, tikmatrix: TikMatrix | None = None) -> tuple[int, ...]:
    """Stop running jobs and keep pending ones from starting, by deleting them if need be.

    Jobs that have ended or are gone are left alone, so calling it twice is safe. A failed job is
    watched for `failure_grace_seconds`, because Auto Retry would run it again.

    Returns:
        The ids that still show as pending or running 10 s later.
    """
    async with _client(tikmatrix) as client:
        return await job_actions.stop(
            client,
            _as_batch(jobs).job_ids,
            revival_seconds=_block(tikmatrix).settings.failure_grace_seconds,
            on_stopped=_feed(tikmatrix).stopped,
        )


stop_jobs, astop_jobs = twins(
    "stop_jobs",
    _stop_jobs,
    task_run_name=_named_after_jobs("stop"),
    **REMOVES,
)


async def _delete_jobs(jobs: Jobs, *, tikmatrix: TikMatrix | None = None) -> None:
    """Delete jobs; TikMatrix stops running ones first. Jobs that are gone count as deleted."""
    async with _client(tikmatrix) as client:
        await job_actions.delete(client, _as_batch(jobs).job_ids)


delete_jobs, adelete_jobs = twins(
    "delete_jobs",
    _delete_jobs,
    task_run_name=_named_after_jobs("delete"),
    **REMOVES,
)


async def _retry_jobs(jobs: Jobs, *, tikmatrix: TikMatrix | None = None) -> tuple[int, ...]:
    """Run those of these jobs again that have failed, under the same ids. No other job is touched.

    TikMatrix refuses a retry past its Max Retry Count; a log line says so.

    Returns:
        The ids that are pending or running now.

    Raises:
        NotSentError, NoAnswerError, InternalError: a retry was not sent, or is in doubt while its
            job still shows as failed.
    """
    async with _client(tikmatrix) as client:
        return await job_actions.retry(client, _as_batch(jobs).job_ids, _refused)


def _refused(job_id: int, why: str) -> None:
    get_run_logger().warning("Job %d is not retried: %s", job_id, why)


retry_jobs, aretry_jobs = twins(
    "retry_jobs",
    _retry_jobs,
    task_run_name=_named_after_jobs("retry"),
    **CREATES,
)


def _as_batch(jobs: Jobs) -> Batch:
    return jobs if isinstance(jobs, Batch) else Batch.of(jobs)


def _block(tikmatrix: TikMatrix | None) -> TikMatrix:
    return tikmatrix if tikmatrix is not None else TikMatrix()


def _watcher(tikmatrix: TikMatrix | None) -> Watcher:
    block = _block(tikmatrix)
    return shared_watcher(block.connection, block.get_client)


def _feed(tikmatrix: TikMatrix | None) -> Feed:
    return Feed.here(_block(tikmatrix).settings.base_url)


def _client(tikmatrix: TikMatrix | None) -> TikMatrixClient:
    return _block(tikmatrix).get_client()
