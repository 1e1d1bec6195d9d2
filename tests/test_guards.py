"""What keeps a run from happening at the wrong moment, or on phones that others use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Crashed, Running, Scheduled

from flows.post import post
from flows.warm_up import warm_up
from tests.conftest import PHONES, StartSimulator, block_for
from tests.real_worker import until
from tests.test_command import command
from tikmatrix_tasks import (
    AccountWarmup,
    InvalidRequest,
    PhonesBusy,
    Post,
    Report,
    TikMatrix,
    exclusive_phones,
    phones_to_use,
    reason_to_skip,
    skip,
)
from tikmatrix_tasks.simulator import RUNNING, Dialect, Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")

HOURS_AGO = 3


@dataclass
class Slots:
    """A deployment of the flow `post`, and runs that Prefect's own scheduler makes for it."""

    api: str
    parameters: dict[str, Any]
    slot: datetime = field(
        default_factory=lambda: (
            datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
            - timedelta(hours=HOURS_AGO)
        )
    )

    def __post_init__(self) -> None:
        flow_id = self._post("/flows/", {"name": "post"})["id"]
        body = {"name": str(uuid4()), "flow_id": flow_id, "parameters": self.parameters}
        self.id = self._post("/deployments/", body)["id"]
        self._made: set[UUID] = set()

    def fire(self, **parameters: Any) -> FlowRun:
        """A run for the slot by one more schedule, as after an update of the deployment."""
        cron = {"cron": "0 * * * *", "timezone": "UTC"}
        schedule = {"schedule": cron, "active": True, "parameters": parameters}
        path = f"/deployments/{self.id}"
        self._post(f"{path}/schedules", [schedule])
        only_this = {"start_time": str(self.slot), "end_time": str(self.slot), "max_runs": 1}
        self._post(f"{path}/schedule", {**only_this, "min_runs": 1})
        (run,) = [run for run in self.runs() if run.id not in self._made]
        self._made.add(run.id)
        assert run.auto_scheduled
        assert run.expected_start_time == self.slot
        return run

    def runs(self) -> list[FlowRun]:
        body = {
            "deployments": {"id": {"any_": [self.id]}},
            "flow_runs": {"expected_start_time": {"before_": str(self.slot)}},
        }
        return [FlowRun.model_validate(run) for run in self._post("/flow_runs/filter", body)]

    def close(self) -> None:
        self._call("DELETE", f"/deployments/{self.id}")

    def _post(self, path: str, body: object) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        def ask() -> list[httpx.Response]:
            url = self.api + path
            answer = httpx.request(method, url, json=body, timeout=30, trust_env=False)
            # 503: its database is locked for the moment. Prefect's own client asks again, too.
            return [] if answer.status_code == 503 else [answer]

        (answer,) = until(f"an answer to {method} {path}", ask)
        answer.raise_for_status()
        return answer.json() if answer.content else None


@pytest.fixture
def slots(prefect_api: str, simulator: Simulator) -> Iterator[Slots]:
    tikmatrix = block_for(simulator.base_url).model_dump(mode="json", exclude_none=True)
    slots = Slots(prefect_api, {"serials": ["phone-1"], "tikmatrix": tikmatrix})
    yield slots
    slots.close()


def start(run: FlowRun, *, over: State[Any] | None = None) -> State[Report]:
    """Run it here, as the worker would in a process; `over` is what became of it before."""
    with get_client(sync_client=True) as prefect:
        if over is not None:
            prefect.set_flow_run_state(run.id, over, force=True)
            prefect.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
        run = prefect.read_flow_run(run.id)
    state: State[Report] = run_flow(post, flow_run=run, return_type="state")  # type: ignore[arg-type,assignment]  # not the result
    return state


def end(run: FlowRun, state: State[Any]) -> None:
    with get_client(sync_client=True) as prefect:
        prefect.set_flow_run_state(run.id, state, force=True)


def test_the_scheduler_fired_twice_and_one_run_posts(slots: Slots, simulator: Simulator) -> None:
    """prefect#18894: a video must not be published twice because a schedule was replaced."""
    first, second = slots.fire(), slots.fire()
    skipped = start(second)
    assert (skipped.type.value, skipped.name) == ("COMPLETED", "Skipped")
    assert "the scheduler fired twice for one slot" in (skipped.message or "")
    assert first.name in (skipped.message or "")
    assert len(simulator.requests) == 0
    assert start(first).message == "1 of 1 posted"
    assert start(slots.fire()).name == "Skipped", "a third, when the first has ended"
    assert len(simulator.jobs) == 1


