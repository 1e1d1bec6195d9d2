"""The second half of following: to unfollow, later, exactly the pairs whose follow completed.

It is a scheduled flow run of the deployment `unfollow-pairs/unfollow-pairs`: it can be seen and
cancelled in Prefect's UI all the time, and no process has to live for days. Without that deployment
a short delay is waited for in place.

Who followed whom is kept in result storage, so that nobody is unfollowed who was not followed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, TypeVar
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from tikmatrix_tasks.background import BLOCKED_SECONDS, run_blocking
from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.each_job import EachJob, run_each_job, tell_each
from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import Outcome, Report
from tikmatrix_tasks.ledger import Kept, alone
from tikmatrix_tasks.observability import count_of
from tikmatrix_tasks.runs import outermost_run
from tikmatrix_tasks.scripts import Follow, Unfollow
from tikmatrix_tasks.submission import utc_now

R = TypeVar("R")

AccessMethod = Literal["direct", "search"]

DEPLOYMENT = "unfollow-pairs/unfollow-pairs"
LONGEST_IN_PLACE = timedelta(hours=1)
LONGEST_DELAY = timedelta(days=366)
_PAGE = 200  # the most flow runs that Prefect's API returns at once
_OPEN_STATES = [state for state in StateType if state not in TERMINAL_STATES]


class Delay(BaseModel):
    """A time to wait, as the sum of its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: float = Field(default=0, ge=0, title="Days", description="So many days.")
    hours: float = Field(default=0, ge=0, title="Hours", description="And so many hours.")
    minutes: float = Field(default=0, ge=0, title="Minutes", description="And so many minutes.")

    @property
    def as_timedelta(self) -> timedelta:
        return timedelta(days=self.days, hours=self.hours, minutes=self.minutes)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        within_reach = self.days <= 366 and self.hours <= 10_000 and self.minutes <= 1_000_000
        if not within_reach or not timedelta(0) < self.as_timedelta <= LONGEST_DELAY:
            raise ValueError("must be more than nothing and at most 366 days")
        return self


class FollowPair(BaseModel):
    """A user, and the phone or the account that follows them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phone: str | None = Field(default=None, min_length=1, description="The phone's serial.")
    account: str | None = Field(default=None, min_length=1, description="Or the account.")
    user: str = Field(min_length=1, description="Whom it follows.")

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if (self.phone is None) == (self.account is None):
            raise ValueError("name a phone or an account")
        return self

    @property
    def key(self) -> str:
        """What two spellings of the same pair have in common."""
        owner = f"phone {self.phone}" if self.phone else f"account {self.account}"
        return f"{owner}, user {self.user.strip().lstrip('@').casefold()}"

    def request(self, script: Follow | Unfollow, start_time: str | None = None) -> JobRequest:
        """The job of this pair alone."""
        return JobRequest(
            script.only_targets([self.user]),
            serials=(self.phone,) if self.phone else (),
            usernames=(self.account,) if self.account else (),
            start_time=start_time,
        )

    def __str__(self) -> str:
        return f"{self.phone or self.account}, {self.user}"


@dataclass(frozen=True)
class UnfollowLater:
    """How the second half of this run will happen."""

    after: timedelta
    origin: FlowRun
    deployment_id: UUID | None
    """None: it is waited for in place."""

    def pending(self) -> set[str]:
        """The keys of pairs that earlier runs followed and that are still to be unfollowed."""
        if self.deployment_id is None:
            return set()
        runs = _runs(self.deployment_id, state_types=_OPEN_STATES)
        return _keys_in(run for run in runs if not self._is_ours(run))

    def unfollow(
        self,
        pairs: Sequence[FollowPair],
        *,
        access_method: AccessMethod,
        success: Literal["any", "all"],
        patience: dict[str, Any],
        tikmatrix: TikMatrix | None,
    ) -> tuple[Report, str]:
        """Schedule the second half, or wait and do it; a report of what is done, and a sentence.

        `patience` are arguments of `run_each_job`. Called again by a run that is tried again, it
        schedules only what it did not schedule before.
        """
        if not pairs:
            return Report(), "nobody to unfollow"
        run_blocking(_remember(self.origin.id, pairs))
        if self.deployment_id is None:
            return self._in_place(pairs, access_method, patience, tikmatrix)
        deployment_id = self.deployment_id
        parameters = {
            "followed_by": str(self.origin.id),
            "access_method": access_method,
            "success": success,
            "tikmatrix": _reference(tikmatrix),
            **patience,
        }
        scheduled = run_blocking(
            _one_at_a_time(lambda: self._schedule(deployment_id, pairs, parameters))
        )
        told = [f"{_at(run.expected_start_time)} (run {run.name!r})" for run in scheduled]
        return Report(), f"to be unfollowed on {' and '.join(told) or 'the day of an earlier run'}"

    def _schedule(
        self, deployment_id: UUID, pairs: Sequence[FollowPair], parameters: dict[str, Any]
    ) -> list[FlowRun]:
        """This run's second half: what is scheduled already, and what is not yet."""
        ours = _runs(deployment_id, tags=[self._tag])
        known = _keys_in(ours) | self.pending()
        new = sorted((pair for pair in pairs if pair.key not in known), key=lambda pair: pair.key)
        if not new:
            return ours
        keys = sha256(json.dumps([pair.key for pair in new]).encode()).hexdigest()[:24]
        name = f"unfollow {count_of(len(new), 'pair')} of {self.origin.name}"
        run: FlowRun = run_deployment(  # type: ignore[assignment]  # no loop runs in this thread
            deployment_id,
            parameters={
                **parameters,
                "pairs": [pair.model_dump(exclude_none=True) for pair in new],
            },
            scheduled_time=utc_now() + self.after,
            flow_run_name=name,
            tags=["tikmatrix", "unfollow", self._tag],
            idempotency_key=f"tikmatrix-unfollow-{self.origin.id}-{keys}",
            # As a subflow it would be cancelled together with the flow that this run is part of.
            as_subflow=False,
            timeout=0,
        )
        get_run_logger().info("Scheduled flow run %r for %s", name, _at(run.expected_start_time))
        return [*ours, run]

    def _in_place(
        self,
        pairs: Sequence[FollowPair],
        access_method: AccessMethod,
        patience: dict[str, Any],
        tikmatrix: TikMatrix | None,
    ) -> tuple[Report, str]:
        due = run_blocking(_due(self.origin.id, pairs, utc_now() + self.after))
        get_run_logger().info("Waiting until %s to unfollow", _at(due))
        while (left := (due - utc_now()).total_seconds()) > 0:
            time.sleep(min(left, BLOCKED_SECONDS))
        jobs = unfollow_jobs(pairs, self.origin.id, access_method)
        report = run_each_job(jobs, tikmatrix=tikmatrix, **patience)
        return report, tell_each(report, "unfollowed")

    @property
    def _tag(self) -> str:
        return f"followed-by-{self.origin.id}"

    def _is_ours(self, run: FlowRun) -> bool:
        return self._tag in run.tags


