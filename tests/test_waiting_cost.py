"""What waiting costs TikMatrix, in requests, on a virtual clock: the same every time.

Everything here is counted at one fixed interval. `benchmarks` shows the same in a table.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

import pytest

from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import AccountWarmup, Batch, JobReport, JobRequest, Outcome, Report
from tikmatrix_tasks.simulator import Dialect, Options
from tikmatrix_tasks.submission import MemoryLedger, submit
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

INTERVAL = 2.0
PACE = Pace(
    poll_interval_seconds=INTERVAL, max_poll_interval_seconds=INTERVAL, failure_grace_seconds=0
)


@dataclass
class Waited:
    """What a wait asked, and when it noticed what."""

    tikmatrix: VirtualTikMatrix
    began_at: float
    requests: int = 0
    reports: Sequence[Report] = ()
    noticed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By phone, when the end of each of its jobs was told, in order."""

    def ends(self, serial: str | None = None) -> list[float]:
        """When our jobs ended, on one phone or on all, in order."""
        return sorted(
            job.ended_at
            for job in self.tikmatrix.engine.jobs
            if job.ended_at is not None and job.source == "api" and serial in (None, job.serial)
        )

    @property
    def intervals(self) -> float:
        return (self.ends()[-1] - self.began_at) / INTERVAL

    @property
    def polling_each(self) -> int:
        """What one GET per open job and interval would have come to, from the first moment on."""
        return sum(math.ceil((end - self.began_at) / INTERVAL) + 1 for end in self.ends())

    @property
    def late(self) -> list[float]:
        """For each job, by how many intervals its end was noticed late."""
        return [
            (noticed - end) / INTERVAL
            for serial, times in self.noticed.items()
            for noticed, end in zip(times, self.ends(serial), strict=True)
        ]


async def created(
    tikmatrix: VirtualTikMatrix, phones: int, jobs_each: int, seconds: int = 60
) -> Batch:
    """Warm-ups of about so many seconds, one submission after the other, as one batch."""
    serials = tuple(f"phone-{number}" for number in range(1, phones + 1))
    request = JobRequest(AccountWarmup(task_duration=seconds), serials=serials)
    async with tikmatrix.client() as client:
        batches = [await submit(client, request, MemoryLedger()) for _ in range(jobs_each)]
    job_ids = [job_id for batch in batches for job_id in batch.job_ids]
    return batches[-1].model_copy(update={"job_ids": tuple(job_ids), "expected_jobs": None})


async def waited(tikmatrix: VirtualTikMatrix, parts: Sequence[Batch]) -> Waited:
    """Wait for all parts side by side, to the end."""
    now = asyncio.get_running_loop().time
    result = Waited(tikmatrix, began_at=now())

    def told(jobs: Sequence[JobReport]) -> None:
        for job in jobs:
            if job.outcome is Outcome.COMPLETED and job.serial is not None:
                result.noticed[job.serial].append(now())

    tikmatrix.api.requests.clear()
    watcher = Watcher(tikmatrix.client)
    waits = [follow(watcher, part, PACE, timeout_seconds=1e6, on_jobs=told) for part in parts]
    result.reports = await asyncio.gather(*waits)
    result.requests = len(tikmatrix.api.requests)
    assert all(report.ok for report in result.reports)
    return result


def phones_of(count: int, **options: object) -> Options:
    return Options(phones=count, device_limit=count, auto_retry=False, **options)  # type: ignore[arg-type]  # by name


async def one_wait(
    phones: int,
    jobs_each: int,
    *,
    history: int = 0,
    waits: int = 1,
    dialect: Dialect | None = None,
    seconds: int = 60,
) -> Waited:
    tikmatrix = VirtualTikMatrix(phones_of(phones), dialect)
    if history:
        tikmatrix.engine.add_history(history)
    batch = await created(tikmatrix, phones, jobs_each, seconds)
    parts = [batch.part(batch.job_ids[part::waits], batch.owners) for part in range(waits)]
    return await waited(tikmatrix, parts)


def budget(waited: Waited, jobs: int, at_once: int) -> float:
    """Two requests per interval for each hundred that run at once, one per job, and ten."""
    return 2 * waited.intervals * math.ceil(at_once / 100) + jobs + 10


@pytest.mark.parametrize("seconds", [5, 60, 600])
@pytest.mark.parametrize(
    ("phones", "jobs_each"), [(1, 1), (2, 1), (3, 1), (5, 2), (50, 1), (2, 30)]
)
def test_a_wait_never_costs_more_than_polling_each_job(
    phones: int, jobs_each: int, seconds: int
) -> None:
    one = run(one_wait(phones, jobs_each, seconds=seconds))
    assert one.requests <= one.polling_each


