"""Reading the rows of certain jobs, by pages where that is cheaper than one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import (
    JobsNotIdentified,
    NotFoundError,
    NotSentError,
    TikMatrixError,
)
from tikmatrix_tasks.jobs import Batch, Job, JobReport, JobStatus, Outcome

NEW_JOB_GRACE_SECONDS = 10.0
"""How long a job may answer 40401 after it was created; TikMatrix picks jobs up within 10 s."""
ASK_ONE_BY_ONE = 2
"""Up to so many jobs are asked for by id: a page of running and one of pending cost as much."""


async def row_or_none(client: TikMatrixClient, job_id: int) -> Job | None:
    """One job's row, or None when TikMatrix does not know the job (40401)."""
    try:
        return await client.get_job(job_id)
    except NotFoundError:
        return None


RowOrError = Job | TikMatrixError | None


async def read_rows(
    client: TikMatrixClient, job_ids: Collection[int], script_name: str | None = None
) -> dict[int, RowOrError]:
    """The row of each job, None for one that TikMatrix does not know (40401).

    Where asking for one job failed, that failure stands for its row: the others are not to suffer.

    Pages of running and of pending jobs first, whatever history TikMatrix keeps; then by id what
    no page showed: jobs that have ended, and any that slipped from page to page meanwhile.
    """
    rows: dict[int, RowOrError] = {}
    if len(job_ids) > ASK_ONE_BY_ONE:
        for status in (JobStatus.RUNNING, JobStatus.PENDING):
            if len(rows) < len(job_ids):
                async for job in client.iter_jobs(status=status, script_name=script_name):
                    if job.id in job_ids:
                        rows[job.id] = job
    for job_id in job_ids:
        if job_id not in rows:
            try:
                rows[job_id] = await row_or_none(client, job_id)
            except NotSentError:
                raise
            except TikMatrixError as err:
                rows[job_id] = err
    return rows


async def reports_on(client: TikMatrixClient, batch: Batch) -> list[JobReport]:
    """How each job of a batch stands now; those whose rows could not be read are left out.

    Raises:
        NotSentError: nothing listens at the address.
        UnknownJobStatus: a row shows a status that nobody documented.
    """
    rows = await read_rows(client, batch.job_ids, batch.script_name)
    return [
        JobReport(job_id=job_id, script_name=batch.script_name, outcome=Outcome.GONE)
        if row is None
        else row.report(owner_of(row, batch), batch.script_name)
        for job_id, row in rows.items()
        if not isinstance(row, TikMatrixError)
    ]


def owner_of(job: Job, batch: Batch) -> str | None:
    """The phone, or the account, that a job of this batch belongs to, where that is known."""
    told = job.username if batch.by_account else job.serial
    if told is None and len(batch.owners) == 1:
        return batch.owners[0]
    return told


async def split_by_owner(client: TikMatrixClient, batch: Batch) -> list[Batch]:
    """The part of a batch that each phone, or each account, has to do.

    A row need not tell its phone; then TikMatrix is asked which jobs a phone has, which is
    documented. Owners without a job are left out.

    Raises:
        JobsNotIdentified: neither tells.
    """
    owners = await _owners(client, batch)
    return [
        batch.part((job_id for job_id in batch.job_ids if owners[job_id] == owner), [owner])
        for owner in batch.owners
        if owner in owners.values()
    ]


async def _owners(client: TikMatrixClient, batch: Batch) -> dict[int, str]:
    if len(batch.owners) == 1:
        return dict.fromkeys(batch.job_ids, batch.owners[0])
    rows = await _all_rows(client, batch)
    owners: dict[int, str] = {}
    for job_id, job in rows.items():
        owner = owner_of(job, batch)
        if owner is not None:
            owners[job_id] = owner
    unclear = set(rows) - set(owners)
    if unclear and batch.by_account:
        raise JobsNotIdentified(tuple(sorted(unclear)), "no row tells which account it runs for")
    if unclear:
        owners |= await _owners_by_phone(client, batch, unclear)
    strangers = {job_id for job_id, owner in owners.items() if owner not in batch.owners}
    if strangers:
        raise JobsNotIdentified(tuple(sorted(strangers)), "they belong to a phone not asked for")
    deleted = [job_id for job_id in batch.job_ids if job_id not in rows]
    without = [owner for owner in batch.owners if owner not in owners.values()]
    if len(deleted) > len(without):
        raise JobsNotIdentified(tuple(deleted), "somebody deleted them")
    # Which deleted job was whose does not matter: each of these owners has none left.
    return owners | dict(zip(deleted, without, strict=False))


async def _all_rows(client: TikMatrixClient, batch: Batch) -> dict[int, Job]:
    """The rows of all jobs of a batch; a job that stays unknown is left out."""
    loop = asyncio.get_running_loop()
    grace_ends = loop.time() + NEW_JOB_GRACE_SECONDS
    while True:
        found = await read_rows(client, batch.job_ids, batch.script_name)
        for error in found.values():
            if isinstance(error, TikMatrixError):
                raise error
        rows = {job_id: job for job_id, job in found.items() if isinstance(job, Job)}
        if len(rows) == len(batch.job_ids) or loop.time() >= grace_ends:
            return rows
        await asyncio.sleep(1)


async def _owners_by_phone(
    client: TikMatrixClient, batch: Batch, unclear: set[int]
) -> dict[int, str]:
    """Ask which of these jobs each phone has, by the documented filter."""
    found: dict[int, str] = {}
    for serial in batch.owners:
        for status in JobStatus:
            if unclear <= set(found):
                break
            async for job in client.iter_jobs(
                serial=serial, status=status, script_name=batch.script_name
            ):
                if job.id in unclear and found.setdefault(job.id, serial) != serial:
                    raise JobsNotIdentified((job.id,), "several phones are said to have it")
    missing = unclear - set(found)
    if missing:
        raise JobsNotIdentified(tuple(sorted(missing)), "no phone is said to have them")
    return found
