"""What happens on the phones, told in Prefect's event feed: docs/events.md.

Told is what is certain. A poll that fails says nothing about a job, and a failure that Auto Retry
may still turn into a success is no event. Only what happens in a flow run is told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import EventTooLarge
from prefect.logging import get_logger

from tikmatrix_tasks.errors import NoAnswerError, NotSentError, PlanError, TikMatrixError
from tikmatrix_tasks.events import MOST_RELATED
from tikmatrix_tasks.jobs import Batch, Job, JobReport, License, Outcome, Report
from tikmatrix_tasks.ledger import note_once, noted
from tikmatrix_tasks.runs import outermost_run

_ENDED = (Outcome.COMPLETED, Outcome.FAILED, Outcome.GONE, Outcome.NOT_CREATED)
_FACTS = UUID("9f3c0c1e-2f0b-4a63-8a53-0d4c8f0f6a11")
_out_of_reach: set[str] = set()  # hosts that gave no answer last: many waits hear of it at once


class Feed:
    """Tells what happens at one TikMatrix, on behalf of one flow run."""

    def __init__(self, base_url: str, flow_name: str | None, flow_run: FlowRun | None) -> None:
        address = urlsplit(base_url)  # a name and password in it are nobody's business
        self.host = f"{address.hostname}:{address.port}" if address.port else f"{address.hostname}"
        self._flow_name, self._run = flow_name, flow_run

    @classmethod
    def here(cls, base_url: str) -> Feed:
        """The feed of the current flow run. Outside one, it tells nothing."""
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            return cls(base_url, None, None)
        return cls(base_url, context.flow.name if context.flow else None, context.flow_run)

    def submitted(self, batch: Batch) -> None:
        """`tikmatrix.batch.submitted`: these jobs exist now."""
        if batch.job_ids:
            payload = {"job_ids": batch.job_ids, "decisions": batch.decisions}
            self._batch("submitted", batch, batch.owners, payload)

    def batch_ended(self, batch: Batch, report: Report) -> None:
        """`tikmatrix.batch.completed` or `.failed`; nothing where jobs may still go on."""
        counts = {
            outcome.value.replace(" ", "_"): sum(job.outcome is outcome for job in report.jobs)
            for outcome in _ENDED
        }
        if batch.job_ids and sum(counts.values()) == len(report.jobs):
            owners = dict.fromkeys(job.owner for job in report.jobs if job.owner)
            self._batch("completed" if report.ok else "failed", batch, list(owners), counts)

    def job(self, batch: Batch, job: JobReport, word: str) -> None:
        """`tikmatrix.job.<word>`."""
        phone = job.serial or (None if batch.by_account else job.owner)
        account = job.username or (job.owner if batch.by_account else None)
        payload = {
            "job_id": job.job_id,
            "script": job.script_name,
            "serial": phone,
            "username": account,
            "seconds": job.seconds,
            "retries": job.retry_count,
            "remark": job.remark,
        }
        self._tell(
            f"job.{word}",
            f"job.{self.host}.{job.job_id}",
            f"{job.script_name or 'job'} on {phone or account or 'a phone'}",
            [*_related("phone", [phone]), *_related("account", [account])],
            payload,
            f"{self._whose(batch)} {job.job_id} {word} {job.retry_count} {job.seconds}",
        )

    def stopped(self, job: Job) -> None:
        """`tikmatrix.job.stopped`: it was pending or running, and this project ended it."""
        self.job(
            Batch.of([job.id]),
            JobReport(
                job_id=job.id,
                script_name=job.script_name,
                outcome=Outcome.UNKNOWN,
                serial=job.serial,
                username=job.username,
                retry_count=job.retry_count,
            ),
            "stopped",
        )

    def license(self, license: License) -> None:
        """`tikmatrix.license.valid`, or `.lost` where the API is not enabled."""
        lost = license.api_enabled is False
        payload = {"plan": license.plan_name, "device_limit": license.device_limit}
        self._license("lost" if lost else "valid", payload)

    def refused(self, err: PlanError) -> None:
        """`tikmatrix.license.lost`: 40301."""
        self._license("lost", {"code": err.code})

    def silent(self, why: TikMatrixError) -> None:
        """`tikmatrix.connection.lost`, once until there is an answer again."""
        if self._run is not None and self.host not in _out_of_reach:
            _out_of_reach.add(self.host)
            payload = {"why": type(why).__name__, "sent": not isinstance(why, NotSentError)}
            self._connection("lost", payload)

    def answered(self) -> None:
        """`tikmatrix.connection.restored`, where it was lost."""
        if self._run is not None and self.host in _out_of_reach:
            _out_of_reach.discard(self.host)
            self._connection("restored", {})

    def phone(self, serial: str, *, online: bool | None, logged_out: Sequence[str]) -> None:
        """`tikmatrix.phone.offline`, `.logged-out` or `.well`; nothing where nothing is known."""
        words = ["offline"] if online is False else []
        words += ["logged-out"] if logged_out else []
        for word in words or (["well"] if online else []):
            self._tell(
                f"phone.{word}",
                f"phone.{serial}",
                serial,
                _related("account", logged_out) if word == "logged-out" else [],
                {"serial": serial, "logged_out": list(logged_out)},
            )

    def _license(self, word: str, payload: dict[str, Any]) -> None:
        name = f"licence of {self.host}"
        self._tell(f"license.{word}", f"license.{self.host}", name, [], payload)

    def _connection(self, word: str, payload: dict[str, Any]) -> None:
        self._tell(f"connection.{word}", f"connection.{self.host}", self.host, [], payload)

    def _batch(
        self, word: str, batch: Batch, owners: Sequence[str], payload: dict[str, Any]
    ) -> None:
        self._tell(
            f"batch.{word}",
            f"batch.{self.host}.{batch.job_ids[0]}",
            str(batch),
            _related("account" if batch.by_account else "phone", owners),
            {"script": batch.script_name, "jobs": len(batch.job_ids), **payload},
            f"{self._whose(batch)} batch {batch.job_ids} {word} {payload}",
        )

    def _whose(self, batch: Batch) -> object:
        """What tells equal job ids apart: the localhost of each PC counts its own."""
        return batch.created_at or (self._run and self._run.id)

    def _tell(
        self,
        event: str,
        resource_id: str,
        name: str,
        related: list[dict[str, str]],
        payload: dict[str, Any],
        fact: str | None = None,
    ) -> None:
        """`fact`: told again in the same words, Prefect drops it."""
        if self._run is None:
            return
        if FlowRunContext.get() is None:  # Prefect relates an event to its run by the context
            run = {"prefect.resource.id": f"prefect.flow-run.{self._run.id}"}
            related = [*related, run | {"prefect.resource.role": "flow-run"}]
        try:
            emit_event(
                f"tikmatrix.{event}",
                resource={
                    "prefect.resource.id": f"tikmatrix.{resource_id}",
                    "prefect.resource.name": name,
                    "tikmatrix.host": self.host,
                    "tikmatrix.flow": self._flow_name or self._run.name,
                },
                related=related,
                payload=payload,
                id=None if fact is None else uuid5(_FACTS, f"{self.host} {fact}"),
            )
        except EventTooLarge:  # a remark of a megabyte must not end a run
            get_logger("tikmatrix").debug("An event was too large to be told.", exc_info=True)


class WaitFeed:
    """Tells what one wait sees; its methods are `waiting.follow`'s callbacks."""

    def __init__(self, feed: Feed, batch: Batch, told: Iterable[str], *, is_new: bool) -> None:
        self.feed, self._batch = feed, batch
        self._is_new = is_new  # this run created the batch
        self._seen_open: set[int | None] = set()
        self._told = set(told)  # by an earlier attempt of this run
        self.failures: list[str] = []  # which a later attempt need not tell again
        self._first = True

    def jobs(self, jobs: Sequence[JobReport]) -> None:
        """For `on_jobs`, which is called a first time before anything is known."""
        if not self._first:
            self.feed.answered()
        self._first = False
        for job in jobs:
            if job.outcome in (Outcome.PENDING, Outcome.RUNNING):
                self._seen_open.add(job.job_id)
            if job.outcome is Outcome.RUNNING:
                self.feed.job(self._batch, job, "running")

    def ended(self, jobs: Sequence[JobReport]) -> None:
        """For `on_ended`. How a job of an earlier run ended is news to whoever saw it open only."""
        for job in jobs:
            if not self._is_new and job.job_id not in self._seen_open:
                continue
            fact = f"{job.job_id} {job.retry_count} {job.seconds}"
            if job.outcome is Outcome.FAILED:
                self.failures.append(fact)
            if job.outcome is not Outcome.FAILED or fact not in self._told:
                self.feed.job(self._batch, job, job.outcome.value)

    def over(self, report: Report) -> None:
        """The wait has its report."""
        self.feed.batch_ended(self._batch, report)

    def silence(self, why: TikMatrixError | None) -> None:
        """For `on_silence`."""
        if why is None:
            self.feed.answered()
        else:
            self.feed.silent(why)


