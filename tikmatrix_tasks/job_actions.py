"""Acting on certain jobs, and on no other: stop, delete, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import (
    ApiError,
    BadRequestError,
    HttpStatusError,
    NotFoundError,
    PlanError,
    TikMatrixError,
)
from tikmatrix_tasks.intent import Intent
from tikmatrix_tasks.jobs import Batch, Job, JobStatus
from tikmatrix_tasks.retries import is_in_doubt, may_retry
from tikmatrix_tasks.rows import row_or_none
from tikmatrix_tasks.submission import created_by, utc_now


@dataclass(frozen=True)
class Stopped:
    """Job ids of a submission that was stopped; `unclear` may be somebody else's and go on."""

    job_ids: tuple[int, ...] = ()
    still_open: tuple[int, ...] = ()
    unclear: tuple[int, ...] = ()


STOP_SETTLES_SECONDS = 10.0
"""How long a stopped job may still show as running; an assumption, the docs say nothing of it."""
STOP_BUDGET_SECONDS = 300.0
"""How long stopping puts up with missing answers; a program that is closed runs no job."""


OnStopped = Callable[[Job], None]
"""Told of each job that was pending or running, and is no more; its row is that of before."""


async def stop(
    client: TikMatrixClient,
    job_ids: Iterable[int],
    *,
    revival_seconds: float,
    on_stopped: OnStopped = lambda job: None,
) -> tuple[int, ...]:
    """Stop running jobs, and keep pending ones from starting and failed ones from reviving.

    The API documents `stop` for running jobs only. A job that is still pending after it is
    deleted, because it would start otherwise. Jobs that have ended, or are gone, are left alone;
    a failed one is watched for `revival_seconds`, because Auto Retry may run it again.

    Returns:
        The ids that still show as pending or running after `STOP_SETTLES_SECONDS`.

    Raises:
        TikMatrixError: answers were missing for `STOP_BUDGET_SECONDS`, or refused; some jobs may
            go on. Safe to call again.
    """
    now = asyncio.get_running_loop().time
    settled_by, watched_until = now() + STOP_SETTLES_SECONDS, now() + revival_seconds
    silent_since: float | None = None
    watched = list(dict.fromkeys(job_ids))
    asked: dict[int, Job] = {}
    while True:
        failure: TikMatrixError | None = None
        still_open: list[int] = []
        for job_id in list(watched):  # a failure with one must not keep the others running
            try:
                status = await _told_to_end(client, job_id, asked)
            except TikMatrixError as err:
                failure = err
                continue
            if status in (JobStatus.PENDING, JobStatus.RUNNING):
                still_open.append(job_id)
                continue
            if job_id in asked:
                job = asked.pop(job_id)
                if status is not JobStatus.COMPLETED:  # it was faster
                    on_stopped(job)
            if status is not JobStatus.FAILED or now() >= watched_until:
                watched.remove(job_id)
        if failure is not None:
            silent_since = now() if silent_since is None else silent_since
            too_long = now() - silent_since >= STOP_BUDGET_SECONDS
            if too_long or not may_retry(failure, "remove"):
                raise failure
            await asyncio.sleep(1)
            continue
        silent_since = None
        if not watched or (still_open and now() >= max(settled_by, watched_until)):
            return tuple(still_open)
        await asyncio.sleep(0.5 if still_open else 2.0)


async def stop_submitted(
    client: TikMatrixClient,
    intent: Intent | None,
    batch: Batch | None,
    *,
    settle_seconds: float,
    revival_seconds: float,
    on_stopped: OnStopped = lambda job: None,
    utc_now: Callable[[], datetime] = utc_now,
) -> Stopped:
    """Stop what a submission created, also where no answer told which jobs these are.

    Without a batch, jobs are looked for until `settle_seconds` after the intent was noted, and
    those that certainly are the submission's are stopped as they are found.
    """
    if batch is not None:
        still_open = await stop(
            client, batch.job_ids, revival_seconds=revival_seconds, on_stopped=on_stopped
        )
        return Stopped(batch.job_ids, still_open)
    if intent is None:
        return Stopped()
    loop = asyncio.get_running_loop()
    age = (utc_now() - intent.noted_at).total_seconds()
    settled_at = loop.time() + max(settle_seconds - age, 0)
    while True:
        last_look = loop.time() >= settled_at
        found = await created_by(client, intent, looks=2)
        watch = revival_seconds if last_look else 0
        still_open = await stop(client, found.job_ids, revival_seconds=watch, on_stopped=on_stopped)
        if last_look:
            return Stopped(found.job_ids, still_open, tuple(found.unclear))


