"""Ending jobs that must not run on. Doing it twice comes to the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import BadRequestError, NotFoundError
from tikmatrix_tasks.jobs import JobStatus
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