@asynccontextmanager
async def feed_of_wait(base_url: str, batch: Batch) -> AsyncIterator[WaitFeed]:
    """The feed of one wait. What it told of failures is noted, for the run's next attempt."""
    run, first = outermost_run(), batch.job_ids[0] if batch.job_ids else None
    told: list[str] = []
    if run is not None and run.run_count > 1:
        with _never_mind():
            told = await noted(run.id, f"told-{first}")
    feed = WaitFeed(Feed.here(base_url), batch, told, is_new=_created_by(run, batch))
    try:
        yield feed
    except PlanError as err:
        feed.feed.refused(err)
        raise
    finally:
        if run is not None and feed.failures:
            with _never_mind():
                await note_once(run.id, f"told-{first}", feed.failures)


@contextmanager
def _never_mind() -> Iterator[None]:
    try:
        yield
    except Exception:  # result storage is away: at worst something is told twice
        get_logger("tikmatrix").debug("What was told could not be noted.", exc_info=True)


def _created_by(run: FlowRun | None, batch: Batch) -> bool:
    """Whether this run created the jobs, by the time; Prefect's server may have another clock."""
    if run is None or run.start_time is None or batch.created_at is None:
        return False
    return batch.created_at >= run.start_time - timedelta(minutes=1)


@contextmanager
def telling(feed: Feed) -> Iterator[None]:
    """Tell where a call to TikMatrix finds its licence lost, or its connection lost or back."""
    try:
        yield
    except PlanError as err:
        feed.answered()
        feed.refused(err)
        raise
    except (NotSentError, NoAnswerError) as err:
        feed.silent(err)
        raise
    feed.answered()


def _related(role: str, names: Iterable[str | None]) -> list[dict[str, str]]:
    return [
        {
            "prefect.resource.id": f"tikmatrix.{role}.{name}",
            "prefect.resource.role": role,
            "prefect.resource.name": name,
        }
        for name in list(names)[:MOST_RELATED]
        if name
    ]
