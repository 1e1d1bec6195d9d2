"""Waiting, on a virtual clock: the real client, watcher and waiting code, hours at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.conftest import block_for
from tests.odd_server import OddServer, envelope
from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import (
    AccountWarmup,
    Batch,
    Follow,
    InvalidRequest,
    JobRequest,
    Outcome,
    PlanError,
    Post,
    Report,
    Script,
    TikMatrixClient,
    TikMatrixUnreachable,
    WaitTimedOut,
)
from tikmatrix_tasks.job_actions import retry, stop
from tikmatrix_tasks.rows import split_by_owner
from tikmatrix_tasks.simulator import FAILED, Dialect, Options, parse_fault
from tikmatrix_tasks.submission import MemoryLedger, submit
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

HOUR = 3600.0
NO_GRACE = Pace(failure_grace_seconds=0)


async def submitted(
    tikmatrix: VirtualTikMatrix, script: Script, phones: int, **fields: object
) -> Batch:
    serials = tuple(f"phone-{number}" for number in range(1, phones + 1))
    async with tikmatrix.client() as client:
        return await submit(client, JobRequest(script, serials=serials, **fields), MemoryLedger())  # type: ignore[arg-type]  # by name


async def waited(
    tikmatrix: VirtualTikMatrix,
    batch: Batch,
    pace: Pace = NO_GRACE,
    *,
    timeout_seconds: float = 10 * HOUR,
    told: list[str] | None = None,
) -> Report:
    lines: list[str] = [] if told is None else told
    return await follow(
        Watcher(tikmatrix.client),
        batch,
        pace,
        timeout_seconds=timeout_seconds,
        on_change=lines.append,
    )


def outcomes(report: Report) -> list[Outcome]:
    return [job.outcome for job in report.jobs]


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(),
        Dialect(rows_key=None, string_status=True, with_total=False, newest_first=False),
        Dialect(row_fields="minimal"),
    ],
    ids=str,
)
def test_every_job_of_a_batch_is_followed_to_its_end(dialect: Dialect) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=12, auto_retry=False), dialect)
        tikmatrix.engine.add_history(5000)
        batch = await submitted(tikmatrix, AccountWarmup(), 12)
        report = await waited(tikmatrix, batch)
        assert outcomes(report) == [Outcome.COMPLETED] * 12
        assert report.ok

    run(scenario())


def test_a_wait_costs_pages_and_not_one_request_per_job_and_interval() -> None:
    """Fifty jobs over half an hour: polling each would be thousands of requests."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=50, plan="Team", auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(task_duration=1800), 50)
        tikmatrix.api.requests.clear()
        assert (await waited(tikmatrix, batch)).ok
        looks = 1900 / NO_GRACE.poll_interval_seconds
        assert tikmatrix.api.requests.count("GET /task/{id}") <= 50 + 5
        assert tikmatrix.api.requests.count("GET /task") <= 2 * looks

    run(scenario())


