"""The main flow on a real Prefect server: who posts, when, and what the run says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun, TaskRunResult

from flows.warmup_then_post import warmup_then_post
from tests.conftest import PHONES, StartSimulator, block_for
from tests.test_tasks import task_runs_of
from tikmatrix_tasks import (
    AccountWarmup,
    InvalidRequest,
    JobsFailed,
    JobStatus,
    Outcome,
    PlanError,
    Post,
    Report,
    TikMatrix,
)
from tikmatrix_tasks.simulator import Dialect, Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")
BUSY = {
    "target_post_urls": [f"https://www.tiktok.com/@a/video/{n}" for n in range(4)],
    "comment_content": "hello",
}  # four jobs of an operator that keep a phone busy first
POST = Post(captions="Hi", material_list=["C:/v.mp4"])


def run(simulator: Simulator, **arguments: Any) -> State[Report]:
    usual: dict[str, Any] = {
        "serials": PHONES,
        "warmup": AccountWarmup(task_duration=60),
        "post": POST,
        "tikmatrix": block_for(simulator.base_url),
    }
    if "usernames" in arguments:
        del usual["serials"]
    state: State[Report] = warmup_then_post(**(usual | arguments), return_state=True)
    return state


def report_of(state: State[Report]) -> Report:
    result = state.result(raise_on_failure=False)
    return result.report if isinstance(result, JobsFailed) else result  # type: ignore[return-value]  # else it is the report


def posted_on(simulator: Simulator) -> list[str]:
    return sorted(job.serial for job in simulator.jobs if job.script_name == "post")


def post_and_warmup(simulator: Simulator) -> tuple[float, float]:
    """When the first post was started and the last warm-up ended."""
    first = min(job.started_at or 0 for job in simulator.jobs if job.script_name == "post")
    ends = [job.ended_at or 0 for job in simulator.jobs if job.script_name == "account_warmup"]
    return first, max(ends)


def test_every_phone_warms_up_and_posts(simulator: Simulator) -> None:
    state = run(simulator)
    assert state.is_completed()
    assert state.message == "3 of 3 phones posted"
    assert report_of(state).ok
    assert posted_on(simulator) == PHONES
    bodies = simulator.requests.bodies("POST /task")
    assert bodies[0]["serials"] == PHONES, "one submission for all warm-ups"
    assert simulator.requests.count("GET /license/check") == 1
    assert next(iter(simulator.requests)).endpoint == "GET /license/check"


def test_called_like_a_function_it_returns_the_report(tikmatrix: TikMatrix) -> None:
    report = warmup_then_post(
        serials=["phone-1"], warmup=AccountWarmup(task_duration=30), tikmatrix=tikmatrix
    )
    assert isinstance(report, Report)
    assert [(job.owner, job.script_name) for job in report.completed] == [
        ("phone-1", "account_warmup"),
        ("phone-1", "post"),
    ]


def test_a_phone_whose_warm_up_failed_does_not_post(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="element not found")
    state = run(simulator)
    assert state.is_completed()
    assert state.message == "2 of 3 phones posted; phone-2: warm-up failed (element not found)"
    assert posted_on(simulator) == ["phone-1", "phone-3"]
    held_back = [job for job in report_of(state).jobs if job.outcome is Outcome.NOT_STARTED]
    assert [(job.owner, job.script_name) for job in held_back] == [("phone-2", "post")]


def test_a_failed_post_stands_in_the_runs_state(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-3", script_name="post", remark="upload timed out")
    state = run(simulator)
    assert state.message == "2 of 3 phones posted; phone-3: post failed (upload timed out)"


def test_a_phone_posts_while_another_still_warms_up(start_simulator: StartSimulator) -> None:
    """A slow phone must not hold the others up."""
    simulator = start_simulator(speed=200, durations={"comment": 800.0})
    simulator.engine.operator_create("comment", BUSY, serials=["phone-3"])
    assert run(simulator).is_completed()
    first_post, last_warmup = post_and_warmup(simulator)
    assert first_post < last_warmup


def test_post_when_all_waits_for_every_warm_up(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=200)
    simulator.engine.operator_create("comment", BUSY, serials=["phone-3"])
    assert run(simulator, post_when="all").message == "3 of 3 phones posted"
    first_post, last_warmup = post_and_warmup(simulator)
    assert first_post >= last_warmup
    assert simulator.requests.count("POST /task") == 2


def test_post_when_all_posts_nowhere_when_one_warm_up_failed(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-1", remark="login required")
    state = run(simulator, post_when="all")
    assert state.is_failed()
    assert posted_on(simulator) == []
    assert "0 of 3 phones posted" in (state.message or "")
    assert "phone-1: warm-up failed (login required)" in (state.message or "")
    assert "phone-2: another warm-up did not complete" in (state.message or "")


def test_success_all_fails_the_run_when_one_phone_did_not_post(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-1")
    state = run(simulator, success="all")
    assert state.is_failed()
    assert len(report_of(state).completed) == 4


@pytest.mark.parametrize("phones_told", [True, False])
def test_accounts_instead_of_phones(start_simulator: StartSimulator, phones_told: bool) -> None:
    """Where rows do not tell the account, all wait for all: nobody posts unwarmed."""
    dialect = Dialect(row_fields="seen" if phones_told else "minimal")
    simulator = start_simulator(dialect=dialect)
    state = run(simulator, usernames=["user-1a", "user-3a"])
    assert state.is_completed()
    assert sorted(job.username for job in simulator.jobs if job.script_name == "post") == [
        "user-1a",
        "user-3a",
    ]
    assert state.message == "2 of 2 accounts posted"
    simulator.engine.fail_next(script_name="account_warmup")
    failed = run(simulator, usernames=["user-1a", "user-3a"])
    posts = [job for job in simulator.jobs if job.script_name == "post"]
    assert len(posts) == (3 if phones_told else 2)
    assert failed.is_failed() is not phones_told


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(string_status=True, rows_key="records", with_total=False, http_status="by_code"),
        Dialect(rows_key=None, newest_first=False, row_fields="minimal"),
    ],
    ids=str,
)
def test_any_server_that_keeps_to_the_facts_will_do(
    start_simulator: StartSimulator, dialect: Dialect
) -> None:
    simulator = start_simulator(dialect=dialect)
    simulator.engine.fail_next(serial="phone-2")
    state = run(simulator)
    assert (state.message or "").startswith("2 of 3 phones posted; phone-2: warm-up failed")
    assert posted_on(simulator) == ["phone-1", "phone-3"]


def test_several_accounts_of_a_phone(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(accounts_per_phone=2)
    state = run(simulator, enable_multi_account=True)
    assert state.message == "3 of 3 phones posted"
    assert posted_on(simulator) == sorted(PHONES * 2)


async def test_the_run_graph_shows_a_lane_for_each_phone(simulator: Simulator) -> None:
    """Submit, warm up phone-1, submit, post on phone-1: each leads to the next."""
    state = await asyncio.to_thread(run, simulator)
    runs = await task_runs_of(state.state_details.flow_run_id)
    by_name = {task_run.name: task_run for task_run in runs}

    def parents(task_run: TaskRun) -> set[str]:
        inputs = [source for sources in task_run.task_inputs.values() for source in sources]
        ids = {str(source.id) for source in inputs if isinstance(source, TaskRunResult)}
        return {name for name, other in by_name.items() if str(other.id) in ids}

    for phone in PHONES:
        assert parents(by_name[f"post on {phone}"]) == {f"submit post on {phone}"}
        assert parents(by_name[f"submit post on {phone}"]) == {f"warm up {phone}"}
        assert "find each phone's jobs" in parents(by_name[f"warm up {phone}"])
    assert parents(by_name["find each phone's jobs"]) == {"submit account_warmup on 3 phones"}
    async with get_client() as client:
        flow_run = await client.read_flow_run(state.state_details.flow_run_id)  # type: ignore[arg-type]  # it has one
    assert flow_run.name == "warm up, then post on 3 phones"


def test_a_starter_plan_fails_before_any_job_is_created(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(plan="Starter")
    with pytest.raises(PlanError, match="40301"):
        run(simulator).result()
    assert simulator.requests.count("POST /task") == 0


def test_a_lost_reply_posts_once_and_ends_well(simulator: Simulator) -> None:
    simulator.faults.lose_reply("POST /task", times=2)
    state = run(simulator)
    assert state.message == "3 of 3 phones posted"
    assert posted_on(simulator) == PHONES
    assert len(simulator.jobs) == 6


def test_a_post_in_doubt_fails_the_run_and_the_other_phones_still_post(
    start_simulator: StartSimulator,
) -> None:
    """Rows that tell too little cannot be told from somebody else's."""
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    simulator.faults.lose_reply("POST /task", after=1)
    state = run(simulator)
    assert state.is_failed()
    assert posted_on(simulator) == PHONES, "nothing was sent twice"
    assert "2 of 3 phones posted" in (state.message or "")
    assert "nothing is sent again" in (state.message or "")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"serials": None}, "serials, usernames"),
        ({"usernames": ["u"], "serials": ["p"]}, "serials, usernames"),
        ({"serials": ["phone-1", "phone-1"]}, "serials"),
        ({"start_time": "7:00"}, "start_time"),
        ({"max_jobs": 2}, "max_jobs"),
    ],
)
def test_bad_input_sends_nothing(
    simulator: Simulator, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        run(simulator, **arguments).result()
    assert refusal.value.field == field
    assert len(simulator.requests) == 0


def test_a_dry_run_shows_the_plan_and_sends_nothing(simulator: Simulator) -> None:
    state = run(simulator, dry_run=True)
    assert state.is_completed()
    assert "dry run: account_warmup on 3 phones" in (state.message or "")
    assert len(simulator.requests) == 0


def test_a_deadline_stops_what_is_still_open(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    state = run(simulator, timeout_seconds=0.3)
    assert state.is_failed()
    assert "phone-1: warm-up last seen running" in (state.message or "")
    assert not [job for job in simulator.jobs if job.status == JobStatus.RUNNING]


def test_a_busy_phone_is_left_out_and_named(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=50)
    simulator.engine.operator_create("account_warmup", {"task_duration": 600}, serials=["phone-2"])
    state = run(simulator, when_busy="skip")
    assert state.is_completed()
    assert state.message == "2 of 3 phones posted; phone-2: it had open jobs already"
    assert posted_on(simulator) == ["phone-1", "phone-3"]


def test_phones_without_limits_are_refused_when_asked_to_be_exclusive(simulator: Simulator) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        run(simulator, serials=["nobody's"], exclusive_phones=True).result()
    assert refusal.value.field == "exclusive_phones"
    assert len(simulator.requests) == 0