async def _told_to_end(
    client: TikMatrixClient, job_id: int, asked: dict[int, Job]
) -> JobStatus | None:
    """Ask one job to end if it has to, and return its status then; None when it is gone.

    Those that did as they were asked are noted in `asked`.
    """
    job = await row_or_none(client, job_id)
    if job is None or job.known_status in (JobStatus.COMPLETED, JobStatus.FAILED):
        return None if job is None else job.known_status
    try:
        await client.stop_job(job_id)
    except NotFoundError:
        return None
    except BadRequestError:
        if job.known_status is not JobStatus.PENDING:
            return job.known_status  # it may just have ended: the next look tells
    asked[job_id] = job
    job = await row_or_none(client, job_id)
    if job is not None and job.known_status is JobStatus.PENDING:
        await delete(client, [job_id])
        return None
    return None if job is None else job.known_status


async def delete(client: TikMatrixClient, job_ids: Iterable[int]) -> None:
    """Delete jobs; running ones are stopped first. Jobs that are gone already count as deleted.

    One call each: what the batch call does when one of its ids is unknown is not documented.
    """
    failure: TikMatrixError | None = None
    for job_id in job_ids:  # a failure with one must not keep the others
        try:
            await client.delete_job(job_id)
        except NotFoundError:
            continue
        except TikMatrixError as err:
            failure = err
    if failure is not None:
        raise failure


DELETED_AT_ONCE = 100


async def delete_completed(client: TikMatrixClient, job_ids: Sequence[int]) -> None:
    """Delete completed jobs, many with one call, or one by one where that call is refused.

    Completed jobs stay completed, so none can be running by the time it is deleted. What the batch
    call does when one of its ids is unknown is not documented: a refusal may have deleted some.
    """
    for first in range(0, len(job_ids), DELETED_AT_ONCE):
        some = job_ids[first : first + DELETED_AT_ONCE]
        try:
            await client.delete_jobs(some)
        except PlanError:
            raise
        except (ApiError, HttpStatusError):
            await delete(client, some)


async def delete_failed(client: TikMatrixClient, job_ids: Iterable[int]) -> tuple[int, ...]:
    """Delete those of these jobs that still show as failed, and return the ids that are gone."""
    gone = []
    for job_id in job_ids:
        job = await row_or_none(client, job_id)
        if job is not None and job.known_status is JobStatus.FAILED:
            await delete(client, [job_id])
        elif job is not None:
            continue
        gone.append(job_id)
    return tuple(gone)


async def retry(
    client: TikMatrixClient,
    job_ids: Iterable[int],
    on_refusal: Callable[[int, str], None] = lambda job_id, why: None,
) -> tuple[int, ...]:
    """Run those jobs again that have failed, under the same ids.

    A refusal is TikMatrix's right: past its Max Retry Count it retries no more.

    Returns:
        The ids that are pending or running now.

    Raises:
        TikMatrixError: a retry was not sent, or is in doubt while its job still shows as failed.
    """
    open_again: list[int] = []
    for job_id in job_ids:
        job = await row_or_none(client, job_id)
        if job is None or job.known_status is JobStatus.COMPLETED:
            continue
        if job.known_status is JobStatus.FAILED:
            try:
                await client.retry_job(job_id)
            except (BadRequestError, NotFoundError) as refusal:
                on_refusal(job_id, refusal.message)
                continue
            except TikMatrixError as err:
                job = await row_or_none(client, job_id) if is_in_doubt(err) else None
                if job is None or job.known_status is JobStatus.FAILED:
                    raise
        open_again.append(job_id)
    return tuple(open_again)
