"""A key of the caller's own: the jobs are created once ever, whichever run or process asks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow

from tests.conftest import PHONES, block_for
from tikmatrix_tasks import (
    Batch,
    InvalidRequest,
    NotSentError,
    OverloadedError,
    Post,
    SubmissionInDoubt,
    TikMatrix,
    asubmit_jobs,
    run_script,
    submit_jobs,
)
from tikmatrix_tasks.file_lock import file_lock
from tikmatrix_tasks.local_server import free_port
from tikmatrix_tasks.simulator import Simulator, parse_fault

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("prefect_api")


def key(simulator: Simulator) -> str:
    """Result storage outlives a test; a simulator's port does not come back."""
    return f"test {simulator.base_url}"


def test_two_runs_of_a_flow_submit_once(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    @flow
    def posts() -> Batch:
        return submit_jobs(
            Post(), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix
        )

    assert posts() == posts()
    assert len(simulator.jobs) == 1


def test_what_is_asked_for_does_not_count_nor_does_a_flow(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """A row whose caption was corrected has been posted all the same."""
    first = run_script(
        Post(captions="a"), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix
    )
    again = run_script(
        Post(captions="b"), serials=["phone-2"], once_key=key(simulator), tikmatrix=tikmatrix
    )
    assert [job.job_id for job in first.jobs] == [job.job_id for job in again.jobs] == [1]
    other = submit_jobs(
        Post(), serials=["phone-1"], once_key=f"{key(simulator)} other", tikmatrix=tikmatrix
    )
    assert other.job_ids == (2,)


async def test_at_the_same_time_in_one_process(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    batches = await asyncio.gather(
        *(
            asubmit_jobs(Post(), serials=PHONES, once_key=key(simulator), tikmatrix=tikmatrix)
            for _ in range(5)
        )
    )
    assert {batch.job_ids for batch in batches} == {(1, 2, 3)}
    assert len(simulator.jobs) == 3


SUBMIT = """
import sys
from tikmatrix_tasks import Post, TikMatrix, submit_jobs
from prefect import flow

@flow
def posts():
    print("ready", flush=True)
    sys.stdin.readline()
    tikmatrix = TikMatrix(base_url=sys.argv[1])
    submit_jobs(Post(), serials=["phone-1"], once_key=sys.argv[2], tikmatrix=tikmatrix)

posts()
"""


def test_at_the_same_time_in_several_processes(prefect_api: str, simulator: Simulator) -> None:
    """The look before the intent takes long: without a lock, each would find no intent."""
    simulator.faults.add(parse_fault("GET /task=slow(3)*3"))
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SUBMIT, simulator.base_url, key(simulator)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(simulator.jobs) == 1
    assert simulator.requests.count("POST /task") == 1


def test_what_was_refused_or_did_not_arrive_may_be_asked_for_again(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """A row that found TikMatrix closed is not in doubt the next day."""
    closed = block_for(f"http://127.0.0.1:{free_port()}/api/v1")
    once = submit_jobs.with_options(retries=0)
    with pytest.raises(NotSentError):
        once(Post(), serials=["phone-1"], once_key=key(simulator), tikmatrix=closed)
    simulator.faults.add(parse_fault("POST /task=overloaded_429"))
    with pytest.raises(OverloadedError):
        once(Post(), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix)
    batch = once(Post(), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix)
    assert batch.decisions == ()
    assert batch.job_ids == (1,)


def leave_in_doubt(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    """The answer is lost, and the look for what came of it fails."""
    simulator.faults.lose_reply("POST /task")
    simulator.faults.overloaded("GET /task", times=1000, after=1)  # the newest job is read
    with pytest.raises(SubmissionInDoubt):
        submit_jobs(
            Post(captions="a"), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix
        )
    simulator.faults.clear()


def test_a_later_run_finds_the_job_of_one_that_ended_in_doubt(simulator: Simulator) -> None:
    tikmatrix = block_for(simulator.base_url, outage_budget_seconds=0.2)
    leave_in_doubt(simulator, tikmatrix)
    batch = submit_jobs(
        Post(captions="b"), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix
    )
    assert batch.job_ids == (1,)
    assert "adopted jobs 1" in batch.decisions[0]
    assert len(simulator.jobs) == 1


def test_nothing_is_sent_for_a_key_whose_job_somebody_deleted_in_doubt(
    simulator: Simulator,
) -> None:
    """What is asked for now is not what is looked for, so it must not be sent in its place."""
    tikmatrix = block_for(simulator.base_url, outage_budget_seconds=0.2)
    leave_in_doubt(simulator, tikmatrix)
    simulator.engine.operator_delete(1)
    with pytest.raises(SubmissionInDoubt, match="something else"):
        submit_jobs(
            Post(captions="b"), serials=["phone-1"], once_key=key(simulator), tikmatrix=tikmatrix
        )
    assert simulator.requests.count("POST /task") == 1


def test_an_empty_key_is_refused(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        submit_jobs(Post(), serials=["phone-1"], once_key=" ", tikmatrix=tikmatrix)
    assert refusal.value.field == "once_key"
    assert len(simulator.requests) == 0


async def test_a_lock_is_held_by_one_and_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a"
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from tikmatrix_tasks.file_lock import file_lock\n"
        "async def hold():\n"
        "    async with file_lock(Path(sys.argv[1])):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(hold())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(file_lock(path).__aenter__(), timeout=0.5)
    process.kill()
    await process.wait()
    await asyncio.wait_for(file_lock(path).__aenter__(), timeout=5)
