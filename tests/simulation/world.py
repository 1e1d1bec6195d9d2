"""One simulated evening from one seed: runs, faults, deaths, operators, and what must hold.

The submission, waiting and stopping code is the product's own; TikMatrix is the simulator's engine;
time is virtual. A process dies at any of its awaits: from then on nothing it does reaches TikMatrix
or its ledger, and another process takes its place with nothing but the ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any, TypeVar

import httpx

from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import (
    Batch,
    Follow,
    JobRequest,
    NotSentError,
    Outcome,
    Post,
    Report,
    TikMatrixClient,
    TikMatrixError,
    WaitTimedOut,
)
from tikmatrix_tasks.intent import Intent
from tikmatrix_tasks.job_actions import retry, stop, stop_submitted
from tikmatrix_tasks.simulator import (
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    Dialect,
    Engine,
    Fault,
    Options,
)
from tikmatrix_tasks.simulator.faults import KINDS
from tikmatrix_tasks.submission import Patience, submit
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

R = TypeVar("R")
ENDPOINTS = ("POST /task", "POST /task", "GET /task", "GET /task/{id}", "POST /task/{id}/stop")
SETTLE_SECONDS = 30.0
LATEST_CREATION_SECONDS = 25.0  # within the settling time; later than that nobody can know
PACE = Pace(failure_grace_seconds=65, outage_budget_seconds=300)
EVENING = datetime(2026, 1, 5, 18, 0, tzinfo=timezone.utc)


class Violation(AssertionError):
    """Something that must never happen did."""


class Died(asyncio.CancelledError):
    """The process is gone."""


class RecordingEngine(Engine):
    """Remembers every job that was ever created, and by which run."""

    creator = ""

    def create(self, body: Mapping[str, Any], source: Any = "api") -> list[int]:
        ids = super().create(body, source)
        self.created = getattr(self, "created", {})
        for job_id in ids:
            job = self.get(job_id)
            creator = self.creator if source == "api" else "operator"
            self.created[job_id] = (creator, job.serial, job.script_name, job.target)
        return ids


@dataclass
class Run:
    """One flow run: what it asks for, and what outlives its processes."""

    name: str
    request: JobRequest
    intent: Intent | None = None
    batch: Batch | None = None
    report: Report | None = None
    error: TikMatrixError | None = None
    cancelled: bool = False
    stopped_unclear: bool = False
    processes: list[Process] = field(default_factory=list)


class Process:
    """What dies: its memory, and its way to TikMatrix and to the ledger."""

    def __init__(self, run: Run, world: World) -> None:
        self.run, self.world, self.dead = run, world, False
        self.unsent: set[str] = set()
        run.processes.append(self)

    def client(self) -> TikMatrixClient:
        return TikMatrixClient(transport=_Wire(self))

    async def read_intent(self) -> Intent | None:
        await self._alive()
        return self.run.intent

    async def write_intent(self, intent: Intent) -> None:
        await self._alive()
        self.run.intent = intent
        await self._alive()

    async def forget_intent(self) -> None:
        await self._alive()
        self.run.intent = None

    async def write_batch(self, batch: Batch) -> None:
        await self._alive()
        self.run.batch = batch

    async def _alive(self) -> None:
        await asyncio.sleep(0)
        if self.dead:
            raise Died


class _Wire(httpx.AsyncBaseTransport):
    def __init__(self, process: Process) -> None:
        self._process = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world, process = self._process.world, self._process
        if process.dead:
            raise Died
        is_create = request.method == "POST" and request.url.path.endswith("/task")
        if is_create and world.late_creations:
            delay = world.late_creations.pop()
            world.later(self._carry_out(request), delay)
            await asyncio.sleep(60)  # longer than any time-out
        return await self._carry_out(request)

    async def _carry_out(self, request: httpx.Request) -> httpx.Response:
        world = self._process.world
        world.engine.creator = self._process.run.name
        return await world.tikmatrix.handle_async_request(request)


class Mortal:
    """Awaits a coroutine and lets its process die at its n-th await.

    Either at once, so that what it awaits does not begin, or (`after`) when that has come about.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, R], process: Process, dies_at: int, after: bool
    ) -> None:
        self._coroutine, self._process = coroutine, process
        self._left, self._after = dies_at, after

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        send: Any = None
        error: BaseException | None = None
        while True:
            try:
                given = steps.throw(error) if error is not None else steps.send(send)
            except StopIteration as end:
                return end.value
            error = None
            self._left -= 1
            if self._left == 0:
                if self._after:
                    with suppress(BaseException):  # whatever came of it, nobody is there any more
                        yield given
                self._process.dead = True
                error = Died()
                continue
            try:
                send = yield given
            except BaseException as raised:
                error = raised


