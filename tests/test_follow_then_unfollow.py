"""Follow now, unfollow later: who is unfollowed, when, and that nobody is unfollowed twice."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from pydantic import ValidationError

from flows.follow_then_unfollow import follow_then_unfollow
from flows.unfollow_pairs import unfollow_pairs
from tests.conftest import StartSimulator, block_for
from tikmatrix_tasks import (
    Delay,
    Follow,
    FollowPair,
    InvalidRequest,
    JobsFailed,
    JobStatus,
    Report,
    TikMatrix,
)
from tikmatrix_tasks.ledger import alone
from tikmatrix_tasks.simulator import Dialect, Simulator

ROOT = Path(__file__).parents[1]
PHONES = ["phone-1", "phone-2"]
DEPLOYMENT = "unfollow-pairs/unfollow-pairs"
USERS = ["ann", "bob", "cem"]
FOLLOW = Follow(target_users=USERS, access_method="search")
SOON = Delay(minutes=2 / 60)
pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def no_deployment(client: SyncPrefectClient) -> None:
    """Other tests deploy everything on the same server."""
    with suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(DEPLOYMENT).id)


@pytest.fixture
def deployment(client: SyncPrefectClient, no_deployment: None) -> Iterator[uuid.UUID]:
    """`unfollow-pairs/unfollow-pairs`, as `prefect deploy` makes it; no worker takes its runs."""
    to_deploy: Any = unfollow_pairs.to_deployment("unfollow-pairs")
    deployment_id = uuid.UUID(str(to_deploy.apply()))
    yield deployment_id
    client.delete_deployment(deployment_id)


def runs_of(client: SyncPrefectClient, deployment: uuid.UUID) -> list[FlowRun]:
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return client.read_flow_runs(flow_run_filter=wanted)


def run(simulator: Simulator, **arguments: Any) -> State[Report]:
    usual: dict[str, Any] = {
        "serials": PHONES,
        "follow": FOLLOW,
        "unfollow_after": SOON,
        "tikmatrix": block_for(simulator.base_url),
    }
    state: State[Report] = follow_then_unfollow(**(usual | arguments), return_state=True)
    return state


def run_scheduled(client: SyncPrefectClient, scheduled: FlowRun) -> State[Report]:
    """What a worker does with it, at its time."""
    flow_run = client.read_flow_run(scheduled.id)
    state: Any = run_flow(
        unfollow_pairs, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
    )
    assert isinstance(state, State)
    return state


def pairs_in(simulator: Simulator, script_name: str) -> Counter[tuple[str, str | None]]:
    return Counter(
        (job.serial, job.target) for job in simulator.jobs if job.script_name == script_name
    )


def all_pairs(*left_out: tuple[str, str]) -> Counter[tuple[str, str | None]]:
    pairs = {(phone, user) for phone in PHONES for user in USERS}
    return Counter(pairs - set(left_out))


def report_of(state: State[Report]) -> Report:
    result = state.result(raise_on_failure=False)
    return result.report if isinstance(result, JobsFailed) else result  # type: ignore[return-value]  # else it is the report


@pytest.mark.parametrize("row_fields", ["seen", "minimal"])
def test_five_of_six_follow_and_five_are_unfollowed(
    start_simulator: StartSimulator,
    client: SyncPrefectClient,
    deployment: uuid.UUID,
    row_fields: Any,
) -> None:
    """Also where TikMatrix's rows tell neither phone nor user."""
    simulator = start_simulator(dialect=Dialect(row_fields=row_fields))
    simulator.engine.fail_next(serial="phone-2", remark="user not found")
    before = time.time()
    state = run(simulator, unfollow_after=Delay(days=2))
    assert state.is_completed()
    (failed,) = report_of(state).not_completed
    assert failed.name is not None
    user = failed.name.removeprefix("phone-2, ")
    assert pairs_in(simulator, "follow") == all_pairs()
    (scheduled,) = runs_of(client, deployment)
    assert scheduled.state is not None
    assert scheduled.state.is_scheduled()
    assert scheduled.expected_start_time is not None
    due = scheduled.expected_start_time.timestamp() - before
    assert 2 * 86400 <= due <= 2 * 86400 + 120
    assert len(scheduled.parameters["pairs"]) == 5
    assert {"phone": "phone-2", "user": user} not in scheduled.parameters["pairs"]
    assert scheduled.parameters["followed_by"] == str(state.state_details.flow_run_id)
    assert scheduled.parameters["access_method"] == "search"
    assert scheduled.name in (state.message or "")
    assert (state.message or "").startswith(f"5 followed, 1 failed; phone-2, {user}: follow failed")
    assert pairs_in(simulator, "unfollow") == Counter()


