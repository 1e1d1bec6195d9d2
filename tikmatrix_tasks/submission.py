"""Creating jobs exactly once.

The API has no idempotency key. So the intent is kept before anything is sent; and when no answer
tells what became of a request (it was lost, it was late, the process died), the newer jobs are
looked at: all there, they are adopted; none, after a settling time, it is sent again; some, only
the missing phone-and-target pairs are sent; anything else stops with `SubmissionInDoubt`.
A second post is worse than a failed run.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Literal, Protocol

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import NotSentError, SubmissionInDoubt, TikMatrixError
from tikmatrix_tasks.history import jobs_after, newest_job_id
from tikmatrix_tasks.intent import Found, Intent, Pair, match, pairs_of
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import Batch, Job, tell_ids
from tikmatrix_tasks.retries import is_in_doubt, patiently

OnDoubt = Literal["fail", "adopt"]
OnDecision = Callable[[str], None]
"""Told in a sentence what was decided about a submission in doubt, and why."""

MOST_SENDS = 3
"""How often one submission is sent at most; more in a row are no accident."""


def utc_now() -> datetime:
    """The time on a clock that goes on while no process of ours runs."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Patience:
    """How long to look before deciding, in seconds."""

    settle_seconds: float = 30.0
    """How long TikMatrix may still create jobs after a request whose answer was lost."""
    look_interval_seconds: float = 2.0
    outage_budget_seconds: float = 900.0
    """How long the look-up puts up with no answer."""
    oldest_intent_seconds: float = 900.0
    """After this, a job that is not there may have run and been deleted: it is not sent again."""
    utc_now: Callable[[], datetime] = utc_now


class Ledger(Protocol):
    """Where an intent is kept so that it outlives the process, and what this process knows."""

    async def read_intent(self) -> Intent | None: ...

    async def write_intent(self, intent: Intent) -> None: ...

    async def forget_intent(self) -> None:
        """It is certain that nothing came of the intent."""
        ...

    @property
    def unsent(self) -> set[str]:
        """Ids of intents that this very process wrote and certainly has not sent."""
        ...


class MemoryLedger:
    """For a submission that nothing could repeat: one without a flow run."""

    def __init__(self) -> None:
        self.unsent: set[str] = set()
        self._intent: Intent | None = None

    async def read_intent(self) -> Intent | None:
        return self._intent

    async def write_intent(self, intent: Intent) -> None:
        self._intent = intent

    async def forget_intent(self) -> None:
        self._intent = None


async def submit(
    client: TikMatrixClient,
    request: JobRequest,
    ledger: Ledger,
    *,
    patience: Patience = Patience(),
    on_doubt: OnDoubt = "fail",
    on_decision: OnDecision = lambda sentence: None,
) -> Batch:
    """Create the jobs of one request, each once.

    Not to be run side by side with another submission to the same TikMatrix: its jobs would be
    newer than this one's intent, too.

    Raises:
        SubmissionInDoubt: what exists is not known, or not what was asked for. With
            `on_doubt="adopt"` the jobs that may be ours are adopted instead, and none is sent.
        TikMatrixError: TikMatrix refused, or was not reached; no job was created.
    """
    return await _Submission(client, request, ledger, patience, on_doubt, on_decision).run()


async def created_by(client: TikMatrixClient, intent: Intent, *, looks: int) -> Found:
    """The newer jobs that an intent accounts for, and those that it may account for."""
    seen: dict[int, Job] = {}
    for look in range(looks):
        if look:
            await asyncio.sleep(Patience.look_interval_seconds)
        newer = await patiently(
            lambda: jobs_after(client, intent.newest_job_id, intent.script_name),
            budget_seconds=Patience.outage_budget_seconds,
        )
        seen.update({job.id: job for job in newer})  # a row may slip between pages once
    return match(intent, seen.values())


