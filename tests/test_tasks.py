"""The Prefect tasks, by their public names, on a real Prefect server against the simulator."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Literal
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from pydantic import SecretStr

import tikmatrix_tasks
from tests.conftest import PHONES, StartSimulator, block_for
from tests.odd_server import OddServer, envelope
from tikmatrix_tasks import (
    AccountWarmup,
    Batch,
    ChatGPT,
    Follow,
    HttpStatusError,
    InvalidRequest,
    JobsFailed,
    JobStatus,
    NotSentError,
    OverloadedError,
    PlanError,
    Post,
    Report,
    SubmissionInDoubt,
    TikMatrix,
    UnknownJobStatus,
    WaitTimedOut,
    acheck_license,
    adelete_jobs,
    aget_stats,
    alist_accounts,
    alist_jobs,
    aretry_jobs,
    arun_script,
    asplit_batch,
    astop_jobs,
    asubmit_jobs,
    check_license,
    delete_jobs,
    get_stats,
    list_accounts,
    list_jobs,
    retry_jobs,
    run_script,
    split_batch,
    stop_jobs,
    submit_jobs,
    wait_for_jobs,
)
from tikmatrix_tasks.local_server import free_port
from tikmatrix_tasks.simulator import Simulator, parse_fault

pytestmark = pytest.mark.usefixtures("prefect_api")


def quick(task: Any) -> Any:
    """The same task with retries that do not keep a test waiting."""
    return task.with_options(retry_delay_seconds=0.01)


async def task_runs_of(flow_run_id: UUID | None) -> list[TaskRun]:
    assert flow_run_id is not None
    async with get_client() as client:
        for _ in range(50):  # task runs reach the server through events, a moment later
            runs = await client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            )
            if runs and all(run.state and run.state.is_final() for run in runs):
                return runs
            await asyncio.sleep(0.2)
    return runs


def test_run_script_is_submit_and_wait(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    report = run_script(Post(captions="Hi"), serials=PHONES, tikmatrix=tikmatrix)
    assert report.ok
    assert [job.owner for job in report.jobs] == PHONES
    assert all(job.seconds for job in report.jobs)
    assert [body["script_config"] for body in simulator.requests.bodies("POST /task")] == [
        {"captions": "Hi"}
    ]


async def test_the_asynchronous_twin_does_the_same(tikmatrix: TikMatrix) -> None:
    report = await arun_script(Post(), serials=PHONES, tikmatrix=tikmatrix)
    assert report.ok


def test_every_task_has_a_twin_with_the_same_parameters() -> None:
    names = [
        name
        for name in tikmatrix_tasks.__all__
        if hasattr(getattr(tikmatrix_tasks, name), "task_run_name") and not name.startswith("a")
    ]
    assert len(names) == 16
    for name in names:
        task, twin = getattr(tikmatrix_tasks, name), getattr(tikmatrix_tasks, f"a{name}")
        assert inspect.signature(task.fn) == inspect.signature(twin.fn)
        assert (twin.isasync, task.isasync) == (True, False)
        assert task.description


def test_each_task_does_what_it_says(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=0.001)
    tikmatrix = block_for(simulator.base_url)
    assert check_license(tikmatrix).plan_name == "Pro"
    assert [account.device for account in list_accounts(tikmatrix=tikmatrix)] == PHONES
    batch = submit_jobs(Follow(target_users=["x"]), serials=PHONES, tikmatrix=tikmatrix)
    assert get_stats(tikmatrix).pending == 3
    pending = list_jobs(status=JobStatus.PENDING, tikmatrix=tikmatrix)
    assert sorted(job.id for job in pending) == list(batch.job_ids)
    parts = split_batch(batch, tikmatrix=tikmatrix)
    assert [(job.serial,) for job in simulator.jobs] == [part.owners for part in parts]
    assert [(job.id,) for job in simulator.jobs] == [part.job_ids for part in parts]
    assert stop_jobs(batch, tikmatrix=tikmatrix) == ()
    assert get_stats(tikmatrix).pending == 0
    assert stop_jobs(batch, tikmatrix=tikmatrix) == ()
    again = submit_jobs(Follow(target_users=["x"]), serials=["phone-1"], tikmatrix=tikmatrix)
    delete_jobs(again.job_ids, tikmatrix=tikmatrix)
    delete_jobs(again, tikmatrix=tikmatrix)
    assert get_stats(tikmatrix).total == 0


async def test_each_twin_does_what_it_says(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=0.001)
    tikmatrix = block_for(simulator.base_url)
    assert (await acheck_license(tikmatrix)).plan_name == "Pro"
    assert len(await alist_accounts(tikmatrix=tikmatrix)) == 3
    batch = await asubmit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
    assert (await aget_stats(tikmatrix)).pending == 3
    assert len(await alist_jobs(tikmatrix=tikmatrix)) == 3
    assert await aretry_jobs(batch, tikmatrix=tikmatrix) == batch.job_ids
    parts = await asplit_batch(batch, tikmatrix=tikmatrix)
    assert [part.owners for part in parts] == [(phone,) for phone in PHONES]
    assert await astop_jobs(batch, tikmatrix=tikmatrix) == ()
    await adelete_jobs(batch, tikmatrix=tikmatrix)


def test_a_failed_job_fails_the_wait_and_hands_over_the_report(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """A failure must be red in the run graph, and still be of use to the code that caught it."""
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out", times=3)
    with pytest.raises(JobsFailed, match=r"2 of 3 completed; phone-2: post failed \(upload") as end:
        run_script(Post(), serials=PHONES, tikmatrix=tikmatrix)
    assert len(end.value.report.completed) == 2
    report = run_script(Post(), serials=PHONES, fail_on="all", tikmatrix=tikmatrix)
    assert len(report.completed) == 2
    report = run_script(Post(), serials=["phone-2"], fail_on="never", tikmatrix=tikmatrix)
    assert not report.ok


@pytest.mark.parametrize("on_timeout", ["stop", "leave"])
def test_a_deadline_stops_the_jobs_or_leaves_them(
    start_simulator: StartSimulator, on_timeout: Literal["stop", "leave"]
) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    tikmatrix = block_for(simulator.base_url)
    with pytest.raises(WaitTimedOut, match="not ended after") as end:
        run_script(
            AccountWarmup(),
            serials=PHONES,
            timeout_seconds=0.3,
            on_timeout=on_timeout,
            tikmatrix=tikmatrix,
        )
    running = [job for job in simulator.jobs if job.status == JobStatus.RUNNING]
    assert len(running) == (0 if on_timeout == "stop" else 3)
    said = "were stopped" if on_timeout == "stop" else "were left running"
    assert said in str(end.value)


def test_a_retry_touches_only_the_named_failed_jobs(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator()
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next(times=2)
    foreign = simulator.engine.operator_create("post", serials=["phone-3"])
    with pytest.raises(JobsFailed) as end:
        run_script(Post(), serials=PHONES[:2], tikmatrix=tikmatrix)
    wait_for_jobs(foreign, fail_on="never", tikmatrix=tikmatrix)
    failed = [job.job_id for job in end.value.report.not_completed if job.job_id]
    again = retry_jobs(failed, tikmatrix=tikmatrix)
    assert list(again) == failed
    assert wait_for_jobs(again, tikmatrix=tikmatrix).ok
    assert simulator.requests.count("POST /task/retry-all") == 0
    assert {job.id: job.retry_count for job in simulator.jobs if job.retry_count} == dict.fromkeys(
        failed, 1
    )


def test_a_refused_retry_is_left_alone(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(max_retry_count=0)
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next()
    report = run_script(Post(), serials=["phone-1"], fail_on="never", tikmatrix=tikmatrix)
    assert retry_jobs([job.job_id for job in report.jobs if job.job_id], tikmatrix=tikmatrix) == ()


def test_a_lost_reply_to_a_retry_is_looked_up(start_simulator: StartSimulator) -> None:
    simulator = start_simulator()
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next()
    report = run_script(Post(), serials=["phone-1"], fail_on="never", tikmatrix=tikmatrix)
    failed = [job.job_id for job in report.jobs if job.job_id]
    simulator.faults.lose_reply("POST /task/{id}/retry")
    assert list(retry_jobs(failed, tikmatrix=tikmatrix)) == failed
    assert simulator.requests.count("POST /task/{id}/retry") == 1


# What goes wrong


def test_nothing_listening_is_tried_again_and_then_explained() -> None:
    base_url = f"http://127.0.0.1:{free_port()}/api/v1"
    tikmatrix = block_for(base_url)
    for each in (check_license, submit_jobs):
        arguments = {} if each is check_license else {"script": Post(), "serials": ["a"]}
        state = quick(each)(**arguments, tikmatrix=tikmatrix, return_state=True)
        error = state.result(raise_on_failure=False)
        assert isinstance(error, NotSentError)
        assert base_url in str(error)
        assert "is TikMatrix running" in str(error)


async def test_reads_are_tried_again_by_code_and_the_runs_show_it(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.faults.internal_error("GET /task/stats", times=2)
    simulator.faults.html_502("GET /task/stats", after=2)

    @flow
    async def counting() -> int:
        return int((await quick(aget_stats)(tikmatrix)).total)

    state = await counting(return_state=True)
    assert state.is_completed()
    assert simulator.requests.count("GET /task/stats") == 4
    run = (await task_runs_of(state.state_details.flow_run_id))[0]
    assert run.run_count == 4


@pytest.mark.parametrize("fault", ["internal_error_after", "lose_reply", "truncated_json"])
def test_jobs_whose_answer_was_lost_are_adopted(
    simulator: Simulator, tikmatrix: TikMatrix, fault: str
) -> None:
    """A second post is worse than a failed run, and neither is needed."""
    simulator.faults.add(parse_fault(f"POST /task={fault}"))
    batch = submit_jobs(Post(captions="Hi"), serials=PHONES, tikmatrix=tikmatrix)
    assert list(batch.job_ids) == [job.id for job in simulator.jobs]
    assert "adopted jobs 1-3: POST /task" in batch.decisions[0]
    assert simulator.requests.count("POST /task") == 1


@pytest.mark.parametrize("fault", ["internal_error_before", "drop", "html_502_before"])
def test_a_request_that_was_not_carried_out_is_sent_again(
    simulator: Simulator, tikmatrix: TikMatrix, fault: str
) -> None:
    simulator.faults.add(parse_fault(f"POST /task={fault}"))
    batch = submit_jobs(Post(captions="Hi"), serials=PHONES, tikmatrix=tikmatrix)
    assert list(batch.job_ids) == [job.id for job in simulator.jobs]
    assert batch.decisions[0].startswith("sending again: POST /task")


def test_a_create_that_never_arrived_is_sent_again(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.faults.refuse(seconds=0.5)
    task = submit_jobs.with_options(retry_delay_seconds=[0.3, 0.6, 1.0])
    batch = task(Post(), serials=PHONES, tikmatrix=tikmatrix)
    assert [job.id for job in simulator.jobs] == list(batch.job_ids)
    assert simulator.requests.count("POST /task") == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, envelope(code=40301, message="upgrade")), PlanError),
        ((404, b"<html></html>"), HttpStatusError),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(
    odd_server: OddServer, answer: tuple[int, object], error: type[Exception]
) -> None:
    odd_server.answers["GET /license/check"] = answer
    with pytest.raises(error):
        check_license(block_for(odd_server.base_url))
    assert len(odd_server.paths) == 1


def test_retry_after_is_honoured_between_tries(odd_server: OddServer) -> None:
    stats = dict.fromkeys(("total", "pending", "running", "completed", "failed"), 0)
    odd_server.headers["Retry-After"] = "1"
    odd_server.answers["GET /task/stats"] = [(429, b""), (200, envelope(stats))]
    run = quick(get_stats)(block_for(odd_server.base_url), return_state=True)
    assert run.is_completed()
    odd_server.answers["GET /task/stats"] = (429, b"")
    with pytest.raises(OverloadedError):
        get_stats.with_options(retries=0)(block_for(odd_server.base_url))


def test_more_jobs_than_asked_for_stop_the_run(odd_server: OddServer) -> None:
    answer = envelope({"task_ids": [7, 8], "created_count": 2})
    odd_server.answers["POST /task"] = (200, answer)
    odd_server.answers["GET /task"] = (200, envelope({"tasks": [], "total": 0}))
    with pytest.raises(SubmissionInDoubt, match=r"Known jobs: 7, 8"):
        submit_jobs(Post(), serials=["phone-1"], tikmatrix=block_for(odd_server.base_url))


def test_a_status_nobody_listed_stops_the_wait(odd_server: OddServer) -> None:
    odd_server.answers["GET /task/1"] = (200, envelope({"id": 1, "status": "9"}))
    with pytest.raises(UnknownJobStatus, match="job 1 shows status 9"):
        wait_for_jobs([1], tikmatrix=block_for(odd_server.base_url))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "serials, usernames"),
        ({"serials": ["a"], "usernames": ["b"]}, "serials, usernames"),
        ({"serials": []}, "serials, usernames"),
        ({"serials": ["a", ""]}, "serials"),
        ({"serials": ["a", "a"]}, "serials"),
        ({"serials": "phone-1"}, "serials"),
        ({"serials": ["a"], "start_time": "25:00"}, "start_time"),
        ({"serials": ["a", "b"], "max_jobs": 1}, "max_jobs"),
        ({"serials": [f"phone-{n}" for n in range(201)]}, "max_jobs"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    simulator: Simulator, tikmatrix: TikMatrix, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        submit_jobs(Post(), **arguments, tikmatrix=tikmatrix)
    assert refusal.value.field == field
    assert len(simulator.requests) == 0


# Secrets


def test_an_openai_key_is_read_when_it_is_sent(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    Secret(value=SecretStr("planted-key")).save("openai", overwrite=True)
    warmup = AccountWarmup(
        task_duration=60, generate_by_chatgpt=True, chatgpt_settings=ChatGPT(api_key_block="openai")
    )
    submit_jobs(warmup, serials=["phone-1"], tikmatrix=tikmatrix)
    sent = simulator.requests.bodies("POST /task")[0]["script_config"]["chatgpt_settings"]
    assert sent == {"api_key": "planted-key"}


def test_a_missing_secret_is_named_before_anything_is_sent(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    warmup = AccountWarmup(chatgpt_settings=ChatGPT(api_key_block="no-such-block"))
    with pytest.raises(InvalidRequest, match="no-such-block"):
        submit_jobs(warmup, serials=["phone-1"], tikmatrix=tikmatrix)
    assert simulator.requests.count("POST /task") == 0


# Durability


def test_a_retried_flow_run_gets_its_batch_back(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    attempts: list[Batch] = []

    @flow(retries=1)
    def fails_once() -> Report:
        batch = submit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
        attempts.append(batch)
        if len(attempts) == 1:
            raise RuntimeError("something else went wrong")
        return wait_for_jobs(batch, tikmatrix=tikmatrix)

    assert fails_once().ok
    assert attempts[0] == attempts[1]
    assert simulator.requests.count("POST /task") == 1


def test_two_intended_equal_submissions_of_one_run_stay_two(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    seen: list[tuple[int, ...]] = []

    @flow(retries=1)
    def posts_twice() -> None:
        for _ in range(2):
            seen.append(submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix).job_ids)
        if len(seen) == 2:
            raise RuntimeError("something else went wrong")

    posts_twice()
    assert len(simulator.jobs) == 2
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]


def test_two_runs_of_a_flow_submit_twice(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    @flow
    def posts() -> None:
        submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix)

    posts()
    posts()
    assert len(simulator.jobs) == 2


def test_a_retried_outer_task_gets_its_batch_back(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """A task run inside a task is a new one when the outer is tried again."""
    tries: list[Batch] = []

    @task(retries=1)
    def outer() -> None:
        tries.append(submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix))
        run_script(Post(), serials=["phone-1"], tikmatrix=tikmatrix)
        if len(tries) == 1:
            raise RuntimeError("something else went wrong")

    @flow
    def around() -> None:
        outer()
        outer()

    around()
    assert [batch.job_ids for batch in tries] == [(1,), (1,), (3,)]
    assert len(simulator.jobs) == 4


def test_a_retried_parent_flow_gets_its_subflows_batches_back(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """A subflow gets a new run when its parent is tried again."""
    tries: list[Batch] = []

    @flow
    def inner() -> Batch:
        return submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix)

    @flow(retries=1)
    def parent() -> None:
        tries.append(inner())
        tries.append(inner())
        if len(tries) == 2:
            raise RuntimeError("something else went wrong")

    parent()
    assert [batch.job_ids for batch in tries] == [(1,), (2,), (1,), (2,)]
    assert len(simulator.jobs) == 2


def test_phones_in_another_order_are_the_same_request(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    orders = [PHONES, PHONES[::-1]]

    @flow(retries=1)
    def shuffled() -> None:
        order = orders.pop(0)
        submit_jobs(Follow(target_users=order), serials=order, tikmatrix=tikmatrix)
        if orders:
            raise RuntimeError("something else went wrong")

    shuffled()
    assert len(simulator.jobs) == 9


def test_the_batch_of_run_script_survives_a_failed_wait(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """Prefect itself would keep it only when `run_script` has ended well."""
    tries: list[int] = []

    @flow(retries=1)
    def tries_twice() -> Report:
        tries.append(1)
        if len(tries) == 1:
            simulator.faults.overloaded("GET /task", times=1000, after=1)  # the newest job is read
            simulator.faults.overloaded("GET /task/{id}", times=1000)
        else:
            simulator.faults.clear()
        return run_script(Post(), serials=PHONES, tikmatrix=tikmatrix)

    tries_twice()
    assert len(simulator.jobs) == 3
