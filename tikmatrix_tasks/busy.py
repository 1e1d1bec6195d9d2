"""Which phones or accounts have work already, whoever started it: on TikMatrix's screen, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import HttpStatusError, NotFoundError, PhonesBusy, TikMatrixError
from tikmatrix_tasks.jobs import Job, JobStatus
from tikmatrix_tasks.retries import may_retry

OPEN = (JobStatus.RUNNING, JobStatus.PENDING)
_SLOWER = 1.3  # after each look the next one is this much later


@dataclass(frozen=True)
class Busy:
    """The phones or accounts with open jobs; `unclear` is how many jobs do not tell whose."""

    owners: tuple[str, ...] = ()
    unclear: int = 0


@dataclass(frozen=True)
class Pace:
    """How often to look, and how long to put up with silence and with busy phones, in seconds."""

    poll_interval_seconds: float
    max_poll_interval_seconds: float
    outage_budget_seconds: float
    timeout_seconds: float


async def look(client: TikMatrixClient, owners: Sequence[str], *, by_account: bool) -> Busy:
    """Which of these phones or accounts have pending or running jobs.

    Phones are asked for by TikMatrix's own filter. An account is busy when an open job names it, or
    runs on its phone, where the rows and the accounts endpoint tell.
    """
    stats = await client.get_stats()
    if not stats.pending and not stats.running:
        return Busy()
    if by_account:
        return await _busy_accounts(client, owners)
    return Busy(tuple([phone for phone in owners if await _has_open_job(client, phone)]))


async def until_free(
    client: TikMatrixClient,
    owners: Sequence[str],
    pace: Pace,
    *,
    by_account: bool,
    on_change: Callable[[str], None],
) -> Busy:
    """Look until none of them has an open job. A look that fails says nothing about them.

    Raises:
        PhonesBusy: some still had when the time was up.
        TikMatrixError: no answer for longer than the outage budget, or one that asking again
            cannot mend.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + pace.timeout_seconds
    pause = pace.poll_interval_seconds
    silent_since: float | None = None
    told: tuple[str, ...] = ()
    while True:
        try:
            busy = await look(client, owners, by_account=by_account)
        except TikMatrixError as err:
            silent_since = now() if silent_since is None else silent_since
            if not may_retry(err, "read") or now() - silent_since >= pace.outage_budget_seconds:
                raise
        else:
            silent_since = None
            if not busy.owners:
                return busy
            if busy.owners != told:
                told = busy.owners
                on_change(f"waiting until the open jobs of {', '.join(told)} have ended")
        left = deadline - now()
        if left <= 0:
            raise PhonesBusy(told or tuple(owners), pace.timeout_seconds)
        await asyncio.sleep(min(pause, left))
        pause = min(pause * _SLOWER, pace.max_poll_interval_seconds)


async def _has_open_job(client: TikMatrixClient, serial: str) -> bool:
    for status in OPEN:
        async for job in client.iter_jobs(status=status, serial=serial):
            if job.serial in (None, serial):
                return True
    return False


async def _busy_accounts(client: TikMatrixClient, usernames: Sequence[str]) -> Busy:
    jobs = [job for status in OPEN async for job in client.iter_jobs(status=status)]
    phones = await _phones_of(client, usernames) if jobs else {}

    def has_open_job(username: str) -> bool:
        phone = phones.get(username)
        return any(
            job.username == username or (phone is not None and job.serial == phone) for job in jobs
        )

    def tells(job: Job) -> bool:
        return job.username is not None or (job.serial is not None and len(phones) > 0)

    return Busy(
        owners=tuple(username for username in usernames if has_open_job(username)),
        unclear=sum(not tells(job) for job in jobs),
    )


async def _phones_of(client: TikMatrixClient, usernames: Sequence[str]) -> dict[str, str]:
    """The phone of each account; empty where TikMatrix is older than its accounts endpoint."""
    try:
        return {
            account.username: account.device
            async for account in client.iter_accounts()
            if account.username in usernames and account.username and account.device
        }
    except (HttpStatusError, NotFoundError):
        return {}