class _Submission:
    def __init__(
        self,
        client: TikMatrixClient,
        request: JobRequest,
        ledger: Ledger,
        patience: Patience,
        on_doubt: OnDoubt,
        on_decision: OnDecision,
    ) -> None:
        self._client, self._request, self._ledger = client, request, ledger
        self._patience, self._on_doubt, self._on_decision = patience, on_doubt, on_decision
        self._now = asyncio.get_running_loop().time
        self._answered: set[int] = set()
        self._done: set[Pair] = set()  # what was answered; it stays done if somebody deletes it
        self._sends = 0
        self._decisions: list[str] = []

    async def run(self) -> Batch:
        intent = await self._ledger.read_intent()
        if intent is None:
            newest = await patiently(
                lambda: newest_job_id(self._client), budget_seconds=10, when_closed=False
            )
            intent = Intent.of(self._request, newest, self._patience.utc_now())
            await self._ledger.write_intent(intent)
            self._ledger.unsent.add(intent.id)
        doubt = None
        if intent.id not in self._ledger.unsent:
            doubt = f"an attempt noted at {intent.noted_at:%Y-%m-%d %H:%M:%S} UTC left no batch"
        to_send: Sequence[JobRequest] = [self._request]
        while True:
            if doubt is None:
                doubt = await self._send(intent, to_send)
            if doubt is None:
                return self._batch(self._answered)
            found = await self._look(intent, doubt)
            missing = [pair for pair in found.missing(intent) if pair not in self._done]
            if missing and intent.fingerprint != self._request.fingerprint():
                raise self._in_doubt(
                    f"{doubt}, it asked for something else than is asked for now, and its jobs "
                    "are not all there",
                    found.job_ids,
                )
            known = {*self._answered, *found.job_ids, *found.unclear}
            if not missing or found.unclear or found.too_many:
                self._decide(f"adopted jobs {tell_ids(known)}: {doubt}, and they match the request")
                return self._batch(known)
            if self._sends >= MOST_SENDS:
                raise self._in_doubt(f"{doubt}, for the {self._sends}th time", known)
            to_send = _requests_for(self._request, intent, missing)
            if known:
                self._decide(
                    f"sending {len(missing)} missing of {len(intent.pairs)} jobs: {doubt}, and "
                    f"only jobs {tell_ids(known)} were found"
                )
                self._answered |= set(found.job_ids)
            else:
                self._decide(f"sending again: {doubt}, and no job was created")
            doubt = None

    async def _send(self, intent: Intent, requests: Sequence[JobRequest]) -> str | None:
        """Send, and return what is in doubt about it, if anything."""
        for request in requests:
            first = not self._answered and intent.id in self._ledger.unsent
            self._ledger.unsent.discard(intent.id)
            self._sends += 1
            try:
                created = await self._client.create_jobs(request)
            except NotSentError:
                if first:
                    self._ledger.unsent.add(intent.id)
                    await self._ledger.forget_intent()
                raise
            except TikMatrixError as err:
                if is_in_doubt(err):
                    return str(err)
                if self._answered:
                    raise self._in_doubt(f"the missing jobs were refused: {err}") from err
                if first:
                    await self._ledger.forget_intent()
                raise
            expected = None if request.enable_multi_account else request.least_jobs
            self._answered |= set(created.task_ids)
            if created.created_count not in (None, len(created.task_ids)):
                return (
                    f"the answer names {len(created.task_ids)} jobs and says that "
                    f"{created.created_count} were created"
                )
            if expected == len(created.task_ids):
                self._done |= set(pairs_of(request))
            if expected is not None and len(created.task_ids) > expected:
                raise self._in_doubt(
                    f"{expected} jobs were asked for and {len(created.task_ids)} created"
                )
        return None

    async def _look(self, intent: Intent, doubt: str) -> Found:
        """Look at the newer jobs until all are there or the settling time is over."""
        patience = self._patience
        age = (patience.utc_now() - intent.noted_at) / timedelta(seconds=1)
        old = not self._sends and age > patience.oldest_intent_seconds
        settle = patience.settle_seconds - (0 if self._sends else age)
        settled_at = self._now() + settle
        seen: dict[int, Job] = {}
        looks = 0
        while True:
            newer = await self._newer(intent, intent.script_name, doubt)
            looks += 1
            seen.update({job.id: job for job in newer})  # also one that is deleted meanwhile
            found = match(intent, seen.values())
            self._stop_if_unclear(intent, found, doubt)
            if not found.missing(intent) or found.unclear or found.too_many:
                return found
            if looks >= 2 and self._now() >= settled_at:  # a row may slip between pages once
                break
            await asyncio.sleep(patience.look_interval_seconds)
        of_any_script = await self._newer(intent, None, doubt)
        ids = {*seen, *(job.id for job in of_any_script)}
        if ids and max(ids) - intent.newest_job_id > len(ids):
            raise self._in_doubt(
                f"{doubt}, not all its jobs are there, and somebody deleted jobs meanwhile",
                found.job_ids,
            )
        if old:
            raise self._in_doubt(
                f"{doubt}, that is {age / 60:.0f} minutes ago, and not all its jobs are there: "
                "they may have run and been deleted since",
                found.job_ids,
            )
        return found

    async def _newer(self, intent: Intent, script_name: str | None, doubt: str) -> list[Job]:
        try:
            return await patiently(
                lambda: jobs_after(self._client, intent.newest_job_id, script_name),
                budget_seconds=self._patience.outage_budget_seconds,
            )
        except TikMatrixError as err:
            raise self._in_doubt(f"{doubt}, and the look for its jobs failed: {err}") from err

    def _stop_if_unclear(self, intent: Intent, found: Found, doubt: str) -> None:
        if self._on_doubt == "adopt":
            return
        if intent.unknown_number and (found.job_ids or found.unclear):
            raise self._in_doubt(
                f"{doubt}, and with several accounts on a phone nobody knows how many jobs there "
                "should be",
                {*found.job_ids, *found.unclear},
            )
        if found.unclear:
            raise self._in_doubt(
                f"{doubt}, and newer jobs cannot be told from somebody else's",
                {*found.job_ids, *found.unclear},
            )
        if found.too_many:
            raise self._in_doubt(f"{doubt}, and more jobs match than were asked for", found.job_ids)

    def _decide(self, sentence: str) -> None:
        self._decisions.append(sentence)
        self._on_decision(sentence)

    def _in_doubt(self, doubt: str, job_ids: Sequence[int] | set[int] = ()) -> SubmissionInDoubt:
        known = tuple(sorted({*self._answered, *job_ids}))
        return SubmissionInDoubt(str(self._request), doubt, known)

    def _batch(self, job_ids: set[int]) -> Batch:
        request = self._request
        return Batch(
            job_ids=tuple(sorted(job_ids)),
            script_name=request.script.name,
            owners=request.owners,
            by_account=bool(request.usernames),
            expected_jobs=None if request.enable_multi_account else request.least_jobs,
            expected_seconds=request.script.expected_seconds,
            start_time=request.start_time,
            created_at=self._patience.utc_now(),
            decisions=tuple(self._decisions),
        )


def _requests_for(request: JobRequest, intent: Intent, missing: Sequence[Pair]) -> list[JobRequest]:
    """Requests that ask for the missing pairs and no other."""
    if len(missing) == len(intent.pairs):
        return [request]
    targets_of: dict[str, list[str]] = defaultdict(list)
    for owner, target in missing:
        targets_of[owner] += [] if target is None else [target]
    owners_of: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for owner, targets in targets_of.items():
        owners_of[tuple(targets)].append(owner)
    return [
        replace(
            request,
            script=request.script.only_targets(targets) if targets else request.script,
            serials=() if intent.by_account else tuple(owners),
            usernames=tuple(owners) if intent.by_account else (),
        )
        for targets, owners in owners_of.items()
    ]
