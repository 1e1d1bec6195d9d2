"""No end goes unnoticed, whatever TikMatrix leaves out, and looks come when they should."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from statistics import median

import httpx
import pytest

from tests.test_waiting_cost import INTERVAL, PACE, created, phones_of, waited
from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import AccountWarmup, JobRequest, Outcome, Post, TikMatrixUnreachable
from tikmatrix_tasks.cadence import Cadence
from tikmatrix_tasks.simulator import Dialect, Options
from tikmatrix_tasks.submission import MemoryLedger, submit
from tikmatrix_tasks.tracker import RUNNING_CHECK_LOOKS
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

HOUR = 3600.0
USUAL = Pace(failure_grace_seconds=0)


class Tampering(VirtualTikMatrix):
    """A TikMatrix whose answers a test changes, and that notes when it was asked."""

    def __init__(self, options: Options, dialect: Dialect | None = None) -> None:
        super().__init__(options, dialect)
        self.asked_at: list[float] = []
        self.tamper: Callable[[httpx.Request, httpx.Response], httpx.Response] = lambda _, got: got

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked_at.append(asyncio.get_running_loop().time())
        return self.tamper(request, await super().handle_async_request(request))

    def counters(self, answer: httpx.Response) -> None:
        """Answer this whenever the counters are asked for."""

        def instead(request: httpx.Request, got: httpx.Response) -> httpx.Response:
            return answer if request.url.path.endswith("/stats") else got

        self.tamper = instead

    @property
    def pauses(self) -> list[float]:
        return [b - a for a, b in zip(self.asked_at, self.asked_at[1:], strict=False) if b > a]


def counters_of(**counts: int) -> httpx.Response:
    usual = {"total": 0, "pending": 0, "running": 0, "completed": 0, "failed": 0}
    answer = {"code": 0, "message": "success", "data": {**usual, **counts}}
    return httpx.Response(200, content=json.dumps(answer))


@pytest.mark.parametrize(
    "counters",
    [
        httpx.Response(404, content=b"<html>Not Found</html>"),
        httpx.Response(200, content=b'{"code": 40401, "message": "not found", "data": {}}'),
        httpx.Response(200, content=b'{"code": 50001, "message": "internal", "data": {}}'),
        httpx.Response(200, content=b'{"code": 0, "message": "success", "data": {"sum": 5}}'),
        counters_of(),
    ],
    ids=["page", "40401", "50001", "other", "zero"],
)
@pytest.mark.parametrize("phones", [2, 30])
def test_counters_that_are_of_no_use_are_done_without(
    phones: int, counters: httpx.Response
) -> None:
    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(phones))
        batch = await created(tikmatrix, phones, 5)
        tikmatrix.counters(counters)
        one = await waited(tikmatrix, [batch])
        assert len(one.late) == 5 * phones
        assert median(one.late) <= 0.6
        assert max(one.late) <= 3
        assert one.requests <= one.polling_each

    run(scenario())


@pytest.mark.parametrize("frozen_at", [0.0, 30.0])
def test_jobs_that_move_while_the_counters_stay_equal_are_noticed(frozen_at: float) -> None:
    """One job fails while Auto Retry revives another: then no counter moves."""

    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(20))
        batch = await created(tikmatrix, 20, 3)
        wait = asyncio.create_task(waited(tikmatrix, [batch]))
        await asyncio.sleep(frozen_at)
        async with tikmatrix.client() as client:
            stats = await client.get_stats()
        tikmatrix.counters(counters_of(**stats.model_dump()))
        one = await wait
        assert len(one.late) == 60
        assert max(one.late) <= 4 * RUNNING_CHECK_LOOKS

    run(scenario())


@pytest.mark.parametrize("others_wait", [0, 500])
def test_jobs_that_start_and_end_between_two_looks_are_noticed(others_wait: int) -> None:
    """Also where so many of other people's jobs wait that the counters would allow ours to."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(phones_of(40, durations={"account_warmup": 0.7}))
        if others_wait:
            start = (tikmatrix.engine.second_zero - timedelta(hours=1)).strftime("%H:%M")
            tikmatrix.engine.options = phones_of(
                40, durations={"account_warmup": 0.7}, past_start_time="tomorrow"
            )
            for _ in range(others_wait // 40):
                serials = tikmatrix.engine.options.serials
                tikmatrix.engine.operator_create("like", serials=serials, start_time=start)
        batch = await created(tikmatrix, 40, 8)
        one = await waited(tikmatrix, [batch])
        assert len(one.late) == 320
        assert median(one.late) <= 1.1

    run(scenario())


def test_jobs_that_ended_before_the_first_look_are_noticed_at_it() -> None:
    """No earlier counters tell then that they have ended; that fewer wait than should does."""

    async def scenario() -> None:
        options = phones_of(40, durations={"account_warmup": 0.5}, pickup_seconds=(0, 0))
        tikmatrix = VirtualTikMatrix(options)
        one = await waited(tikmatrix, [await created(tikmatrix, 40, 1)])
        assert max(one.late) <= 1

    run(scenario())


@pytest.mark.parametrize("newest_first", [True, False])
def test_rows_that_shift_between_pages_lose_no_job(newest_first: bool) -> None:
    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(250), Dialect(newest_first=newest_first))
        batch = await created(tikmatrix, 240, 3)
        others = list(tikmatrix.engine.options.serials[240:])

        def shift(request: httpx.Request, got: httpx.Response) -> httpx.Response:
            if request.url.params.get("page") in ("1", "2"):
                created = tikmatrix.engine.operator_create("like", serials=others)
                for job_id in created[::2]:
                    tikmatrix.engine.operator_delete(job_id)
            return got

        tikmatrix.tamper = shift
        one = await waited(tikmatrix, [batch])
        assert len(one.late) == 720
        assert median(one.late) <= 0.6

    run(scenario())


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(),
        Dialect(newest_first=False),
        Dialect(with_total=False),
        Dialect(with_total=False, newest_first=False, row_fields="minimal", string_status=True),
    ],
    ids=["newest-first", "oldest-first", "no-total", "bare"],
)
def test_a_million_old_jobs_are_not_read(dialect: Dialect) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(phones_of(60), dialect)
        tikmatrix.engine.add_history(1_000_000)
        batch = await created(tikmatrix, 60, 3)
        tikmatrix.api.requests.clear()
        report = await follow(Watcher(tikmatrix.client), batch, PACE, timeout_seconds=HOUR)
        assert report.ok
        intervals = asyncio.get_running_loop().time() / INTERVAL
        assert len(tikmatrix.api.requests) <= 2 * intervals + 180 + 10

    run(scenario())


