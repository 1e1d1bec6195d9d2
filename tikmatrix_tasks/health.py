"""Looking at a TikMatrix as a whole: its licence, its queues, its phones and their accounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import HttpStatusError, InvalidRequest, NotFoundError, TikMatrixError
from tikmatrix_tasks.feed import Feed, telling
from tikmatrix_tasks.jobs import Account, Job, JobStatus, License
from tikmatrix_tasks.twins import READS, twins

LONGEST_QUEUE = 20
"""A phone with more open jobs than this needs a hand, unless told otherwise."""


class PhoneHealth(BaseModel):
    """One phone: its open jobs, and what its accounts tell. `online` is None where nothing does."""

    model_config = ConfigDict(frozen=True)

    serial: str
    running: int = 0
    pending: int = 0
    online: bool | None = None
    logged_out: tuple[str, ...] = ()
    """Enabled accounts that are not logged in."""


class Health(BaseModel):
    """What a look at TikMatrix came to. `concerns` are the things that need a hand."""

    model_config = ConfigDict(frozen=True)

    plan_name: str | None = None
    device_limit: int | None = None
    running: int = 0
    pending: int = 0
    phones: tuple[PhoneHealth, ...] = ()
    lists_accounts: bool = True
    """False: an older TikMatrix, which does not tell which phones are online or logged in."""
    concerns: tuple[str, ...] = ()

    def __str__(self) -> str:
        plan = f"plan {self.plan_name or 'not named'}"
        jobs = f"{self.running} running and {self.pending} pending jobs"
        unseen = "" if self.lists_accounts else "; this TikMatrix does not list its accounts"
        hand = f"needs a hand: {'; '.join(self.concerns)}" if self.concerns else "all is well"
        return f"{hand} ({plan}, {len(self.phones)} phones seen, {jobs}{unseen})"


async def _look_at_health(
    *,
    serials: Sequence[str] | None = None,
    longest_queue: int = LONGEST_QUEUE,
    noticed: str | None = None,
    tikmatrix: TikMatrix | None = None,
) -> Health:
    """Look at TikMatrix's licence, its queues, and its phones and accounts. Changes nothing.

    `serials` are phones that must be there; without, every phone that TikMatrix tells of is looked
    at. A phone with more than `longest_queue` open jobs is a concern, and so is one that is
    offline, or on which an enabled account is logged out. An older TikMatrix does not list its
    accounts: then only the queues are looked at. `noticed` is a concern of the caller's, named
    first.

    Raises:
        PlanError: the plan has no API access (40301).
        NotSentError: nothing listens at the address, after about 21 s of trying.
        TikMatrixError: the licence says that its API is not enabled.
    """
    if longest_queue < 0:
        raise InvalidRequest("longest_queue", f"is {longest_queue}; must be 0 or more")
    block = tikmatrix or TikMatrix()
    feed = Feed.here(block.settings.base_url)
    async with block.get_client() as client:
        with telling(feed):
            license = await client.check_license()
        feed.license(license)
        if license.api_enabled is False:
            raise TikMatrixError(
                "TikMatrix says that its API is not enabled: "
                f"look at its licence (plan {license.plan_name or 'not named'})"
            )
        accounts = await _accounts(client)
        open_jobs: dict[JobStatus, list[Job]] = {}
        for status in (JobStatus.RUNNING, JobStatus.PENDING):
            open_jobs[status] = [job async for job in client.iter_jobs(status=status)]
        phones = await _phones(client, serials or (), accounts or [], open_jobs)
    for phone in phones:
        feed.phone(phone.serial, online=phone.online, logged_out=phone.logged_out)
    health = _judge(license, serials or (), accounts, open_jobs, phones, longest_queue)
    if noticed:
        return health.model_copy(update={"concerns": (noticed, *health.concerns)})
    return health


look_at_health, alook_at_health = twins(
    "look_at_health", _look_at_health, task_run_name="look at TikMatrix", **READS
)


async def _accounts(client: TikMatrixClient) -> list[Account] | None:
    """All accounts; None where this TikMatrix is too old to list them."""
    try:
        return [account async for account in client.iter_accounts()]
    except (HttpStatusError, NotFoundError):
        return None


async def _phones(
    client: TikMatrixClient,
    serials: Sequence[str],
    accounts: Sequence[Account],
    open_jobs: dict[JobStatus, list[Job]],
) -> list[PhoneHealth]:
    """Every phone that was named, has an account or has an open job."""
    every = [job for jobs in open_jobs.values() for job in jobs]
    told = all(job.serial is not None for job in every)
    names = dict.fromkeys(
        [
            *serials,
            *(account.device for account in accounts if account.device),
            *(job.serial for job in every if job.serial),
        ]
    )
    count = {status: Counter(job.serial for job in jobs) for status, jobs in open_jobs.items()}
    if not told:  # rows need not tell their phone; the filter is documented
        for status in open_jobs:
            for serial in names:
                jobs = client.iter_jobs(status=status, serial=serial)
                count[status][serial] = len([job async for job in jobs])
    return [
        PhoneHealth(
            serial=serial,
            running=count[JobStatus.RUNNING][serial],
            pending=count[JobStatus.PENDING][serial],
            online=_is_online(serial, accounts),
            logged_out=tuple(
                account.username or f"account {account.id}"
                for account in accounts
                if account.device == serial and account.logined == 0 and account.status != 1
            ),
        )
        for serial in names
    ]


def _is_online(serial: str, accounts: Sequence[Account]) -> bool | None:
    told = [
        account.device_online
        for account in accounts
        if account.device == serial and account.device_online is not None
    ]
    return any(told) if told else None


def _judge(
    license: License,
    serials: Sequence[str],
    accounts: Sequence[Account] | None,
    open_jobs: dict[JobStatus, list[Job]],
    phones: Sequence[PhoneHealth],
    longest_queue: int,
) -> Health:
    seen = {account.device for account in accounts or ()}
    concerns = []
    for phone in phones:
        waiting = phone.running + phone.pending
        if phone.online is False:
            concerns.append(f"{phone.serial} is offline")
        if accounts is not None and phone.serial in serials and phone.serial not in seen:
            concerns.append(f"{phone.serial} has no account that TikMatrix lists")
        concerns += [f"{name} is logged out on {phone.serial}" for name in phone.logged_out]
        if waiting > longest_queue:
            concerns.append(f"{phone.serial} has {waiting} open jobs")
    return Health(
        plan_name=license.plan_name,
        device_limit=license.device_limit,
        running=len(open_jobs[JobStatus.RUNNING]),
        pending=len(open_jobs[JobStatus.PENDING]),
        phones=tuple(phones),
        lists_accounts=accounts is not None,
        concerns=tuple(concerns),
    )