@pytest.mark.parametrize("jobs", [1, 2, 3, 5, 10])
def test_a_wait_amid_the_work_of_others_costs_no_more_than_polling_each_job(jobs: int) -> None:
    """The counters move all the time then, and asking them is in vain."""

    async def scenario() -> Waited:
        tikmatrix = VirtualTikMatrix(phones_of(40, durations={"like": 3.0}))
        others = [f"phone-{number}" for number in range(11, 41)]
        for _ in range(200):
            tikmatrix.engine.operator_create("like", serials=others)
        batch = await created(tikmatrix, jobs, 1, seconds=300)
        return await waited(tikmatrix, [batch])

    one = run(scenario())
    assert one.requests <= one.polling_each


@pytest.mark.parametrize(("phones", "jobs_each"), [(2, 1), (3, 1), (50, 1), (100, 100)])
def test_one_request_per_interval_while_nothing_moves(phones: int, jobs_each: int) -> None:
    async def scenario() -> float:
        tikmatrix = VirtualTikMatrix(phones_of(phones))
        batch = await created(tikmatrix, phones, jobs_each, seconds=7200)
        wait = asyncio.create_task(waited(tikmatrix, [batch]))
        await asyncio.sleep(60)
        before = len(tikmatrix.api.requests)
        await asyncio.sleep(500 * INTERVAL)
        wait.cancel()
        return (len(tikmatrix.api.requests) - before) / 500

    assert run(scenario()) == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize(
    ("phones", "jobs_each", "seconds"),
    [(10, 1, 60), (100, 1, 60), (100, 10, 60), (100, 10, 20), (100, 20, 5), (1000, 1, 60)],
)
def test_requests_follow_what_runs_and_not_what_waits(
    phones: int, jobs_each: int, seconds: int
) -> None:
    one = run(one_wait(phones, jobs_each, seconds=seconds))
    assert one.requests <= budget(one, phones * jobs_each, phones)


def test_ten_thousand_jobs_stay_within_the_budget() -> None:
    one = run(one_wait(100, 100))
    assert one.requests <= budget(one, 10_000, 100)


def test_a_thousand_jobs_cost_a_hundredth_of_polling_each() -> None:
    one = run(one_wait(100, 10))
    assert one.requests * 100 <= one.polling_each


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_long_history_costs_nothing(newest_first: bool) -> None:
    dialect = Dialect(newest_first=newest_first)
    none, long = (run(one_wait(50, 4, history=old, dialect=dialect)) for old in (0, 100_000))
    assert long.requests == pytest.approx(none.requests, rel=0.1)


def test_a_hundred_waits_cost_what_one_costs() -> None:
    one, hundred = (run(one_wait(100, 10, waits=waits)) for waits in (1, 100))
    assert hundred.requests == pytest.approx(one.requests, rel=0.1)


def test_waits_that_begin_one_by_one_cost_what_one_costs() -> None:
    """Prefect takes seconds to start a hundred; they join while an answer is awaited."""

    async def scenario(apart_seconds: float) -> int:
        tikmatrix = VirtualTikMatrix(phones_of(100))
        batch = await created(tikmatrix, 100, 1)
        tikmatrix.api.faults.slow("GET /task/stats", 0.3, times=10_000)
        tikmatrix.api.faults.slow("GET /task", 0.3, times=10_000)
        tikmatrix.api.requests.clear()
        watcher = Watcher(tikmatrix.client)

        async def later(number: int) -> Report:
            await asyncio.sleep(apart_seconds * number)
            part = batch.part(batch.job_ids[number : number + 1], batch.owners)
            return await follow(watcher, part, PACE, timeout_seconds=1e6)

        reports = await asyncio.gather(*map(later, range(100)))
        assert all(report.ok for report in reports)
        return len(tikmatrix.api.requests)

    assert run(scenario(0.03)) == pytest.approx(run(scenario(0)), rel=0.15)


def test_waits_for_the_same_jobs_cost_what_one_costs() -> None:
    """Flows may wait for one batch from several places."""

    async def scenario(waits: int) -> int:
        tikmatrix = VirtualTikMatrix(phones_of(20))
        batch = await created(tikmatrix, 20, 1, seconds=300)
        tikmatrix.api.requests.clear()
        watcher = Watcher(tikmatrix.client)

        async def later(seconds: float) -> Report:
            await asyncio.sleep(seconds)
            return await follow(watcher, batch, PACE, timeout_seconds=1e6)

        reports = await asyncio.gather(*(later(2.0 * number) for number in range(waits)))
        assert all(report.ok for report in reports)
        return len(tikmatrix.api.requests)

    assert run(scenario(50)) == pytest.approx(run(scenario(1)), rel=0.1)


@pytest.mark.parametrize(
    ("phones", "jobs_each", "seconds"),
    [(1, 20, 60), (2, 20, 60), (30, 5, 60), (100, 10, 60), (100, 10, 5)],
)
def test_an_end_is_noticed_within_an_interval(phones: int, jobs_each: int, seconds: int) -> None:
    one = run(one_wait(phones, jobs_each, seconds=seconds))
    assert len(one.late) == phones * jobs_each
    assert median(one.late) <= 0.6
    assert quantiles(one.late, n=20, method="inclusive")[-1] <= 1.1