def test_many_waits_cost_what_one_wait_costs() -> None:
    """A lane per phone must not load the desktop program more than one wait for all."""

    async def requests_with(waits: int) -> int:
        tikmatrix = VirtualTikMatrix(Options(phones=40, plan="Team", auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(task_duration=1800), 40)
        async with tikmatrix.client() as client:
            parts = await split_by_owner(client, batch) if waits > 1 else [batch]
        tikmatrix.api.requests.clear()
        watcher = Watcher(tikmatrix.client)
        reports = await asyncio.gather(
            *(follow(watcher, part, NO_GRACE, timeout_seconds=HOUR) for part in parts)
        )
        assert all(report.ok for report in reports)
        assert len(parts) == waits
        return len(tikmatrix.api.requests)

    one, many = run(requests_with(1)), run(requests_with(40))
    assert many <= 1.5 * one


def test_a_job_that_auto_retry_revives_is_not_reported_failed() -> None:
    """Auto Retry runs a failed job again 5 to 60 s later; what it then does is what counts."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=True))
        tikmatrix.engine.fail_next(serial="phone-1", times=2)
        batch = await submitted(tikmatrix, Post(), 3)
        report = await waited(tikmatrix, batch, Pace())
        assert report.ok
        assert [job.retry_count for job in report.jobs] == [2, 0, 0]

    run(scenario())


def test_a_failure_is_final_after_the_grace() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        tikmatrix.engine.fail_next(serial="phone-2", remark="upload timed out")
        batch = await submitted(tikmatrix, Post(), 3)
        report = await waited(tikmatrix, batch, Pace(failure_grace_seconds=65))
        failed = next(job for job in tikmatrix.engine.jobs if job.serial == "phone-2")
        assert failed.ended_at is not None
        late = asyncio.get_running_loop().time() - failed.ended_at
        assert 65 <= late <= 65 + 2 * Pace().max_poll_interval_seconds
        assert str(report) == "2 of 3 completed; phone-2: post failed (upload timed out)"

    run(scenario())


def test_a_failure_without_grace_is_final_at_once() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=False))
        tikmatrix.engine.fail_next()
        batch = await submitted(tikmatrix, Post(), 1)
        assert outcomes(await waited(tikmatrix, batch)) == [Outcome.FAILED]
        assert asyncio.get_running_loop().time() < 65 + 30

    run(scenario())


@pytest.mark.parametrize(
    "fault",
    [
        "GET /task=internal_error_before*3",
        "GET /task=html_502*3",
        "GET /task=truncated_json*3",
        "GET /task=lose_reply*3",
        "GET /task/{id}=internal_error_before*3",
        "GET /task/{id}=hang(30)*2",
        "GET /task=overloaded(20)*2",
        "GET /task=slow(3)*5",
    ],
)
def test_a_poll_that_fails_is_unknown_and_never_failed(fault: str) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 3)
        tikmatrix.api.faults.add(parse_fault(fault))
        told: list[str] = []
        assert (await waited(tikmatrix, batch, told=told)).ok
        assert tikmatrix.api.faults.left == 0
        if "slow" not in fault:
            assert any(line.startswith("no answer from TikMatrix") for line in told)
            assert "TikMatrix answers again" in told

    run(scenario())


def test_retry_after_is_honoured_while_waiting() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 3)
        tikmatrix.api.faults.overloaded("GET /task", retry_after_seconds=50)
        tikmatrix.api.requests.clear()
        started = asyncio.get_running_loop().time()
        watcher = Watcher(tikmatrix.client)
        wait = asyncio.create_task(follow(watcher, batch, NO_GRACE, timeout_seconds=HOUR))
        await asyncio.sleep(49)
        assert tikmatrix.api.requests.count("GET /task") == 1
        assert (await wait).ok
        assert asyncio.get_running_loop().time() > started + 50

    run(scenario())


def test_a_closed_program_is_waited_for() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 3)
        tikmatrix.close_for(800)
        assert (await waited(tikmatrix, batch)).ok

    run(scenario())


def test_a_program_that_stays_closed_is_reported_with_what_was_last_known() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 3)

        async def close_later() -> None:
            await asyncio.sleep(60)
            tikmatrix.close_for(5 * HOUR)

        closing = asyncio.create_task(close_later())
        with pytest.raises(TikMatrixUnreachable, match="no answer from TikMatrix for 900 s") as end:
            await waited(tikmatrix, batch)
        await closing
        assert outcomes(end.value.report) == [Outcome.RUNNING] * 3
        assert asyncio.get_running_loop().time() < 60 + 900 + 60

    run(scenario())


def test_every_wait_has_a_deadline() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=2, auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(task_duration=3000), 2)
        with pytest.raises(WaitTimedOut, match="not ended after 100 s") as end:
            await waited(tikmatrix, batch, timeout_seconds=100)
        assert asyncio.get_running_loop().time() == pytest.approx(100, abs=1)
        assert outcomes(end.value.report) == [Outcome.RUNNING] * 2

    run(scenario())


def test_a_job_that_somebody_deletes_is_reported_gone() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 3)

        async def delete_later() -> None:
            await asyncio.sleep(100)
            tikmatrix.engine.operator_delete(batch.job_ids[1])

        deleting = asyncio.create_task(delete_later())
        report = await waited(tikmatrix, batch)
        await deleting
        assert outcomes(report) == [Outcome.COMPLETED, Outcome.GONE, Outcome.COMPLETED]

    run(scenario())


def test_a_new_job_may_be_unknown_for_a_moment() -> None:
    """40401 right after the creation says nothing yet."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=False))
        wait = asyncio.create_task(waited(tikmatrix, Batch.of([1])))
        await asyncio.sleep(4)
        await submitted(tikmatrix, Post(), 1)
        assert (await wait).ok
        assert outcomes(await waited(tikmatrix, Batch.of([99]))) == [Outcome.GONE]

    run(scenario())


def test_a_licence_that_ends_meanwhile_ends_the_wait() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(plan="Starter"))
        with pytest.raises(PlanError):
            await waited(tikmatrix, Batch.of([1]))

    run(scenario())


def test_jobs_that_were_never_created_stand_in_the_report() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=False))
        batch = await submitted(tikmatrix, Post(), 1)
        short = batch.model_copy(update={"owners": ("phone-1", "phone-2"), "expected_jobs": 2})
        report = await waited(tikmatrix, short)
        assert str(report) == "1 of 2 completed; phone-2: post not created"

    run(scenario())