@pytest.mark.parametrize("became", [Cancelled(), Crashed()], ids=lambda state: state.name)
def test_where_the_first_never_began_the_second_does_the_work(
    slots: Slots, simulator: Simulator, became: State[Any]
) -> None:
    first, second = slots.fire(), slots.fire()
    end(first, became)
    assert start(second).message == "1 of 1 posted"
    assert len(simulator.jobs) == 1


def test_a_run_that_has_submitted_goes_on_when_it_is_tried_again(
    slots: Slots, simulator: Simulator
) -> None:
    """Nor may it be skipped, or do it again, because the other one was started meanwhile."""
    first, second = slots.fire(), slots.fire()
    end(first, Cancelled())
    simulator.engine.fail_next()
    assert start(second).is_failed()
    end(first, Crashed())
    with get_client(sync_client=True) as prefect:  # somebody began the first after all
        prefect.set_flow_run_state(first.id, Running(), force=True)
    (job,) = simulator.jobs
    simulator.engine.operator_retry(job.id)
    assert start(second, over=Crashed()).message == "1 of 1 posted"
    assert len(simulator.jobs) == 1


def test_schedules_with_other_parameters_are_other_slots(
    slots: Slots, simulator: Simulator
) -> None:
    one, other = slots.fire(serials=["phone-1"]), slots.fire(serials=["phone-2"])
    assert start(other).name == start(one).name == "Completed"
    assert sorted(job.serial for job in simulator.jobs) == ["phone-1", "phone-2"]


def test_a_late_run_is_skipped_and_says_so(slots: Slots, simulator: Simulator) -> None:
    """The PC slept through the night: the evening's posts are not for the morning."""
    skipped = start(slots.fire(max_lateness_minutes=60))
    assert skipped.name == "Skipped"
    assert "minutes after its scheduled time; at most 60 are allowed" in (skipped.message or "")
    assert len(simulator.requests) == 0
    allowed = (HOURS_AGO + 2) * 60
    assert start(slots.fire(max_lateness_minutes=allowed)).name == "Completed"


def test_a_late_run_that_somebody_tries_again_runs(slots: Slots, simulator: Simulator) -> None:
    late = slots.fire(max_lateness_minutes=60)
    assert start(late, over=Crashed()).name == "Completed"
    assert len(simulator.jobs) == 1


def test_nothing_is_late_without_a_schedule(tikmatrix: TikMatrix) -> None:
    assert reason_to_skip(0.1) is None, "outside a flow run"
    report = post(serials=["phone-1"], max_lateness_minutes=0.1, tikmatrix=tikmatrix)
    assert report.ok


def test_a_flow_of_ones_own_can_skip() -> None:
    @flow
    def own() -> Report:
        return skip("nothing to do today")

    state = own(return_state=True)
    assert (state.name, state.message) == ("Skipped", "nothing to do today")
    assert own().jobs == ()


def busy_for(simulator: Simulator, **where: Any) -> None:
    """Somebody starts a job on TikMatrix's screen."""
    simulator.engine.operator_create("account_warmup", {"task_duration": 100}, **where)


def use(when_busy: str, tikmatrix: TikMatrix, **arguments: Any) -> list[str]:
    @flow
    def choose() -> list[str]:
        given = {"serials": None if "usernames" in arguments else PHONES, **arguments}
        return phones_to_use(when_busy=when_busy, tikmatrix=tikmatrix, **given)  # type: ignore[arg-type]  # any word

    return choose()