class World:
    """Everything of one schedule. `violate` names a part of the product that is switched off."""

    def __init__(self, seed: int, pace: Pace = PACE) -> None:
        self.seed, self.random, self.pace = seed, Random(seed), pace
        self.story: list[str] = []
        self.retried_by_others: set[int] = set()
        self.deleted: list[tuple[str, str, str | None]] = []
        self.failed_for_good: dict[int, str] = {}
        self.late_creations: list[float] = []
        self._tasks: list[asyncio.Task[Any]] = []

    def play(self) -> None:
        """Run the schedule and check it.

        Raises:
            Violation: what must hold did not; the message tells the seed and the story.
        """
        random.seed(self.seed)  # the product spreads its polls by it
        try:
            run(self._play())
        except Violation as err:
            told = "\n  ".join(self.story)
            raise Violation(f"seed {self.seed}: {err}\n  {told}") from None

    async def _play(self) -> None:
        rng = self.random
        phones = rng.choice([1, 2, 3])
        options = Options(
            phones=phones,
            seed=self.seed,
            auto_retry=rng.random() < 0.5,
            max_retry_count=rng.choice([1, 3]),
            fail_rate=rng.choice([0, 0, 0.3, 0.6]),
            device_limit=rng.choice([None, 1]),
            stop_pending=rng.choice(["refuse", "stop"]),
            after_stop=rng.choice([2, 3]),
            durations={"post": 20.0, "follow": 15.0},
        )
        dialect = Dialect(
            row_fields="minimal" if rng.random() < 0.1 else "seen",
            newest_first=rng.random() < 0.5,
            with_total=rng.random() < 0.7,
            string_status=rng.random() < 0.5,
            script_args=rng.choice(["text", "object"]),
            target_in_args=rng.choice(["single", "list", "as_sent"]),
            http_status=rng.choice(["always_200", "by_code"]),
        )
        self.tikmatrix = VirtualTikMatrix(options, dialect, engine=RecordingEngine)
        engine = self.tikmatrix.engine
        assert isinstance(engine, RecordingEngine)
        self.engine = engine
        if rng.random() < 0.3:
            engine.add_history(rng.choice([50, 250]))
        self._tell(f"{options} {dialect}")
        serials = tuple(f"phone-{number}" for number in range(1, phones + 1))
        self._plan_faults()
        runs = [Run(f"run-{n}", self._request(serials)) for n in range(rng.choice([1, 1, 2]))]
        self._runs = runs
        operator = asyncio.ensure_future(self._operator())
        await asyncio.gather(*(self._flow_run(each) for each in runs))
        operator.cancel()
        self.tikmatrix.api.faults.clear()
        self.tikmatrix.closed_until = 0.0
        self._check_at_the_end(runs)
        await asyncio.sleep(3600)  # whatever may still happen happens
        self._check_later(runs)
        for task in self._tasks:
            task.cancel()

    def _request(self, serials: tuple[str, ...]) -> JobRequest:
        rng = self.random
        script = rng.choice(
            [
                Post(captions="Hi", material_list=["C:/v.mp4"]),
                Post(),
                Follow(target_users=["ann", "bob"]),
                Follow(target_users=["ann"]),
            ]
        )
        return JobRequest(script, serials=serials)

    def _plan_faults(self) -> None:
        rng = self.random
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            kind = rng.choice([name for name in KINDS if name != "refuse"])
            endpoint, after = rng.choice(ENDPOINTS), rng.choice([0, 0, 1, 3])
            fault = Fault(endpoint, kind, **self._seconds(kind), after=after)
            self._tell(str(fault))
            self.tikmatrix.api.faults.add(fault)
        if rng.random() < 0.2:
            self.late_creations.append(rng.uniform(1, LATEST_CREATION_SECONDS))
            self._tell(f"a creation comes {self.late_creations[0]:.1f} s late")

    def _seconds(self, kind: str) -> dict[str, Any]:
        takes_some = KINDS[kind].seconds is not None
        return {"seconds": self.random.uniform(0.5, 30)} if takes_some else {}

    async def _operator(self) -> None:
        """Someone at the screen, who deletes, stops, retries and posts; and closes the program."""
        rng = self.random
        for _ in range(rng.choice([0, 0, 1, 3])):
            await asyncio.sleep(rng.uniform(1, 120))
            jobs = [job for job in self.engine.jobs if job.status in (PENDING, RUNNING, FAILED)]
            deed = rng.choice(["delete", "stop", "retry", "post", "close"])
            if deed == "close":
                self._tell("operator closes TikMatrix for a while")
                self.tikmatrix.close_for(rng.uniform(5, 100))
            elif deed == "post":
                self.engine.operator_create("post", {"captions": "mine"}, serials=["phone-1"])
            elif jobs:
                job = rng.choice(jobs)
                self._tell(f"operator: {deed} job {job.id}")
                if deed == "retry":
                    self.retried_by_others.add(job.id)
                if deed == "delete":
                    self.deleted.append((job.serial, job.script_name, job.target))
                try:
                    getattr(self.engine, f"operator_{deed}")(job.id)
                except Exception as refusal:  # the screen refuses what makes no sense
                    self._tell(f"  refused: {refusal}")

    async def _flow_run(self, run: Run) -> None:
        rng = self.random
        deaths = [rng.randint(1, rng.choice([8, 120])) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
        cancel_at = rng.uniform(0.0, 60) if rng.random() < 0.25 else None
        for dies_at in [*deaths, 0]:
            process = Process(run, self)
            mortal = Mortal(self._process(process), process, dies_at, rng.random() < 0.5)
            main = asyncio.ensure_future(_awaited(mortal))
            if cancel_at is not None:
                await asyncio.wait([main], timeout=cancel_at)
                if not main.done():
                    self._tell(f"{run.name} is cancelled")
                    run.cancelled = True
                    process.dead = True
                    main.cancel()
                    await asyncio.wait([main])
                    await self._cancel(run)
                    return
            await asyncio.wait([main])
            if not process.dead:
                if main.cancelled():
                    raise Violation(f"{run.name} was cancelled by nobody")
                main.result()
                return
            self._tell(f"{run.name} died at step {dies_at}")
            await asyncio.sleep(rng.choice([0, 2, 10, 40, 2000]))

    async def _process(self, process: Process) -> None:
        """What a flow's process does: the steps of `submit_jobs` and `wait_for_jobs`."""
        run, shared = process.run, len(self._runs) > 1
        batch = run.batch or Batch(job_ids=())
        try:
            if run.batch is None:
                batch = await self._submit(process)
                await process.write_batch(batch)
            self._tell(f"{run.name} has jobs {batch.job_ids} {batch.decisions}")

            async def again(job_ids: Sequence[int]) -> Sequence[int]:
                async with process.client() as client:
                    ids = await retry(client, job_ids)
                # Of another run, too: where two processes send equal requests at the same time,
                # one may adopt the other's jobs.
                self.retried_by_others.update(ids if shared else ())
                return ids

            run.report = await follow(
                Watcher(process.client),
                batch,
                self.pace,
                timeout_seconds=self.random.choice([40, 4000, 4000]),
                retry_failed=self.random.choice([0, 0, 1]),
                retry=again,
            )
            self._tell(f"{run.name}: {run.report}")
        except WaitTimedOut as late:
            self._tell(f"{run.name}: {late}")
            run.error = late
            async with process.client() as client:
                await stop(client, batch.job_ids, revival_seconds=self.pace.failure_grace_seconds)
        except TikMatrixError as err:
            self._tell(f"{run.name}: {type(err).__name__}: {err}")
            run.error = err

    async def _submit(self, process: Process) -> Batch:
        async with process.client() as client:
            for pause in (1, 5, 15, None):
                try:
                    return await submit(
                        client,
                        process.run.request,
                        process,
                        patience=Patience(
                            settle_seconds=SETTLE_SECONDS,
                            outage_budget_seconds=300,
                            utc_now=self._utc_now,
                        ),
                        on_decision=self._tell,
                    )
                except NotSentError:
                    if pause is None:
                        raise
                    await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _cancel(self, run: Run) -> None:
        """What Prefect's worker does: the hook, in a new process."""
        self.tikmatrix.api.faults.clear()
        self.tikmatrix.closed_until = 0.0
        process = Process(run, self)
        async with process.client() as client:
            stopped = await stop_submitted(
                client,
                run.intent,
                run.batch,
                settle_seconds=SETTLE_SECONDS,
                revival_seconds=self.pace.failure_grace_seconds,
                utc_now=self._utc_now,
            )
        self._tell(f"{run.name}: {stopped}")
        run.stopped_unclear = bool(stopped.unclear)

    # What must hold

    def _check_at_the_end(self, runs: list[Run]) -> None:
        status = {job.id: job.status for job in self.engine.jobs}
        for each in runs:
            if each.report is not None:
                self._check_report(each, each.report, status)
            if each.cancelled and not each.stopped_unclear:
                for job_id, (creator, *_) in self._created().items():
                    goes_on = status.get(job_id) in (PENDING, RUNNING)
                    if creator == each.name and goes_on and job_id not in self.retried_by_others:
                        raise Violation(f"job {job_id} of the cancelled {each.name} goes on")

    def _check_report(self, run: Run, report: Report, status: dict[int, int]) -> None:
        known = [job.job_id for job in report.jobs if job.job_id is not None]
        if len(report.jobs) != run.request.least_jobs or len(set(known)) != len(known):
            raise Violation(f"{run.name} asked for {run.request.least_jobs} jobs: {report}")
        created = self._created()
        pairs = Counter((created[job_id][1], created[job_id][3]) for job_id in known)
        targets = run.request.script.targets or (None,)
        asked = Counter((owner, target) for owner in run.request.owners for target in targets)
        if pairs != asked:
            raise Violation(f"{run.name} reports other jobs than it asked for: {pairs}")
        truths = {Outcome.COMPLETED: COMPLETED, Outcome.FAILED: FAILED, Outcome.GONE: None}
        for job in report.jobs:
            assert job.job_id is not None
            now = status.get(job.job_id)
            touched = job.job_id in self.retried_by_others
            if job.outcome not in truths or (
                now not in (truths[job.outcome], None) and not touched
            ):
                raise Violation(f"job {job.job_id} is reported {job.outcome}, it has status {now}")
            if job.outcome is Outcome.FAILED and not touched:
                self.failed_for_good[job.job_id] = run.name

    def _check_later(self, runs: list[Run]) -> None:
        for job in self.engine.jobs:
            if job.id in self.failed_for_good and job.status != FAILED:
                raise Violation(f"job {job.id} was reported failed and has status {job.status} now")
        asked: Counter[tuple[Any, ...]] = Counter()
        for each in runs:
            for target in each.request.script.targets or (None,):
                asked.update(
                    (owner, each.request.script.name, target) for owner in each.request.owners
                )
        done = Counter(tuple(job[1:]) for job in self._created().values() if job[0] != "operator")
        # Whoever deletes the newest job while its submission is in doubt leaves no trace of it.
        asked.update(self.deleted)
        for pair, count in done.items():
            if count > asked[pair]:
                raise Violation(
                    f"{pair} was asked for {asked[pair]} times and created {count} times"
                )
        for each in runs:
            settled = each.report or each.cancelled or isinstance(each.error, TikMatrixError)
            if not settled:
                raise Violation(f"{each.name} ended without a report or an error")

    def _created(self) -> dict[int, tuple[str, str, str, str | None]]:
        return getattr(self.engine, "created", {})

    def later(self, work: Coroutine[Any, Any, Any], seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await work

        self._tasks.append(asyncio.ensure_future(wait()))

    def _utc_now(self) -> datetime:
        return EVENING + timedelta(seconds=asyncio.get_running_loop().time())

    def _tell(self, line: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time():7.1f} {line}")


async def _awaited(mortal: Mortal) -> None:
    await mortal
