"""Acting on certain jobs, and on no other: stop, delete, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import BadRequestError, NotFoundError, TikMatrixError
from tikmatrix_tasks.jobs import JobStatus
from tikmatrix_tasks.retries import is_in_doubt
from tikmatrix_tasks.rows import row_or_none

STOP_SETTLES_SECONDS = 10.0
"""How long a stopped job may still show as running; an assumption, the docs say nothing of it."""


async def stop(client: TikMatrixClient, job_ids: Iterable[int]) -> tuple[int, ...]:
    """Stop running jobs and keep pending ones from starting.

    The API documents `stop` for running jobs only. A job that is still pending after it is
    deleted, because it would start otherwise. Jobs that have ended, or are gone, are left alone.

    Returns:
        The ids that still show as pending or running after `STOP_SETTLES_SECONDS`.

    Raises:
        TikMatrixError: an answer was missing or refused; some jobs may go on. Safe to call again.
    """
    settled_by = asyncio.get_running_loop().time() + STOP_SETTLES_SECONDS
    remaining = tuple(dict.fromkeys(job_ids))
    while True:
        remaining = tuple([job_id for job_id in remaining if await _still_open(client, job_id)])
        if not remaining or asyncio.get_running_loop().time() >= settled_by:
            return remaining
        await asyncio.sleep(0.5)


async def _still_open(client: TikMatrixClient, job_id: int) -> bool:
    """Ask one job to end, and tell whether it still has to."""
    job = await row_or_none(client, job_id)
    if job is None or job.known_status in (JobStatus.COMPLETED, JobStatus.FAILED):
        return False
    try:
        await client.stop_job(job_id)
    except NotFoundError:
        return False
    except BadRequestError:
        if job.known_status is not JobStatus.PENDING:
            return True  # it may just have ended: its row decides at the next look
    job = await row_or_none(client, job_id)
    if job is not None and job.known_status is JobStatus.PENDING:
        await delete(client, [job_id])
        return False
    return job is not None and job.known_status is JobStatus.RUNNING


async def delete(client: TikMatrixClient, job_ids: Iterable[int]) -> None:
    """Delete jobs; running ones are stopped first. Jobs that are gone already count as deleted.

    One call each: what the batch call does when one of its ids is unknown is not documented.
    """
    for job_id in job_ids:
        try:
            await client.delete_job(job_id)
        except NotFoundError:
            continue


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
