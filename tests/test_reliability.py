"""Every fault the simulator knows, at every call; docs/reliability.md says the same."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect import State

from flows.warmup_then_post import warmup_then_post
from tests.conftest import PHONES, StartSimulator, block_for
from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import (
    AccountWarmup,
    Batch,
    Follow,
    InvalidRequest,
    JobRequest,
    NotSentError,
    Post,
    Report,
    SubmissionInDoubt,
)
from tikmatrix_tasks.simulator import Dialect, Fault, Options
from tikmatrix_tasks.simulator.faults import KINDS
from tikmatrix_tasks.submission import MemoryLedger, Patience, submit

DOCUMENT = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
TABLE = {
    fault: (create, others)
    for fault, create, others in re.findall(
        r"^\| `(\w+)` \| ([\w ]+) \| ([\w ]+) \|$", DOCUMENT, re.M
    )
}
PAIRS = Counter((f"phone-{n}", target) for n in (1, 2, 3) for target in ("ann", "bob"))
FOLLOW = JobRequest(Follow(target_users=["ann", "bob"]), serials=tuple(PHONES))


def test_the_table_names_every_fault() -> None:
    assert set(TABLE) == {*KINDS, "refuse"}


def pairs_in(tikmatrix: VirtualTikMatrix) -> Counter[tuple[str, str | None]]:
    return Counter((job.serial, job.target) for job in tikmatrix.engine.jobs)


async def submitted(
    tikmatrix: VirtualTikMatrix, request: JobRequest = FOLLOW, **options: Any
) -> Batch:
    async with tikmatrix.client() as client:
        return await submit(client, request, MemoryLedger(), **options)


@pytest.mark.parametrize("dialect", [Dialect(), Dialect(newest_first=False, with_total=False)])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_fault_of_a_create_costs_no_duplicate(kind: str, dialect: Dialect) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(), dialect)
        tikmatrix.engine.add_history(350)
        seconds = 3.0 if kind == "slow" else 40.0 if KINDS[kind].seconds else 0.0
        tikmatrix.api.faults.add(Fault("POST /task", kind, seconds=seconds))
        said = TABLE[kind][0]
        if said == "tried again":  # by the task, which knows that it was not carried out
            with pytest.raises(Exception, match="429"):
                await submitted(tikmatrix)
            return
        batch = await submitted(tikmatrix)
        assert pairs_in(tikmatrix) == PAIRS
        assert {job.id for job in tikmatrix.engine.jobs} == set(batch.job_ids)
        decided = batch.decisions[0].split(":")[0] if batch.decisions else "answered"
        words = re.sub(r" jobs [-\d, ]+", "", decided).replace("sending", "sent")
        assert words == said

    run(scenario())


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_main_flow_ends_well_with_each_fault_at_every_call(
    start_simulator: StartSimulator, kind: str
) -> None:
    simulator = start_simulator()
    seconds = 0.1 if kind == "slow" else 1.0 if KINDS[kind].seconds else 0.0
    for endpoint in ("GET /license/check", "GET /task", "POST /task", "GET /task/{id}"):
        simulator.faults.add(Fault(endpoint, kind, seconds=seconds))
    state: State[Report] = warmup_then_post(
        serials=PHONES,
        warmup=AccountWarmup(task_duration=30),
        post=Post(captions="Hi"),
        tikmatrix=block_for(simulator.base_url, timeout_seconds=0.4, settle_seconds=2),
        return_state=True,
    )
    assert state.message == "3 of 3 phones posted"
    done = Counter((job.serial, job.script_name) for job in simulator.jobs)
    assert done == Counter((phone, s) for phone in PHONES for s in ("account_warmup", "post"))


# Decisions that the table leaves out


def test_jobs_created_after_our_time_out_are_adopted() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()

        async def slow_server() -> None:
            await asyncio.sleep(35)
            tikmatrix.engine.create(FOLLOW.to_api({}))

        tikmatrix.api.faults.hang("POST /task", seconds=60, when="before")
        late = asyncio.create_task(slow_server())
        batch = await submitted(tikmatrix)
        await late
        assert pairs_in(tikmatrix) == PAIRS
        assert batch.decisions[0].startswith("adopted jobs")

    run(scenario())


def test_only_missing_pairs_are_sent() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        part = JobRequest(Follow(target_users=["bob"]), serials=("phone-1", "phone-2"))

        async def half_a_server() -> None:
            await asyncio.sleep(5)
            tikmatrix.engine.create(part.to_api({}))

        tikmatrix.api.faults.drop("POST /task")
        half = asyncio.create_task(half_a_server())
        batch = await submitted(tikmatrix)
        await half
        assert pairs_in(tikmatrix) == PAIRS
        assert "sending 4 missing of 6 jobs" in batch.decisions[0]

    run(scenario())


@pytest.mark.parametrize("on_doubt", ["fail", "adopt"])
def test_somebody_elses_equal_jobs_stop_the_submission(on_doubt: Any) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        tikmatrix.api.faults.hang("POST /task", seconds=5, when="after")

        async def somebody() -> None:
            await asyncio.sleep(1)
            tikmatrix.engine.create(FOLLOW.to_api({}))

        other = asyncio.create_task(somebody())
        if on_doubt == "adopt":
            batch = await submitted(tikmatrix, on_doubt="adopt")
            assert len(batch.job_ids) == 12
        else:
            with pytest.raises(SubmissionInDoubt, match="more jobs match than were asked for"):
                await submitted(tikmatrix)
        await other
        assert tikmatrix.api.requests.count("POST /task") == 1

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "dialect", "why"),
    [
        (FOLLOW, Dialect(row_fields="minimal"), "cannot be told from somebody else's"),
        (
            JobRequest(Post(), serials=("phone-1",), enable_multi_account=True),
            Dialect(),
            "nobody knows how many jobs",
        ),
    ],
)
def test_what_cannot_be_told_is_not_guessed(
    request_: JobRequest, dialect: Dialect, why: str
) -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix(Options(accounts_per_phone=2), dialect)
        tikmatrix.api.faults.lose_reply("POST /task")
        with pytest.raises(SubmissionInDoubt, match=why) as end:
            await submitted(tikmatrix, request_)
        assert set(end.value.job_ids) == {job.id for job in tikmatrix.engine.jobs}
        assert tikmatrix.api.requests.count("POST /task") == 1

    run(scenario())


def test_a_failing_look_sends_nothing() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        tikmatrix.api.faults.lose_reply("POST /task")
        tikmatrix.api.faults.internal_error("GET /task", times=1000, after=1)
        with pytest.raises(SubmissionInDoubt, match="the look for its jobs failed"):
            await submitted(tikmatrix, patience=Patience(outage_budget_seconds=60))
        assert tikmatrix.api.requests.count("POST /task") == 1

    run(scenario())


def test_a_look_for_gaps_that_fails_sends_nothing() -> None:
    """Whatever look fails after the request, the run stops in doubt and names it."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        tikmatrix.api.faults.drop("POST /task")
        tikmatrix.api.faults.internal_error("GET /task", times=1000, after=3)
        with pytest.raises(SubmissionInDoubt, match="the look for its jobs failed"):
            await submitted(
                tikmatrix, patience=Patience(settle_seconds=0, outage_budget_seconds=60)
            )
        assert tikmatrix.api.requests.count("POST /task") == 1

    run(scenario())