def test_only_changes_are_told() -> None:
    """One log line per poll would bury what matters."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=50, plan="Team", auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(task_duration=3600), 50)
        told: list[str] = []
        await waited(tikmatrix, batch, told=told)
        assert len(told) < 200
        assert any("account_warmup running on phone-" in line for line in told)
        assert any("account_warmup completed" in line for line in told)

    run(scenario())


@pytest.mark.parametrize("row_fields", ["seen", "minimal"])
def test_jobs_are_split_by_phone_even_where_rows_do_not_tell(row_fields: str) -> None:
    """No page promises the serial in a row; the filter by serial is documented."""

    async def scenario() -> None:
        dialect = Dialect(row_fields=row_fields)  # type: ignore[arg-type]  # a parameter
        tikmatrix = VirtualTikMatrix(Options(phones=4, auto_retry=False), dialect)
        batch = await submitted(tikmatrix, Follow(target_users=["x", "y"]), 4)
        async with tikmatrix.client() as client:
            parts = await split_by_owner(client, batch)
        phone_of = {job.id: job.serial for job in tikmatrix.engine.jobs}
        assert [part.owners for part in parts] == [(f"phone-{n}",) for n in range(1, 5)]
        for part in parts:
            assert [phone_of[job_id] for job_id in part.job_ids] == [*part.owners, *part.owners]

    run(scenario())


def test_a_watcher_stops_when_nobody_waits() -> None:
    """Nothing grows while nobody waits, and no connection is kept for nobody."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=False))
        batch = await submitted(tikmatrix, Post(), 1)
        await waited(tikmatrix, batch)
        asked = len(tikmatrix.api.requests)
        await asyncio.sleep(HOUR)
        assert len(tikmatrix.api.requests) == asked
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_a_cancelled_wait_leaves_the_others_alone() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=2, auto_retry=False))
        batch = await submitted(tikmatrix, AccountWarmup(), 2)
        watcher = Watcher(tikmatrix.client)
        waits = [
            asyncio.create_task(follow(watcher, batch, NO_GRACE, timeout_seconds=HOUR))
            for _ in range(2)
        ]
        await asyncio.sleep(50)
        waits[0].cancel()
        assert (await waits[1]).ok

    run(scenario())


def test_one_job_that_cannot_be_read_does_not_fail_the_other_waits(odd_server: OddServer) -> None:
    """One look serves all waits; one bad job must not end them all."""
    odd_server.answers["GET /task/1"] = (200, envelope({"id": 1, "status": 2}))
    odd_server.answers["GET /task/2"] = (200, envelope(code=50001, message="broken row"))
    block = block_for(odd_server.base_url, outage_budget_seconds=0.2)
    pace = Pace(poll_interval_seconds=0.05, outage_budget_seconds=0.2, failure_grace_seconds=0)

    async def scenario() -> None:
        watcher = Watcher(block.get_client)
        waits = [follow(watcher, Batch.of([job_id]), pace, timeout_seconds=20) for job_id in (1, 2)]
        good, bad = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(good, Report)
        assert good.ok
        assert isinstance(bad, TikMatrixUnreachable)

    asyncio.run(scenario())


def test_a_watcher_that_cannot_open_its_client_says_so() -> None:
    def impossible() -> TikMatrixClient:
        raise InvalidRequest("base_url", "cannot be")

    async def scenario() -> None:
        with pytest.raises(InvalidRequest):
            await asyncio.wait_for(
                follow(Watcher(impossible), Batch.of([1]), NO_GRACE, timeout_seconds=5), 10
            )

    asyncio.run(scenario())


def test_an_error_page_amid_a_wait_says_nothing_about_a_job(odd_server: OddServer) -> None:
    done = (200, envelope({"id": 1, "status": 2}))
    odd_server.answers["GET /task/1"] = [(404, b"<html></html>"), (408, b""), done]
    pace = Pace(poll_interval_seconds=0.05)

    async def scenario() -> None:
        watcher = Watcher(block_for(odd_server.base_url).get_client)
        assert (await follow(watcher, Batch.of([1]), pace, timeout_seconds=20)).ok

    asyncio.run(scenario())


def test_an_id_named_twice_is_one_job() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=False))
        batch = await submitted(tikmatrix, Post(), 1)
        report = await waited(tikmatrix, Batch.of([*batch.job_ids, *batch.job_ids]))
        assert len(report.jobs) == 1

    run(scenario())


def test_failed_jobs_are_run_again_as_often_as_asked() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(auto_retry=False))
        tikmatrix.engine.fail_next(serial="phone-2", times=2)
        batch = await submitted(tikmatrix, Post(), 3)
        again: list[Sequence[int]] = []

        async def once_more(job_ids: Sequence[int]) -> Sequence[int]:
            again.append(job_ids)
            async with tikmatrix.client() as client:
                return await retry(client, job_ids)

        report = await follow(
            Watcher(tikmatrix.client),
            batch,
            Pace(),
            timeout_seconds=HOUR,
            retry_failed=2,
            retry=once_more,
        )
        assert report.ok
        assert again == [[batch.job_ids[1]]] * 2

    run(scenario())


def test_a_failed_job_that_revives_after_a_stop_is_stopped_again() -> None:
    """Otherwise a cancelled run would publish a minute later."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(phones=1, auto_retry=True))
        tikmatrix.engine.fail_next()
        batch = await submitted(tikmatrix, Post(), 1)
        for _ in range(300):
            if tikmatrix.engine.jobs[0].status == FAILED:
                break
            await asyncio.sleep(0.5)
        async with tikmatrix.client() as client:
            assert await stop(client, batch.job_ids, revival_seconds=65) == ()
        await asyncio.sleep(HOUR)
        assert [job.status for job in tikmatrix.engine.jobs] in ([], [FAILED])

    run(scenario())