def test_the_scheduled_run_waits_for_its_time_and_unfollows_once(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    simulator.engine.fail_next(serial="phone-1")
    state = run(simulator, unfollow_after=Delay(minutes=3 / 60))
    (failed,) = report_of(state).not_completed
    (scheduled,) = runs_of(client, deployment)
    unfollowed = run_scheduled(client, scheduled)
    assert unfollowed.message == "5 unfollowed"
    assert scheduled.expected_start_time is not None
    assert client.read_flow_run(scheduled.id).name == scheduled.name, "it names its origin"
    started = client.read_flow_run(scheduled.id).start_time
    assert started is not None
    early = scheduled.expected_start_time.timestamp() - started.timestamp()
    assert early < 1, "Prefect counts in whole seconds"
    user = (failed.name or "").removeprefix("phone-1, ")
    assert pairs_in(simulator, "unfollow") == all_pairs(("phone-1", user))
    bodies = simulator.requests.bodies("POST /task")
    assert all(body["script_config"]["access_method"] == "search" for body in bodies)
    copied = client.create_flow_run_from_deployment(deployment, parameters=scheduled.parameters)
    assert run_scheduled(client, copied).message == "0 unfollowed, 5 already unfollowed"
    assert pairs_in(simulator, "unfollow") == all_pairs(("phone-1", user))


def test_a_first_half_that_is_tried_again_schedules_once(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    simulator.engine.fail_next(serial="phone-2")
    states: list[State[Report]] = []

    @flow(retries=1)
    def cycle() -> None:
        states.append(run(simulator))
        if len(states) == 1:
            raise RuntimeError("something else went wrong")

    cycle()
    assert [(state.message or "")[:20] for state in states] == ["5 followed, 1 failed"] * 2
    assert pairs_in(simulator, "follow") == all_pairs()
    (scheduled,) = runs_of(client, deployment)
    assert len(scheduled.parameters["pairs"]) == 5


def test_a_second_half_that_is_tried_again_unfollows_once(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    run(simulator)
    (scheduled,) = runs_of(client, deployment)
    tries: list[str | None] = []

    @flow(retries=1)
    def second_half() -> None:
        parameters = scheduled.parameters | {"tikmatrix": block_for(simulator.base_url)}
        tries.append(unfollow_pairs(**parameters, return_state=True).message)
        if len(tries) == 1:
            raise RuntimeError("something else went wrong")

    second_half()
    assert len(tries) == 2
    assert pairs_in(simulator, "unfollow") == all_pairs()


def test_the_same_cycle_twice_by_mistake_unfollows_once(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    run(simulator)
    second = run(simulator, follow=Follow(target_users=["@Ann", "bob", "cem"]))
    assert second.is_completed()
    assert (
        second.message
        == "0 followed; 6 pairs left out, followed earlier and still to be unfollowed"
    )
    assert len(runs_of(client, deployment)) == 1
    third = run(simulator, follow=Follow(target_users=["ann", "dan"]))
    assert (third.message or "").startswith("2 followed; 2 pairs left out")
    first, last = sorted(runs_of(client, deployment), key=lambda run: len(run.parameters["pairs"]))
    assert first.parameters["pairs"] == [{"phone": phone, "user": "dan"} for phone in PHONES]
    assert run_scheduled(client, last).message == "6 unfollowed"
    assert (run(simulator).message or "").startswith("6 followed; to be unfollowed"), "a new cycle"


async def test_two_cycles_at_the_same_time_schedule_each_pair_once(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    """Both have looked at what is pending before either schedules, as they take turns at that."""
    async with alone("unfollow"):
        cycles = [asyncio.create_task(asyncio.to_thread(run, simulator)) for _ in range(2)]
        while simulator.requests.count("POST /task") < 12:
            assert not any(cycle.done() for cycle in cycles)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert runs_of(client, deployment) == []
    states = [await cycle for cycle in cycles]
    assert [(state.message or "")[:10] for state in states] == ["6 followed"] * 2
    runs = runs_of(client, deployment)
    pairs = [FollowPair(**pair).key for one in runs for pair in one.parameters["pairs"]]
    assert len(pairs) == len(set(pairs)) == 6


def test_what_is_followed_only_when_the_first_half_is_tried_again_is_scheduled_too(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    simulator.engine.fail_next(serial="phone-2")
    states: list[State[Report]] = []

    @flow(retries=1)
    def cycle() -> None:
        states.append(run(simulator, unfollow_after=Delay(days=1)))
        if len(states) == 1:
            (failed,) = [job.id for job in simulator.jobs if job.status == JobStatus.FAILED]
            simulator.engine.operator_retry(failed)
            raise RuntimeError("something else went wrong")

    cycle()
    assert [(state.message or "")[:10] for state in states] == ["5 followed", "6 followed"]
    runs = runs_of(client, deployment)
    assert sorted(len(one.parameters["pairs"]) for one in runs) == [1, 5]
    assert len({FollowPair(**pair).key for one in runs for pair in one.parameters["pairs"]}) == 6


def test_accounts_instead_of_phones(
    start_simulator: StartSimulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    run(simulator, serials=None, usernames=["user-1a", "user-2a"])
    (scheduled,) = runs_of(client, deployment)
    assert {pair["account"] for pair in scheduled.parameters["pairs"]} == {"user-1a", "user-2a"}
    assert run_scheduled(client, scheduled).message == "6 unfollowed"


def test_a_saved_block_is_passed_on_by_reference(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    block = block_for(simulator.base_url, headers={"X-Key": "planted-header"})
    with pytest.raises(InvalidRequest, match="save it as a block"):
        run(simulator, tikmatrix=block).result()
    assert len(simulator.requests) == 0
    block.save("office", overwrite=True)
    run(simulator, tikmatrix=TikMatrix.load("office"))
    (scheduled,) = runs_of(client, deployment)
    assert "planted-header" not in str(scheduled.parameters)
    assert run_scheduled(client, scheduled).message == "6 unfollowed"
    assert simulator.requests.count("POST /task") == 12


# Without a deployment


@pytest.mark.usefixtures("no_deployment")
def test_a_short_delay_is_waited_for_in_place(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-2")
    states: list[State[Report]] = []

    @flow(retries=1)
    def cycle() -> None:
        states.append(run(simulator))
        if len(states) == 1:
            raise RuntimeError("something else went wrong")

    cycle()
    assert states[0].is_completed()
    assert (states[0].message or "").endswith("; 5 unfollowed")
    assert (states[1].message or "").endswith("; 0 unfollowed, 5 already unfollowed")
    assert len(report_of(states[0]).jobs) == 11
    assert sum(pairs_in(simulator, "follow").values()) == 6
    assert sum(pairs_in(simulator, "unfollow").values()) == 5
    followed = max(job.ended_at or 0 for job in simulator.jobs if job.script_name == "follow")
    unfollow = min(job.started_at or 0 for job in simulator.jobs if job.script_name == "unfollow")
    assert unfollow - followed >= 2 * 500 * 0.9, "2 s at 500 times the speed"


@pytest.mark.usefixtures("no_deployment")
def test_a_long_delay_without_a_deployment_follows_nobody(simulator: Simulator) -> None:
    with pytest.raises(InvalidRequest, match="no deployment unfollow-pairs/unfollow-pairs") as no:
        run(simulator, unfollow_after=Delay(hours=1, minutes=1)).result()
    assert no.value.field == "unfollow_after"
    assert len(simulator.requests) == 0


# Bad input


@pytest.mark.parametrize(
    "fields", [{}, {"days": 0}, {"days": -1}, {"days": 367}, {"hours": float("inf")}, {"weeks": 1}]
)
def test_an_impossible_delay_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Delay(**fields)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"serials": None}, "serials, usernames"),
        ({"usernames": ["u"]}, "serials, usernames"),
        ({"follow": Follow(target_users=["ann", "@Ann"])}, "target_users"),
        ({"start_time": "24:00"}, "start_time"),
        ({"max_jobs": 5}, "max_jobs"),
    ],
)
def test_bad_input_follows_nobody(
    simulator: Simulator, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        run(simulator, **arguments).result()
    assert refusal.value.field == field
    assert len(simulator.requests) == 0


def test_pairs_that_nobody_followed_are_refused(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-1")
    state = run(simulator, serials=["phone-1"], follow=Follow(target_users=["ann", "bob"]))
    followed_by = state.state_details.flow_run_id
    (failed,) = [job for job in report_of(state).jobs if job.outcome.value == "failed"]
    user = (failed.name or "").removeprefix("phone-1, ")
    requests = len(simulator.requests)
    tikmatrix = block_for(simulator.base_url)

    def refused(pairs: list[FollowPair], origin: uuid.UUID | None) -> InvalidRequest:
        assert origin is not None
        with pytest.raises(InvalidRequest) as refusal:
            unfollow_pairs(pairs=pairs, followed_by=origin, tikmatrix=tikmatrix)
        assert len(simulator.requests) == requests
        return refusal.value

    pair = FollowPair(phone="phone-1", user=user)
    assert "not followed by" in str(refused([pair], followed_by))
    assert f"phone-1, {user}" in str(refused([pair], followed_by))
    assert "nobody was followed by" in str(refused([pair], uuid.uuid4()))
    assert refused([], followed_by).field == "pairs"
    assert refused([pair, pair], followed_by).field == "pairs"


def test_a_dry_run_follows_nobody(
    simulator: Simulator, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    state = run(simulator, dry_run=True)
    assert state.message == "dry run: 6 pairs would be followed; nothing was sent"
    assert len(simulator.requests) == 0
    assert runs_of(client, deployment) == []