def test_when_busy_sees_what_somebody_started_on_the_screen(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator(speed=0.001, pickup_seconds=(0, 0))
    tikmatrix = block_for(simulator.base_url)
    busy_for(simulator, serials=["phone-2"])
    assert [job.status for job in simulator.jobs] == [RUNNING]
    assert use("queue", tikmatrix) == PHONES
    assert use("skip", tikmatrix) == ["phone-1", "phone-3"]
    with pytest.raises(PhonesBusy, match=r"phone-2 still busy.* after 0\.2 s; nothing was sent"):
        use("wait", tikmatrix, timeout_seconds=0.2)


def test_waiting_for_busy_phones_ends_when_their_jobs_have(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=50)
    busy_for(simulator, serials=["phone-2"])
    assert use("wait", block_for(simulator.base_url)) == PHONES
    assert all(job.ended_at for job in simulator.jobs)


def test_a_pending_job_counts_as_work(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=0.001)
    busy_for(simulator, serials=["phone-3"])
    assert use("skip", block_for(simulator.base_url)) == ["phone-1", "phone-2"]


@pytest.mark.parametrize("accounts_endpoint", [True, False])
def test_an_account_is_busy_when_a_job_names_it_or_uses_its_phone(
    start_simulator: StartSimulator, accounts_endpoint: bool
) -> None:
    simulator = start_simulator(
        speed=0.001, accounts_per_phone=2, accounts_endpoint=accounts_endpoint
    )
    busy_for(simulator, usernames=["user-1a"])
    accounts = ["user-1a", "user-1b", "user-2a"]
    free = use("skip", block_for(simulator.base_url), usernames=accounts)
    assert free == (["user-2a"] if accounts_endpoint else ["user-1b", "user-2a"])


def test_where_rows_do_not_tell_whose_job_it_is_it_queues_and_warns(
    start_simulator: StartSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"), speed=0.001)
    busy_for(simulator, usernames=["user-1a"])
    assert use("skip", block_for(simulator.base_url), usernames=["user-1a"]) == ["user-1a"]
    assert "1 open jobs do not tell which account" in caplog.text
    assert use("skip", block_for(simulator.base_url)) == ["phone-2", "phone-3"]


def test_a_look_that_fails_is_no_answer(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    busy_for(simulator, serials=["phone-1"])
    simulator.faults.lose_reply("GET /task/stats", times=2)
    assert use("wait", tikmatrix) == PHONES


def test_busy_phones_are_left_out_and_named(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=50)
    busy_for(simulator, serials=["phone-2"])
    arguments: dict[str, Any] = {
        "post": Post(captions="Hi"),
        "tikmatrix": block_for(simulator.base_url),
        "when_busy": "skip",
        "return_state": True,
    }
    state = post(serials=PHONES, **arguments)
    assert state.message == ("2 of 2 posted; left out, because they had open jobs: phone-2")
    busy_for(simulator, serials=["phone-1"])
    state = post(serials=["phone-1"], **arguments)
    assert state.name == "Skipped"
    assert state.message == "every phone has open jobs already; nothing was sent"


def test_a_run_tried_again_uses_the_phones_it_used_before(
    slots: Slots, simulator: Simulator
) -> None:
    """Else it would post once more, on the phones that are free now."""
    long = {"task_duration": 500 * 300}  # it ends when it is told to
    (busy,) = simulator.engine.operator_create("account_warmup", long, serials=["phone-2"])
    run = slots.fire(serials=PHONES, when_busy="skip")
    simulator.engine.fail_next(script_name="post", times=2)
    assert start(run).is_failed()
    posts = [job.serial for job in simulator.jobs if job.script_name == "post"]
    assert posts == ["phone-1", "phone-3"]
    while simulator.engine.get(busy).status != RUNNING:
        time.sleep(0.05)
    simulator.engine.operator_stop(busy)
    assert start(run, over=Crashed()).is_failed()
    assert len(simulator.jobs) == 3


def limits(*arguments: str, api: str) -> str:
    done = command("limits", *arguments, PREFECT_API_URL=api)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def phones(prefect_api: str) -> list[str]:
    """Two phones of this test alone, with limits."""
    names = [f"phone-{uuid4()}", f"192.168.7.7:{uuid4().int % 60000}"]
    limits("--phones", *names, api=prefect_api)
    return names


def together(*actions: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor() as threads:
        # Each with the settings of this test, which are in its context.
        begun = [threads.submit(copy_context().run, action) for action in actions]
        return [done.result() for done in begun]


def test_two_runs_do_not_interleave_on_a_phone(
    phones: list[str], start_simulator: StartSimulator
) -> None:
    """In whichever order they name the phones: they are taken all at once."""
    simulator = start_simulator(phones=tuple(phones), pickup_seconds=(0, 0))
    tikmatrix = block_for(simulator.base_url)

    def evening(serials: list[str], caption: str) -> None:
        @flow
        def alone() -> None:
            with exclusive_phones(serials, poll_seconds=0.1):
                for _ in range(2):
                    settings = Post(captions=caption)
                    assert post(serials=serials, post=settings, tikmatrix=tikmatrix).ok

        alone()

    together(lambda: evening(phones, "one"), lambda: evening(phones[::-1], "two"))
    captions = [
        body["script_config"]["captions"] for body in simulator.requests.bodies("POST /task")
    ]
    assert captions in (["one", "one", "two", "two"], ["two", "two", "one", "one"])


def test_a_run_that_fails_leaves_the_phones_free(
    phones: list[str], start_simulator: StartSimulator
) -> None:
    simulator = start_simulator(phones=tuple(phones))
    arguments: dict[str, Any] = {
        "serials": phones,
        "exclusive_phones": True,
        "timeout_seconds": 5,
        "tikmatrix": block_for(simulator.base_url),
        "return_state": True,
    }
    simulator.engine.fail_next(times=2)
    assert warm_up(warmup=AccountWarmup(task_duration=30), **arguments).is_failed()
    state = post(**arguments)
    assert state.message == "2 of 2 posted"


def test_phones_in_use_are_waited_for_until_the_deadline(
    phones: list[str], start_simulator: StartSimulator
) -> None:
    simulator = start_simulator(phones=tuple(phones))
    held, over = threading.Event(), threading.Event()

    @flow
    def holder() -> None:
        with exclusive_phones(phones[:1]):
            held.set()
            assert over.wait(30)

    def other() -> State[Report]:
        try:
            assert held.wait(30)
            tikmatrix = block_for(simulator.base_url)
            state: State[Report] = post(
                serials=phones,
                exclusive_phones=True,
                timeout_seconds=0.3,
                tikmatrix=tikmatrix,
                return_state=True,
            )
            return state
        finally:
            over.set()

    _, state = together(holder, other)
    assert state.is_failed()
    assert f"PhonesBusy: {phones[0]} still busy with other work after 0.3 s" in state.message
    assert len(simulator.requests) == 0


def test_a_phone_without_a_limit_fails_the_run_before_anything_is_sent(
    prefect_api: str, phones: list[str], simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """The switch is on, so it must not be without effect."""
    arguments: dict[str, Any] = {"tikmatrix": tikmatrix, "exclusive_phones": True}
    with pytest.raises(InvalidRequest) as refusal:
        post(serials=[*phones, "nobody's", "spare"], **arguments)
    assert refusal.value.field == "exclusive_phones"
    assert "`prefect-tikmatrix limits --phones nobody's spare`" in refusal.value.problem

    for change in ({"active": False}, {"active": True, "limit": 2}):
        with get_client(sync_client=True) as prefect:
            prefect.update_global_concurrency_limit(
                f"tikmatrix-phone-{phones[0]}", GlobalConcurrencyLimitUpdate(**change)
            )
        with pytest.raises(InvalidRequest, match="no concurrency limit of 1"):
            post(serials=phones, **arguments)
    with pytest.raises(InvalidRequest, match="goes with serials"):
        post(usernames=["user-1a"], **arguments)
    assert len(simulator.requests) == 0
    limits("--phones", *phones, api=prefect_api)
    with get_client(sync_client=True) as prefect:
        limit = prefect.read_global_concurrency_limit_by_name(f"tikmatrix-phone-{phones[0]}")
    assert limit.limit == 1


def test_limits_are_created_once(prefect_api: str, simulator: Simulator) -> None:
    new = str(uuid4())
    created = limits("--phones", new, api=prefect_api)
    assert f"created  tikmatrix-phone-{new}" in created
    assert f"there    tikmatrix-phone-{new}" in limits("--phones", new, api=prefect_api)
    from_accounts = limits("--base-url", simulator.base_url, api=prefect_api)
    assert [line.split()[1] for line in from_accounts.splitlines()] == [
        f"tikmatrix-phone-{phone}" for phone in PHONES
    ]


def test_limits_says_what_it_needs(start_simulator: StartSimulator, prefect_api: str) -> None:
    older = start_simulator(accounts_endpoint=False)
    done = command("limits", "--base-url", older.base_url, PREFECT_API_URL=prefect_api)
    assert done.returncode == 1
    assert "does not list accounts; name the phones with --phones" in done.stderr
    done = command("limits", "--phones", "phone-1")
    assert done.returncode == 1
    assert "PREFECT_API_URL" in done.stderr