def test_a_closed_program_is_never_in_doubt() -> None:
    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        tikmatrix.close_for(100)
        with pytest.raises(NotSentError):
            await submitted(tikmatrix)
        await asyncio.sleep(100)
        await submitted(tikmatrix)
        assert pairs_in(tikmatrix) == PAIRS

    run(scenario())


def test_a_deleted_job_leaves_a_gap_and_is_not_sent_again() -> None:
    """It may have run before somebody deleted it."""

    async def scenario() -> None:
        tikmatrix = VirtualTikMatrix()
        tikmatrix.api.faults.hang("POST /task", seconds=5, when="after")

        async def somebody() -> None:
            await asyncio.sleep(2)
            tikmatrix.engine.operator_delete(tikmatrix.engine.jobs[2].id)

        deleting = asyncio.create_task(somebody())
        with pytest.raises(SubmissionInDoubt, match="somebody deleted jobs meanwhile"):
            await submitted(tikmatrix)
        await deleting

    run(scenario())


def test_refusals_repeat_nothing_that_was_sent(odd_server: Any) -> None:
    """TikMatrix's words may quote the request."""
    message = "bad captions 'planted caption' for C:/planted.mp4"
    odd_server.answers["POST /task"] = (200, {"code": 40001, "message": message})
    odd_server.answers["GET /task"] = (200, {"code": 0, "data": {"tasks": [], "total": 0}})
    request = JobRequest(
        Post(captions="planted caption", material_list=["C:/planted.mp4"]), serials=("phone-1",)
    )

    async def scenario() -> None:
        async with block_for(odd_server.base_url).get_client() as client:
            await submit(client, request, MemoryLedger())

    with pytest.raises(Exception, match="bad captions") as refusal:
        asyncio.run(scenario())
    assert "planted" not in str(refusal.value)


def test_a_header_http_cannot_carry_is_refused_without_its_value() -> None:
    block = block_for("http://127.0.0.1:1", headers={"Authorization": "Bearer planted\n"})
    with pytest.raises(InvalidRequest, match="headers") as refusal:
        block.get_client()
    assert "planted" not in str(refusal.value)
