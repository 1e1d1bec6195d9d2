"""The flows of one script each, on a real Prefect server against the simulator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from prefect import State
from prefect.client.orchestration import get_client

from flows.comment import comment
from flows.follow import follow
from flows.post import post
from flows.run_custom_script import run_custom_script
from flows.unfollow import unfollow
from flows.warm_up import warm_up
from tests.conftest import PHONES, StartSimulator, block_for
from tikmatrix_tasks import (
    AccountWarmup,
    Comment,
    CustomScript,
    Follow,
    InvalidRequest,
    JobsFailed,
    PlanError,
    Post,
    Report,
    ScriptNotSupported,
    SubmissionInDoubt,
    TikMatrix,
    Unfollow,
)
from tikmatrix_tasks.simulator import Dialect, Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")

POST_URL = "https://www.tiktok.com/@a/video/1"
DONE = {
    "post": "posted",
    "follow": "followed",
    "unfollow": "unfollowed",
    "comment": "commented",
    "account_warmup": "warmed up",
}
FLOWS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "post": (post, {"post": Post(captions="Hi", material_list=["C:/v.mp4"])}),
    "follow": (follow, {"follow": Follow(target_users=["x", "y"])}),
    "unfollow": (unfollow, {"unfollow": Unfollow(target_users=["x", "y"])}),
    "comment": (
        comment,
        {"comment": Comment(target_post_urls=[POST_URL], comment_content=["hello"])},
    ),
    "account_warmup": (warm_up, {"warmup": AccountWarmup(task_duration=30)}),
    "login": (run_custom_script, {"script": CustomScript(script="login", settings={"a": 1})}),
}
every_flow = pytest.mark.parametrize("script_name", FLOWS)


def run(script_name: str, simulator: Simulator, **arguments: Any) -> State[Report]:
    flow, settings = FLOWS[script_name]
    usual = {"serials": PHONES, "tikmatrix": block_for(simulator.base_url), **settings}
    state: State[Report] = flow(**(usual | arguments), return_state=True)
    return state


@every_flow
def test_each_script_has_a_flow(start_simulator: StartSimulator, script_name: str) -> None:
    simulator = start_simulator(scripts=(*FLOWS,))
    state = run(script_name, simulator)
    assert state.is_completed(), state.message
    (body,) = simulator.requests.bodies("POST /task")
    assert (body["script_name"], body["serials"]) == (script_name, PHONES)
    targets = 2 if script_name in ("follow", "unfollow") else 1
    count = len(PHONES) * targets
    done = DONE.get(script_name)
    told = f"{count} of {count} {done}" if done else f"{script_name}: {count} of {count} completed"
    assert state.message == told
    assert len(simulator.jobs) == count


@every_flow
def test_without_phones_each_flow_refuses_by_name(simulator: Simulator, script_name: str) -> None:
    """A schedule that was switched on before its parameters were filled in."""
    with pytest.raises(InvalidRequest) as refusal:
        run(script_name, simulator, serials=None).result()
    assert refusal.value.field == "serials, usernames"
    assert len(simulator.requests) == 0


@every_flow
def test_a_dry_run_shows_the_plan_and_sends_nothing(simulator: Simulator, script_name: str) -> None:
    state = run(script_name, simulator, dry_run=True)
    assert (state.message or "").startswith(f"dry run: {script_name} on 3 phones, ")
    assert (state.message or "").endswith(" jobs; nothing was sent")
    assert len(simulator.requests) == 0


@every_flow
def test_the_flows_parameters_have_one_shape(script_name: str) -> None:
    """Whoever knows one form knows them all."""
    flow, settings = FLOWS[script_name]
    names = [name for name in flow.parameters.properties if name not in settings]  # type: ignore[attr-defined]  # a flow
    usual = [name for name in post.parameters.properties if name != "post"]
    assert names == usual
    assert set(flow.parameters.properties) - set(names) == set(settings)  # type: ignore[attr-defined]  # a flow


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"usernames": ["user-1a"]}, "serials, usernames"),
        ({"serials": ["phone-1", "phone-1"]}, "serials"),
        ({"start_time": "24:00"}, "start_time"),
        ({"max_jobs": 5}, "max_jobs"),
    ],
)
def test_bad_input_sends_nothing(
    simulator: Simulator, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        run("follow", simulator, **arguments).result()
    assert refusal.value.field == field
    assert len(simulator.requests) == 0


def test_what_a_script_needs_is_asked_for(tikmatrix: TikMatrix) -> None:
    with pytest.raises(TypeError, match="follow"):
        follow(serials=PHONES, tikmatrix=tikmatrix)  # type: ignore[call-overload]  # that is the point


def test_a_script_that_tikmatrix_does_not_run_fails_with_what_that_means(
    simulator: Simulator,
) -> None:
    state = run("login", simulator, script=CustomScript(script="like"))
    assert state.is_failed()
    message = state.message or ""
    assert "code 40003" in message
    assert "does not run the script through its API (yet): update TikMatrix" in message
    with pytest.raises(ScriptNotSupported):
        state.result()


def test_settings_of_a_custom_script_go_through_untouched(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(scripts=("login",))
    settings = {"email": "a@b", "nested": {"deep": [1, None]}}
    run("login", simulator, script={"script_name": "login", "script_config": settings})
    (body,) = simulator.requests.bodies("POST /task")
    assert body["script_config"] == settings


@pytest.mark.parametrize(("success", "failed"), [("any", False), ("all", True)])
def test_the_success_rule_decides(simulator: Simulator, success: str, failed: bool) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out")
    state = run("post", simulator, success=success)
    assert state.is_failed() is failed
    assert state.message == ("2 of 3 posted; phone-2: upload timed out")
    if failed:
        with pytest.raises(JobsFailed) as end:
            state.result()
        assert len(end.value.report.completed) == 2


def test_many_failures_leave_the_state_readable(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(phones=13)
    simulator.engine.fail_next(times=13)
    state = run("post", simulator, serials=[f"phone-{n}" for n in range(1, 14)])
    assert state.is_failed()
    assert (state.message or "").count("element not found") == 10
    assert (state.message or "").endswith("; and 3 more")


def test_what_failed_is_run_again(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-2")
    state = run("post", simulator, retry_failed=1)
    assert state.message == "3 of 3 posted"
    assert len(simulator.jobs) == 3


def test_a_deadline_stops_what_is_still_open(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    state = run("account_warmup", simulator, timeout_seconds=0.3)
    assert state.is_failed()
    assert "account_warmup: not ended after 0.3 s" in (state.message or "")
    assert "the open jobs were stopped" in (state.message or "")
    assert not [job for job in simulator.jobs if job.ended_at is None]


def test_a_tikmatrix_that_went_away_fails_the_run(start_simulator: StartSimulator) -> None:
    """Its jobs may go on, so even a completed one does not make the run a success."""
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0), durations={"post": 1})
    simulator.engine.operator_create("account_warmup", {}, serials=["phone-2"])
    tikmatrix = block_for(simulator.base_url, outage_budget_seconds=0.3)
    closing = threading.Timer(2.5, simulator.close)
    closing.start()
    state = run("post", simulator, tikmatrix=tikmatrix)
    closing.join()
    assert state.is_failed()
    assert "Its jobs may go on" in (state.message or "")


def test_a_lost_reply_posts_once(simulator: Simulator) -> None:
    simulator.faults.lose_reply("POST /task")
    assert run("post", simulator).message == "3 of 3 posted"
    assert len(simulator.jobs) == 3


def test_what_is_in_doubt_is_not_sent_again(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    simulator.faults.lose_reply("POST /task")
    with pytest.raises(SubmissionInDoubt):
        run("post", simulator).result()
    assert len(simulator.jobs) == 3


def test_a_starter_plan_fails_before_any_job_is_created(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(plan="Starter")
    with pytest.raises(PlanError, match="40301"):
        run("comment", simulator).result()
    assert simulator.requests.count("POST /task") == 0


def test_accounts_instead_of_phones(simulator: Simulator) -> None:
    state = run("follow", simulator, serials=None, usernames=["user-1a", "user-3a"])
    assert state.message == "4 of 4 followed"
    assert {job.username for job in simulator.jobs} == {"user-1a", "user-3a"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "follow from 3 phones"),
        ({"serials": ["phone-2"]}, "follow from phone-2"),
        ({"serials": None, "usernames": ["user-1a"]}, "follow from user-1a"),
    ],
)
def test_a_run_is_named_after_what_it_acts_on(
    simulator: Simulator, arguments: dict[str, Any], name: str
) -> None:
    state = run("follow", simulator, dry_run=True, **arguments)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    with get_client(sync_client=True) as prefect:
        assert prefect.read_flow_run(run_id).name == name