def unfollow_later(after: Delay | timedelta, tikmatrix: TikMatrix | None = None) -> UnfollowLater:
    """Find out how the second half can happen, before anybody is followed.

    Raises:
        InvalidRequest: it cannot, because there is no deployment for it and the delay is too long
            to be waited for, or because the later run could not find this TikMatrix.
    """
    delay = after.as_timedelta if isinstance(after, Delay) else after
    if not timedelta(0) < delay <= LONGEST_DELAY:
        raise InvalidRequest("unfollow_after", "must be more than nothing and at most 366 days")
    origin = outermost_run()
    if origin is None:
        raise InvalidRequest("unfollow_after", "needs a flow run")
    with get_client(sync_client=True) as prefect:
        try:
            deployment_id = prefect.read_deployment_by_name(DEPLOYMENT).id
        except ObjectNotFound:
            deployment_id = None
    if deployment_id is None and delay > LONGEST_IN_PLACE:
        raise InvalidRequest(
            "unfollow_after",
            f"is longer than an hour, and there is no deployment {DEPLOYMENT} that could be "
            "scheduled; deploy it (deployments/prefect.yaml)",
        )
    if deployment_id is not None:
        _reference(tikmatrix)
    return UnfollowLater(delay, origin, deployment_id)


def follow_jobs(
    follow: Follow,
    *,
    serials: Sequence[str] | None = None,
    usernames: Sequence[str] | None = None,
    start_time: str | None = None,
) -> dict[FollowPair, EachJob]:
    """A job for each phone, or account, and user.

    Raises:
        InvalidRequest: a field that TikMatrix would refuse.
    """
    whole = JobRequest(
        follow,
        serials=tuple(serials or ()),
        usernames=tuple(usernames or ()),
        start_time=start_time,
    )
    pairs = [
        FollowPair(
            phone=owner if whole.serials else None,
            account=owner if whole.usernames else None,
            user=user,
        )
        for user in follow.targets
        for owner in whole.owners
    ]
    if len({pair.key for pair in pairs}) < len(pairs):
        raise InvalidRequest("target_users", "names a user twice, in two spellings")
    return {pair: EachJob(str(pair), pair.request(follow, start_time)) for pair in pairs}


