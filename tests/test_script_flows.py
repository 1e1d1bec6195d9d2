"""The flows of one script each, on a real Prefect server against the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect import State

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
    Post,
    Report,
    Unfollow,
)
from tikmatrix_tasks.simulator import Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")

POST_URL = "https://www.tiktok.com/@a/video/1"
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
    assert state.message == f"{script_name}: {count} of {count} jobs completed"
    assert len(simulator.jobs) == count