def test_a_deadline_tells_what_is_true_then() -> None:
    """A job that has completed is not reported as overdue because no counter told."""

    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(6))
        batch = await created(tikmatrix, 6, 1)
        tikmatrix.counters(counters_of(total=6, pending=6))
        pace = Pace(poll_interval_seconds=200, max_poll_interval_seconds=200)
        report = await follow(Watcher(tikmatrix.client), batch, pace, timeout_seconds=100)
        assert [job.outcome for job in report.jobs] == [Outcome.COMPLETED] * 6

    run(scenario())


def test_a_wait_that_joins_learns_what_others_know() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(phones_of(3))
        batch = await created(tikmatrix, 3, 1, seconds=100)
        watcher = Watcher(tikmatrix.client)
        first = asyncio.create_task(follow(watcher, batch, PACE, timeout_seconds=HOUR))
        await asyncio.sleep(50)
        told: list[str] = []
        joining = follow(watcher, batch, PACE, timeout_seconds=HOUR, on_change=told.append)
        second = asyncio.create_task(joining)
        await asyncio.sleep(0.1)
        assert sorted(told) == [f"phone-{n}: account_warmup running [job {n}]" for n in (1, 2, 3)]
        assert (await first).ok
        assert (await second).ok

    run(scenario())


def test_nothing_grows_while_waiting() -> None:
    async def scenario() -> int:
        tikmatrix = VirtualTikMatrix(phones_of(30))
        batch = await created(tikmatrix, 30, 1, seconds=100 * int(HOUR))
        wait = asyncio.create_task(waited(tikmatrix, [batch]))
        await asyncio.sleep(HOUR)
        ours = [tracemalloc.Filter(True, "*tikmatrix_tasks/[!s]*")]
        tracemalloc.start()
        await asyncio.sleep(HOUR / 10)
        before = tracemalloc.take_snapshot().filter_traces(ours)
        await asyncio.sleep(HOUR)
        after = tracemalloc.take_snapshot().filter_traces(ours)
        tracemalloc.stop()
        wait.cancel()
        return sum(line.size_diff for line in after.compare_to(before, "filename"))

    assert run(scenario()) < 20_000