def pairs_that_completed(pairs: Iterable[FollowPair], report: Report) -> list[FollowPair]:
    """Those whose job certainly completed."""
    completed = {job.name for job in report.jobs if job.outcome is Outcome.COMPLETED}
    return [pair for pair in pairs if str(pair) in completed]


def unfollow_jobs(
    pairs: Sequence[FollowPair], followed_by: UUID, access_method: AccessMethod
) -> list[EachJob]:
    """A job for each pair that a run followed, done once ever, whichever run does it.

    Raises:
        InvalidRequest: the run did not follow a pair, or nothing is known of it here.
    """
    if not pairs:
        raise InvalidRequest("pairs", "names nobody")
    if len({pair.key for pair in pairs}) < len(pairs):
        raise InvalidRequest("pairs", "names a pair twice")
    followed = run_blocking(_followed(followed_by))
    if not followed:
        raise InvalidRequest(
            "followed_by",
            f"nobody was followed by the flow run {followed_by}, or another machine's result "
            "storage knows of it; the flow `unfollow` unfollows anybody",
        )
    strangers = [str(pair) for pair in pairs if pair.key not in followed]
    if strangers:
        raise InvalidRequest(
            "pairs",
            f"not followed by the flow run {followed_by}: {'; '.join(strangers)}. The flow "
            "`unfollow` unfollows anybody",
        )
    return [
        EachJob(
            name=str(pair),
            request=pair.request(Unfollow(target_users=[pair.user], access_method=access_method)),
            once_key=f"unfollow, run {followed_by}, {pair.key}",
        )
        for pair in pairs
    ]


# What is kept


def _followed_key(origin: UUID) -> str:
    return f"tikmatrix-{origin}-followed"


async def _followed(origin: UUID) -> set[str]:
    return set(await Kept().read(_followed_key(origin)) or ())


async def _remember(origin: UUID, pairs: Iterable[FollowPair]) -> None:
    kept = Kept()
    known = set(await kept.read(_followed_key(origin)) or ())
    await kept.write(_followed_key(origin), sorted(known | {pair.key for pair in pairs}))


async def _due(origin: UUID, pairs: Iterable[FollowPair], due: datetime) -> datetime:
    """When the pairs are due; a run that is tried again does not wait anew."""
    kept = Kept()
    pairs_hash = sha256(json.dumps(sorted(pair.key for pair in pairs)).encode()).hexdigest()[:24]
    key = f"tikmatrix-{origin}-due-{pairs_hash}"
    known = await kept.read(key)
    if known is not None:
        return datetime.fromisoformat(known)
    await kept.write(key, due.isoformat())
    return due


# What Prefect knows


async def _one_at_a_time(work: Callable[[], R]) -> R:
    """Two runs that followed the same pairs must not both schedule them."""
    async with alone("unfollow"):
        return await asyncio.to_thread(work)


def _runs(
    deployment_id: UUID,
    *,
    state_types: list[StateType] | None = None,
    tags: list[str] | None = None,
) -> list[FlowRun]:
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    if state_types is not None:
        wanted.state = FlowRunFilterState(type=FlowRunFilterStateType(any_=state_types))
    if tags is not None:
        wanted.tags = FlowRunFilterTags(all_=tags)
    runs: list[FlowRun] = []
    with get_client(sync_client=True) as prefect:
        while True:
            page = prefect.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(runs))
            runs += page
            if len(page) < _PAGE:
                return runs


def _keys_in(runs: Iterable[FlowRun]) -> set[str]:
    """The pairs that runs have as parameters; somebody may have started one with anything."""
    keys: set[str] = set()
    for run in runs:
        for pair in run.parameters.get("pairs") or []:
            try:
                keys.add(FollowPair.model_validate(pair).key)
            except ValueError:
                continue
    return keys


def _reference(tikmatrix: TikMatrix | None) -> Any:
    """How a parameter names this TikMatrix. A run's parameters are stored, so no header goes in."""
    if tikmatrix is None:
        return None
    if tikmatrix._block_document_id is not None:
        return {"$ref": {"block_document_id": str(tikmatrix._block_document_id)}}
    if tikmatrix.headers is not None:
        raise InvalidRequest(
            "tikmatrix", "has headers; save it as a block, so that the later run can read them"
        )
    return {
        name: value
        for name in type(tikmatrix).model_fields
        if name != "headers" and (value := getattr(tikmatrix, name)) is not None
    }


def _at(moment: datetime | None) -> str:
    """In the time zone of the machine that runs the flow."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}" if moment is not None else "its time"
