"""The simulated TikMatrix itself: jobs, phones and the passing of time, without network or threads.

Nothing happens by itself. Every public method first lets happen, in order, what was due up to the
clock's "now"; a clock moved by hand gives a simulation that is exact to the event.

What the docs fix: a job is taken up within 10 s of its start time; a phone runs one job at a time
and the rest queue per phone; the licence limits how many phones run at once; Auto Retry revives a
failed job after 5 to 60 s. The rest is in `Options`, or said where it is done:

- A phone's queue is in order of id; phones that wait for the licence likewise.
- Manual and automatic retries count alike in `retry_count`.
- While the program is closed no simulated time passes for runs (see `resume`).
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tikmatrix_tasks.simulator.accounts import list_accounts
from tikmatrix_tasks.simulator.codes import INVALID, NOT_FOUND, Refusal
from tikmatrix_tasks.simulator.history import History
from tikmatrix_tasks.simulator.job_list import JobList
from tikmatrix_tasks.simulator.jobs import (
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    Filter,
    Job,
    Source,
)
from tikmatrix_tasks.simulator.options import Options
from tikmatrix_tasks.simulator.orders import Order, read_order
from tikmatrix_tasks.simulator.runs import draw, plan_run

STATE_FORMAT = 1
STOPPED = "stopped by user"

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass
class _Phone:
    serial: str
    queue: list[int] = field(default_factory=list)
    """A heap of ids that are due. An id whose job is no longer pending is skipped."""
    running: int | None = None
    wakes: bool = False
    """It is idle and will take up a job within `pickup_seconds`."""
    awake: bool = False
    """It wants to run the head of its queue and waits for the licence at most."""


@dataclass
class _ScriptedFailure:
    serial: str | None
    script_name: str | None
    remark: str
    times: int

    def applies_to(self, job: Job) -> bool:
        return self.serial in (None, job.serial) and self.script_name in (None, job.script_name)


def _at_now(
    method: Callable[Concatenate[Engine, _P], _R],
) -> Callable[Concatenate[Engine, _P], _R]:
    """One caller at a time, and only after everything due has happened."""

    @wraps(method)
    def at_now(self: Engine, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            self._let_happen()
            return method(self, *args, **kwargs)

    return at_now


class Engine:
    """A TikMatrix on a clock of simulated seconds.

    `clock` never goes back. `second_zero` is the moment at which it shows 0, in the local time of
    the simulated machine. Methods may be called from several threads.
    """

    def __init__(
        self,
        options: Options | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        second_zero: datetime | None = None,
    ) -> None:
        self.options = options or Options()
        self.second_zero = second_zero or datetime(2026, 1, 5, 9, 0, 0)
        self.changes = 0
        """Grows with everything worth keeping; the same number means the same state."""
        self._clock = clock
        self._ahead = 0.0  # simulated now minus the clock
        self._now = clock()
        self._paused = False
        self._lock = threading.RLock()
        self._list = JobList(self.options.serials)
        self._table = self._list.live
        self._scripted: list[_ScriptedFailure] = []
        self._accounts = list_accounts(self.options)
        self._phones: dict[str, _Phone] = {}
        self._running: set[str] = set()
        self._events: list[tuple[float, int, str, int | str, int]] = []
        self._events_planned = 0
        self._plan_everything()

    # Time

    @_at_now
    def advance(self) -> None:
        """Let happen what is due."""

    @_at_now
    def now(self) -> float:
        """Simulated seconds. Stands still while paused."""
        return self._now

    @_at_now
    def next_event_at(self) -> float | None:
        """The clock's time of the next thing that happens by itself, None if nothing will."""
        while self._events and self._is_stale(self._events[0]):
            heapq.heappop(self._events)
        if self._paused or not self._events:
            return None
        event_at = self._events[0][0]
        clock_then = event_at - self._ahead
        while clock_then + self._ahead < event_at:  # rounding must not stop a clock set to it
            clock_then += math.ulp(max(event_at, abs(clock_then)))
        return clock_then

    def datetime_at(self, second: float) -> datetime:
        return self.second_zero + timedelta(seconds=second)

    @_at_now
    def pause(self) -> None:
        """Close the program: nothing happens until `resume`."""
        self._paused = True

    def resume(self, not_before: datetime | None = None) -> None:
        """Open the program again, where it was closed or at `not_before` if that is later.

        Runs neither went on nor lost time meanwhile; `running_after_restart` says whether they
        continue. Start times and Auto Retries that passed in between are due at once.
        """
        with self._lock:
            self._paused = False
            closed_at = self._now
            if not_before is not None:
                opened_at = (not_before - self.second_zero).total_seconds()
                self._now = max(self._now, opened_at)
            self._ahead = self._now - self._clock()
            for job in [self._table.get(job_id) for job_id in self._table.ids(Filter(RUNNING))]:
                assert job is not None
                self._reopen(job, self._now - closed_at)
            self._plan_everything()
            self.changes += 1

    def _reopen(self, job: Job, closed_seconds: float) -> None:
        if self.options.running_after_restart == "pending":
            self._back_to_pending(job)
        elif job.ends_at is not None:
            job.ends_at += closed_seconds

    # What the API does

    @_at_now
    def create(self, body: Mapping[str, Any], source: Source = "api") -> list[int]:
        """Create jobs from the body of `POST /task`; the ids in the order of the body."""
        order = read_order(body, self.options, any_script=source == "ui")
        due_at = self._due_at(order)
        pairs = [(phone, target) for phone in order.phones for target in order.targets]
        jobs = [
            Job(
                id=job_id,
                serial=serial,
                username=username,
                script_name=order.script_name,
                script_config=order.script_config,
                target=target,
                source=source,
                due_at=due_at,
            )
            for job_id, ((serial, username), target) in zip(
                self._list.take_ids(len(pairs)), pairs, strict=True
            )
        ]
        for job in jobs:
            self._table.add(job)
            self._plan_pending(job)
        self.changes += 1
        return [job.id for job in jobs]

    @_at_now
    def find(
        self, wanted: Filter, page: int = 1, page_size: int = 20, newest_first: bool = True
    ) -> tuple[list[Job], int]:
        """One page of jobs (copies), and how many there are on all pages."""
        ids, total = self._list.page(wanted, page, page_size, newest_first=newest_first)
        return [self._existing(job_id) for job_id in ids], total

    @_at_now
    def get(self, job_id: int) -> Job:
        """A copy of the job. 40401 if it is not there."""
        return self._existing(job_id)

    @_at_now
    def delete(self, job_ids: Sequence[int]) -> None:
        """Delete them all; a running job is stopped first. 40401, and none, if one is missing."""
        for job_id in job_ids:
            self._existing(job_id)
        for job_id in dict.fromkeys(job_ids):
            self._delete(job_id)

    @_at_now
    def delete_batch(self, job_ids: Sequence[int]) -> None:
        """Like `delete`; what is missing is as `batch_delete_missing` says."""
        if self.options.batch_delete_missing == "ignore":
            job_ids = [job_id for job_id in job_ids if self._is_there(job_id)]
        self.delete(job_ids)

    @_at_now
    def stop(self, job_id: int) -> None:
        """Stop a running job. 40001 if it does not run (see `stop_pending`)."""
        job = self._table.get(job_id) or self._existing(job_id)
        may_stop = job.status == RUNNING or (
            job.status == PENDING and self.options.stop_pending == "stop"
        )
        if not may_stop:
            raise Refusal(INVALID, f"task is not running: {job_id}")
        self._stop(job)
        self._start_what_may_run()

    @_at_now
    def retry(self, job_id: int) -> None:
        """Run a failed job again. 40001 if it has not failed or has no retries left."""
        job = self._table.get(job_id) or self._existing(job_id)
        if job.status != FAILED:
            raise Refusal(INVALID, f"task has not failed: {job_id}")
        if job.retry_count >= self.options.max_retry_count:
            raise Refusal(INVALID, f"task has reached the maximum of retries: {job_id}")
        self._revive(job)

    @_at_now
    def retry_all(self) -> None:
        """Run every failed job again that has retries left, whoever made it."""
        for job_id in list(self._table.ids(Filter(FAILED))):
            job = self._table.get(job_id)
            if job is not None and job.retry_count < self.options.max_retry_count:
                self._revive(job)

    @_at_now
    def stats(self) -> dict[str, int]:
        names = {"pending": PENDING, "running": RUNNING, "completed": COMPLETED, "failed": FAILED}
        counts = {name: self._list.count(Filter(status)) for name, status in names.items()}
        return {"total": sum(counts.values()), **counts}

    @property
    def accounts(self) -> list[dict[str, Any]]:
        return [dict(account) for account in self._accounts]

    @property
    @_at_now
    def jobs(self) -> list[Job]:
        """Copies of all jobs, oldest first, without those of `add_history`."""
        return [replace(job) for job in self._table]

    # What people at the screen do, and what tests arrange

    def operator_create(
        self,
        script_name: str,
        script_config: Mapping[str, Any] | None = None,
        *,
        serials: Sequence[str] | None = None,
        usernames: Sequence[str] | None = None,
        start_time: str | None = None,
    ) -> list[int]:
        """Someone creates jobs on the screen, with any script."""
        body = {
            "script_name": script_name,
            "script_config": dict(script_config or {}),
            "serials": None if serials is None else list(serials),
            "usernames": None if usernames is None else list(usernames),
            "start_time": start_time,
        }
        return self.create(body, source="ui")

    def operator_stop(self, job_id: int) -> None:
        """Someone stops the job on the screen."""
        self.stop(job_id)

    def operator_delete(self, job_id: int) -> None:
        """Someone deletes the job on the screen: from now on it is 40401."""
        self.delete([job_id])

    def operator_retry(self, job_id: int) -> None:
        """Someone runs the failed job again on the screen."""
        self.retry(job_id)

    @_at_now
    def fail_next(
        self,
        serial: str | None = None,
        script_name: str | None = None,
        remark: str = "element not found",
        times: int = 1,
    ) -> None:
        """Let the next runs that start there fail with this remark; runs of a retry count too."""
        self._scripted.append(_ScriptedFailure(serial, script_name, remark, times))

    @_at_now
    def add_history(self, count: int) -> None:
        """Add old finished jobs, however many: see `history.py`. Their ids follow the newest."""
        if count < 1:
            raise ValueError("add_history: at least one job")
        self._list.history.add(self._list.take_ids(count), self._now)
        self.changes += 1

    # What is kept on disk

    @_at_now
    def to_state(self) -> dict[str, Any]:
        """All jobs as JSON-able data. Failures arranged with `fail_next` are not kept."""
        names = [kept.name for kept in fields(Job)]
        return {
            "format": STATE_FORMAT,
            "second_zero": self.second_zero.isoformat(),
            "now": self._now,
            "next_id": self._list.next_id,
            "job_fields": names,
            "jobs": [[getattr(job, name) for name in names] for job in self._table],
            "history": self._list.history.to_state(),
        }

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Any],
        options: Options | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        not_before: datetime | None = None,
    ) -> Engine:
        """The engine that `to_state` described, opened again as `resume` says.

        Raises ValueError if that is not such a description.
        """
        engine = cls(options, clock)
        try:
            if state["format"] != STATE_FORMAT:
                raise ValueError(f"format {state['format']!r} is not {STATE_FORMAT}")
            engine.second_zero = datetime.fromisoformat(state["second_zero"])
            engine._now = float(state["now"])
            engine._list.next_id = int(state["next_id"])
            for values in state["jobs"]:
                engine._table.add(_job_from(dict(zip(state["job_fields"], values, strict=True))))
            if state["history"]["blocks"]:
                engine._list.history = History.from_state(state["history"])
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"not the state of a simulator: {err!r}") from err
        engine._paused = True
        engine.resume(not_before)
        return engine

    def _existing(self, job_id: int) -> Job:
        job = self._list.copy_of(job_id, retries_of_old=self.options.max_retry_count)
        if job is None:
            raise Refusal(NOT_FOUND, f"task not found: {job_id}")
        return job

    def _is_there(self, job_id: int) -> bool:
        return self._list.copy_of(job_id, retries_of_old=0) is not None

    def _due_at(self, order: Order) -> float:
        if order.start_time is None:
            return self._now
        hour, minute = order.start_time
        now = self.datetime_at(self._now)
        start = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        if start < now.replace(second=0, microsecond=0) and (
            self.options.past_start_time == "tomorrow"
        ):
            start += timedelta(days=1)
        return max(self._now, (start - self.second_zero).total_seconds())

    # Events: "due" (a job may be taken up), "wake" (an idle phone looks), "end", "revive"

    def _let_happen(self) -> None:
        if self._paused:
            return
        now = max(self._now, self._clock() + self._ahead)
        while self._events and self._events[0][0] <= now:
            event = heapq.heappop(self._events)
            if not self._is_stale(event):
                self._now = event[0]
                self._happen(event[2], event[3])
                self.changes += 1
        self._now = now

    def _is_stale(self, event: tuple[float, int, str, int | str, int]) -> bool:
        _, _, _, key, turn = event
        if isinstance(key, str):
            return False
        job = self._table.get(key)
        return job is None or job.turn != turn

    def _happen(self, what: str, key: int | str) -> None:
        if isinstance(key, str):
            phone = self._phones[key]
            phone.wakes, phone.awake = False, phone.running is None
        else:
            job = self._table.get(key)
            assert job is not None
            if what == "due":
                self._queue(job)
            elif what == "revive":
                self._revive(job)
            else:
                self._end(job)
        self._start_what_may_run()

    def _plan(self, at: float, what: str, key: int | str, turn: int = 0) -> None:
        self._events_planned += 1  # keeps events of one moment in the order they were planned
        heapq.heappush(self._events, (at, self._events_planned, what, key, turn))

    def _plan_everything(self) -> None:
        """All events from nothing but the jobs, as when the program opens."""
        self._events.clear()
        self._running.clear()
        self._phones = {serial: _Phone(serial) for serial in self.options.serials}
        for job_id in self._table.ids(Filter(RUNNING)):
            job = self._table.get(job_id)
            assert job is not None
            phone = self._phones.get(job.serial)
            if phone is not None and job.ends_at is not None:
                phone.running = job.id
                self._running.add(job.serial)
                self._plan(job.ends_at, "end", job.id, job.turn)
        for job in self._table:
            if job.status == PENDING:
                self._plan_pending(job)
            elif job.status == FAILED and job.retry_at is not None:
                self._plan(job.retry_at, "revive", job.id, job.turn)

    def _plan_pending(self, job: Job) -> None:
        if job.due_at > self._now:
            self._plan(job.due_at, "due", job.id, job.turn)
        else:
            self._queue(job)

    # What happens to a job

    def _queue(self, job: Job) -> None:
        phone = self._phones.get(job.serial)
        if phone is None:  # `unknown_serial` is "create", or restarted with fewer phones
            return
        heapq.heappush(phone.queue, job.id)
        if phone.running is None and not phone.wakes and not phone.awake:
            phone.wakes = True
            chance = draw(self.options, "pickup", phone.serial, job.id, job.turn)
            self._plan(self._now + chance.uniform(*self.options.pickup_seconds), "wake", job.serial)

    def _head(self, phone: _Phone) -> Job | None:
        while phone.queue:
            job = self._table.get(phone.queue[0])
            if job is not None and job.status == PENDING and job.due_at <= self._now:
                return job
            heapq.heappop(phone.queue)
        return None

    def _start_what_may_run(self) -> None:
        while len(self._running) < self.options.phones_at_once:
            heads: list[Job] = []
            for phone in self._phones.values():
                if phone.awake:
                    head = self._head(phone)
                    phone.awake = head is not None
                    heads += [] if head is None else [head]
            if not heads:
                return
            self._start(min(heads, key=lambda job: job.id))

    def _start(self, job: Job) -> None:
        phone = self._phones[job.serial]
        heapq.heappop(phone.queue)
        phone.awake, phone.running = False, job.id
        self._running.add(phone.serial)
        self._table.set_status(job, RUNNING)
        job.runs += 1
        run = plan_run(job, self.options, self._scripted_remark(job))
        job.started_at, job.ended_at = self._now, None
        job.ends_at, job.fails_with = self._now + run.seconds, run.fails_with
        self._plan(job.ends_at, "end", job.id, job.turn)

    def _scripted_remark(self, job: Job) -> str | None:
        for failure in self._scripted:
            if failure.times > 0 and failure.applies_to(job):
                failure.times -= 1
                return failure.remark
        return None

    def _end(self, job: Job) -> None:
        self._leave_phone(job)
        job.ended_at, job.ends_at = self._now, None
        self._table.set_status(job, COMPLETED if job.fails_with is None else FAILED)
        job.remark, job.fails_with = job.fails_with or "", None
        if job.status == FAILED:
            self._plan_auto_retry(job)

    def _plan_auto_retry(self, job: Job) -> None:
        options = self.options
        if options.auto_retry and job.retry_count < options.max_retry_count:
            chance = draw(options, "auto_retry", job.id, job.turn)
            job.retry_at = self._now + chance.uniform(*options.auto_retry_delay_seconds)
            self._plan(job.retry_at, "revive", job.id, job.turn)

    def _revive(self, job: Job) -> None:
        job.retry_count += 1
        self._back_to_pending(job)
        self._queue(job)
        self.changes += 1

    def _back_to_pending(self, job: Job) -> None:
        self._table.set_status(job, PENDING)
        job.due_at, job.remark = self._now, ""
        job.started_at = job.ended_at = job.ends_at = job.retry_at = job.fails_with = None

    def _stop(self, job: Job) -> None:
        if job.status == RUNNING:
            self._leave_phone(job)
        job.ended_at, job.ends_at, job.fails_with = self._now, None, None
        job.remark = STOPPED
        self._table.set_status(job, self.options.after_stop)
        if job.status == FAILED and self.options.auto_retry_stopped:
            self._plan_auto_retry(job)
        self.changes += 1

    def _delete(self, job_id: int) -> None:
        job = self._table.get(job_id)
        if job is None:
            self._list.history.delete(job_id)
        else:
            if job.status == RUNNING:
                self._leave_phone(job)
            self._table.remove(job)
            self._start_what_may_run()
        self.changes += 1

    def _leave_phone(self, job: Job) -> None:
        """The phone goes on with its queue at once."""
        phone = self._phones.get(job.serial)
        if phone is not None:
            phone.running, phone.awake = None, True
            self._running.discard(phone.serial)


def _job_from(kept: dict[str, Any]) -> Job:
    job = Job(**kept)
    numbers = (job.id, job.status, job.retry_count, job.runs, job.turn)
    if not all(isinstance(number, int) for number in numbers) or job.status not in range(4):
        raise ValueError(f"not a job: id {job.id!r}, status {job.status!r}")
    return job