def test_waits_that_are_over_are_forgotten() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(phones_of(4))
        batch = await created(tikmatrix, 4, 1, seconds=3000)
        watcher = Watcher(tikmatrix.client)
        waits = [
            asyncio.create_task(follow(watcher, part, PACE, timeout_seconds=HOUR))
            for part in (batch, batch.part(batch.job_ids[:1], batch.owners[:1]))
        ]
        await asyncio.sleep(60)
        waits[0].cancel()
        await asyncio.sleep(60)
        tikmatrix.api.requests.clear()
        await asyncio.sleep(100 * INTERVAL)
        asked = {request.path for request in tikmatrix.api.requests}
        assert asked == {f"/api/v1/task/{batch.job_ids[0]}"}
        assert (await waits[1]).ok

    run(scenario())


def test_looks_are_close_together_only_when_something_may_happen() -> None:
    """At the start and near the expected end of a warm-up, and far apart in between."""

    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(1))
        batch = await created(tikmatrix, 1, 1, seconds=1800)
        report = await follow(Watcher(tikmatrix.client), batch, USUAL, timeout_seconds=HOUR)
        assert report.ok
        (job,) = tikmatrix.engine.jobs
        assert job.started_at is not None
        assert job.ended_at is not None
        expected_end = job.started_at + 1800
        near: list[float] = []
        between: list[float] = []
        for at, pause in zip(tikmatrix.asked_at[1:], tikmatrix.pauses, strict=False):
            close = min(abs(at - moment) for moment in (0, job.started_at, expected_end))
            (near if close < 8 else between if close > 90 else []).append(pause)
        assert max(near) <= 4.5
        assert min(between) >= 13
        shortest, longest = USUAL.poll_interval_seconds, USUAL.max_poll_interval_seconds
        assert all(shortest - 0.01 <= pause <= longest + 0.01 for pause in tikmatrix.pauses[3:])

    run(scenario())


def test_looks_wait_for_the_start_time() -> None:
    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(5))
        tikmatrix.engine.second_zero = now = datetime.now()
        start = now + timedelta(hours=3)
        request = JobRequest(
            Post(), serials=("phone-1", "phone-2"), start_time=start.strftime("%H:%M")
        )
        async with tikmatrix.client() as client:
            batch = await submit(client, request, MemoryLedger())
        tikmatrix.asked_at.clear()
        report = await follow(Watcher(tikmatrix.client), batch, USUAL, timeout_seconds=9 * HOUR)
        assert report.ok
        starts_at = (start.replace(second=0, microsecond=0) - now).total_seconds()
        before = [at for at in tikmatrix.asked_at if at < starts_at]
        assert len(before) <= 1.15 * starts_at / USUAL.max_poll_interval_seconds + 25
        assert starts_at - before[-1] <= 5

    run(scenario())


def test_a_program_that_is_closed_is_asked_more_and_more_seldom() -> None:
    async def scenario() -> None:
        tikmatrix = Tampering(phones_of(3))
        batch = await created(tikmatrix, 3, 1)
        tikmatrix.close_for(HOUR)
        tikmatrix.asked_at.clear()
        with pytest.raises(TikMatrixUnreachable):
            await follow(Watcher(tikmatrix.client), batch, USUAL, timeout_seconds=HOUR)
        assert len(tikmatrix.asked_at) <= 85
        assert tikmatrix.pauses[-1] >= 13

    run(scenario())


def test_the_longest_pause_wins_over_the_shortest() -> None:
    cadence = Cadence(shortest_seconds=20, longest_seconds=5)
    cadence.mark(0)
    assert [cadence.pause(now) for now in (0, 10, 1000)] == [5, 5, 5]


def test_settings_of_warmups_tell_how_long_they_take() -> None:
    request = JobRequest(AccountWarmup(task_duration=1234), serials=("phone-1",))
    assert request.script.expected_seconds == 1234
