"""The automations of deployments/automations.yaml, each provoked on a real open-source server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # what Prefect reads its files with
from prefect import State, flow, get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from flows.check_health import check_health
from flows.post import post
from tests.conftest import HOME, StartSimulator, block_for
from tests.odd_server import OddServer
from tests.real_worker import ROOT, until
from tests.test_command import command
from tests.test_deployment import prefect
from tests.test_tasks import quick
from tikmatrix_tasks import Post, TikMatrix, check_license, submit_jobs, wait_for_jobs
from tikmatrix_tasks.local_server import free_port, quiet_environment
from tikmatrix_tasks.simulator import Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")
FILE = ROOT / "deployments" / "automations.yaml"
DOCUMENT = (ROOT / "docs" / "automations.md").read_text(encoding="utf-8")
DEFINED: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
PREFECT_YAML: dict[str, Any] = yaml.safe_load(FILE.with_name("prefect.yaml").read_text("utf-8"))
NAMES = [automation["name"] for automation in DEFINED["automations"]]
DEPLOYED = ("check-health", "post", "warm-up")
POOL = "automations"
SHORTEST_SECONDS = 10  # that Prefect takes for the absence of something


class Server:
    """A Prefect server with deployments that nobody runs, so that what is started stays to see."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.environment = quiet_environment(os.environ, Path(HOME.name)) | {
            "PREFECT_API_URL": f"{address}/api",
            "PYTHONPATH": str(ROOT),
        }

    def prefect(self, *arguments: str) -> None:
        prefect(self.environment, "--no-prompt", *arguments)

    def automations(self) -> list[dict[str, Any]]:
        answer = httpx.post(
            f"{self.address}/api/automations/filter", json={}, timeout=30, trust_env=False
        )
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    def forget_automations(self) -> None:
        with get_client(sync_client=True) as prefect:  # it asks again when the database is locked
            for automation in self.automations():
                prefect.delete_automation(UUID(automation["id"]))

    def looks(self, at: str) -> list[FlowRun]:
        """The runs of check-health that automations asked for, and that speak of this."""
        with get_client(sync_client=True) as prefect:
            deployment = prefect.read_deployment_by_name("check-health/check-health")
            of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
            runs = prefect.read_flow_runs(deployment_filter=of_it)
        return [run for run in runs if at in str(run.parameters.get("noticed"))]

    def look(self, at: str, within_seconds: float = 60) -> FlowRun:
        return until(f"a look at {at}", lambda: self.looks(at), within_seconds)[0]

    def catch_up(self, start_simulator: StartSimulator) -> None:
        """Let the server act on all that it was told before, by something it acts on at once."""
        starter = block_for(start_simulator(plan="Starter").base_url)
        evening(starter, "phone-1")
        self.look(host_of(starter))

    def run_it(self, flow_run_id: UUID, tikmatrix: TikMatrix) -> State[Any]:
        """Do what a worker would do with a run, and return its state."""
        settings = {
            "BASE_URL": tikmatrix.base_url,
            "POLL_INTERVAL_SECONDS": "0.05",
            "MAX_POLL_INTERVAL_SECONDS": "0.1",
            "FAILURE_GRACE_SECONDS": "0",
        }
        for name, value in settings.items():
            self.environment[f"PREFECT_INTEGRATIONS_TIKMATRIX_{name}"] = str(value)
        self.prefect("flow-run", "execute", str(flow_run_id))
        with get_client(sync_client=True) as prefect:
            state = prefect.read_flow_run(flow_run_id).state
        assert state is not None
        return state


@pytest.fixture(scope="module")
def server(prefect_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All automations are there, as the file has them but with the shortest times."""
    with temporary_settings({PREFECT_API_URL: f"{prefect_address}/api"}):
        yield from _served(Server(prefect_address), tmp_path_factory)


def _served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server.forget_automations()
    with get_client(sync_client=True) as prefect:
        prefect.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    folder = tmp_path_factory.mktemp("automations")
    pool = {"name": POOL, "work_queue_name": "default"}
    entries = [
        entry | {"work_pool": pool}
        for entry in PREFECT_YAML["deployments"]
        if entry["name"] in DEPLOYED
    ]
    prefect_file = folder / "prefect.yaml"
    prefect_file.write_text(yaml.safe_dump({"deployments": entries}), encoding="utf-8")
    server.prefect("deploy", "--all", "--prefect-file", str(prefect_file))
    defined = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for automation in defined["automations"]:
        if automation["trigger"]["posture"] == "Proactive":
            automation["trigger"]["within"] = SHORTEST_SECONDS
    quick_file = folder / "automations.yaml"
    quick_file.write_text(yaml.safe_dump(defined), encoding="utf-8")
    made = automations("--file", str(quick_file), server=server)
    assert "\n".join(made) in DOCUMENT
    assert [line.split()[-1] for line in made] == [*NAMES, "post-after-warm-up"]
    yield server
    server.forget_automations()
    with get_client(sync_client=True) as prefect:
        for name in DEPLOYED:
            prefect.delete_deployment(prefect.read_deployment_by_name(f"{name}/{name}").id)


def automations(*arguments: str, server: Server) -> list[str]:
    done = command("automations", *arguments, PREFECT_API_URL=f"{server.address}/api")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def evening(tikmatrix: TikMatrix, phone: str) -> State[Any]:
    state: State[Any] = post(serials=[phone], tikmatrix=tikmatrix, return_state=True)
    return state


def host_of(tikmatrix: TikMatrix) -> str:
    return str(tikmatrix.base_url).split("/")[2]


def test_a_phone_that_keeps_failing(server: Server, start_simulator: StartSimulator) -> None:
    """Its third failure asks for a look, whose state names the phone; others fail less often."""
    simulator = start_simulator(phones=("moody", "calm"))
    tikmatrix = block_for(simulator.base_url)
    for phone, failures in (("calm", 2), ("moody", 2)):
        simulator.engine.fail_next(serial=phone, times=failures)
        for _ in range(3):
            evening(tikmatrix, phone)
    simulator.engine.fail_next(serial="moody")
    assert evening(tikmatrix, "moody").is_failed()
    run = server.look("moody: ")
    last = simulator.jobs[-1].id
    reason = f"moody: 3 jobs have failed in a short time, the last one is post (job {last})"
    assert run.parameters["noticed"] == reason
    state = server.run_it(run.id, tikmatrix)
    assert (state.name, state.type) == ("Needs a hand", "COMPLETED")
    assert (state.message or "").startswith(f"needs a hand: {reason} (plan Pro")
    simulator.engine.fail_next(serial="moody", times=3)
    for _ in range(3):
        evening(tikmatrix, "moody")  # it is known by now
    server.catch_up(start_simulator)
    assert len(server.looks("moody: ")) == 1
    assert not server.looks("calm")


def test_a_lost_licence_is_told_once_and_does_not_chase_its_tail(
    server: Server, start_simulator: StartSimulator
) -> None:
    starter = block_for(start_simulator(plan="Starter").base_url)
    for _ in range(2):
        assert evening(starter, "phone-1").is_failed()
    reason = f"TikMatrix at {host_of(starter)} has no licence for its API"
    run = server.look(host_of(starter))
    assert run.parameters["noticed"] == reason
    other = block_for(start_simulator(plan="Starter").base_url)
    for tikmatrix in (starter, other):
        state: State[Any] = check_health(tikmatrix=tikmatrix, return_state=True)
        assert state.is_failed()
        assert "40301" in str(state.message)
    server.catch_up(start_simulator)
    assert len(server.looks(host_of(starter))) == 1
    assert not server.looks(host_of(other))


def test_tikmatrix_out_of_reach(server: Server, start_simulator: StartSimulator) -> None:
    """Only when it stays away: a restart of the program is nobody's business."""
    closed = block_for(f"http://127.0.0.1:{free_port()}/api/v1")
    simulator = start_simulator(speed=20)
    restarted = block_for(simulator.base_url)

    @flow
    def asks(tikmatrix: TikMatrix) -> None:
        quick(check_license)(tikmatrix)

    @flow
    def waits(tikmatrix: TikMatrix) -> None:
        batch = submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix)
        simulator.faults.refuse(seconds=0.5)
        wait_for_jobs(batch, tikmatrix=tikmatrix)

    assert waits(restarted, return_state=True).is_completed()
    assert asks(closed, return_state=True).is_failed()
    run = server.look(host_of(closed))
    assert run.parameters["noticed"] == f"TikMatrix at {host_of(closed)} gave no answer"
    assert not server.looks(host_of(restarted))


def test_nothing_finished_in_time(
    server: Server, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """Nobody took the run up, as when the worker's PC is off; another deployment did its work."""
    phones = {"serials": ["phone-1"]}
    late: State[Any] = Scheduled(scheduled_time=datetime.now(timezone.utc) - timedelta(minutes=10))
    with get_client(sync_client=True) as prefect:
        posts = prefect.read_deployment_by_name("post/post")
        warm_up = prefect.read_deployment_by_name("warm-up/warm-up")
        done = prefect.create_flow_run_from_deployment(posts.id, parameters=phones)
        run_flow(post, done, parameters=phones | {"tikmatrix": tikmatrix})
        prefect.create_flow_run_from_deployment(warm_up.id, parameters=phones, state=late)
    assert [job.status for job in simulator.jobs] == [2]
    run = server.look("warm-up", within_seconds=90)
    reason = "a run of warm-up was due, and no job of it has completed in time"
    assert run.parameters["noticed"] == reason
    assert not server.looks("of post was due")


def test_made_again_they_are_updated_and_stay_switched_off(server: Server) -> None:
    """And a notification is added to all, and stays as what a person adds in the UI does."""
    before = {automation["name"]: automation for automation in server.automations()}
    with get_client(sync_client=True) as prefect:
        prefect.pause_automation(before[NAMES[0]]["id"])
    assert automations(server=server) == [
        f"there    off  {NAMES[0]}",
        f"updated  on   {NAMES[1]}",  # the file's own times
        f"there    on   {NAMES[2]}",
        f"updated  on   {NAMES[3]}",
        "there    off  post-after-warm-up",
    ]
    office = CustomWebhookNotificationBlock(
        name="office", url="http://127.0.0.1/", headers=None, cookies=None
    )
    office.save("office")
    told = automations("--notify", "custom-webhook/office", server=server)
    assert told[0] == f"updated  off  {NAMES[0]}"
    assert automations(server=server)[:4] == [
        f"there    {'off' if name == NAMES[0] else 'on ':<4} {name}" for name in NAMES
    ]
    after = {automation["name"]: automation for automation in server.automations()}
    assert {name: each["id"] for name, each in after.items()} == {
        name: each["id"] for name, each in before.items()
    }
    assert [action["type"] for action in after[NAMES[0]]["actions"]] == [
        "run-deployment",
        "send-notification",
    ]
    assert after[NAMES[3]]["trigger"]["within"] == 12 * 3600


def test_a_notification_block_is_told(
    server: Server, start_simulator: StartSimulator, odd_server: OddServer
) -> None:
    odd_server.answers["POST /told"] = (200, {})
    CustomWebhookNotificationBlock(
        name="told",
        url=f"{odd_server.base_url}/told",
        headers={"X-Told": "{{subject}}: {{body}}"},
        cookies=None,
    ).save("told")
    automations("--notify", "custom-webhook/told", server=server)
    starter = block_for(start_simulator(plan="Starter").base_url)
    evening(starter, "phone-1")
    until("the block is told", lambda: odd_server.seen_headers, 30)
    reason = f"TikMatrix at {host_of(starter)} has no licence for its API"
    assert odd_server.seen_headers[0]["X-Told"] == f"tikmatrix-licence-lost: {reason}"
    assert server.look(host_of(starter)).parameters["noticed"] == reason


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--file", "nowhere.yaml"), "automations: there is no nowhere.yaml here"),
        (("--notify", "office"), "automations: notify: office is no TYPE/NAME"),
        (("--notify", "custom-webhook/nobody"), "automations: notify: there is no block custom-"),
    ],
)
def test_what_cannot_be_made_is_refused(
    server: Server, arguments: tuple[str, ...], why: str
) -> None:
    before = server.automations()
    done = command("automations", *arguments, PREFECT_API_URL=f"{server.address}/api")
    assert done.returncode == 1
    assert done.stderr.startswith(why)
    assert server.automations() == before


def test_a_file_with_a_mistake_is_refused_by_the_fields_name(
    server: Server, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    text = FILE.read_text(encoding="utf-8")
    wrong.write_text(text.replace("threshold: 3", "threshold: often"), encoding="utf-8")
    address = f"{server.address}/api"
    done = command("automations", "--file", str(wrong), PREFECT_API_URL=address)
    assert done.returncode == 1
    assert "automations.0.trigger.threshold: Input should be a valid integer" in done.stderr
    wrong.write_text(text.replace("runs: check-health", "runs: nobody"), encoding="utf-8")
    done = command("automations", "--file", str(wrong), PREFECT_API_URL=address)
    assert (done.returncode, done.stdout) == (1, "")
    assert "runs: there is no deployment nobody/check-health" in done.stderr


def test_without_a_server_there_is_nothing_to_make_them_on() -> None:
    done = command("automations")
    assert done.returncode == 1
    assert done.stderr == (
        "automations: set PREFECT_API_URL first: automations live on a Prefect server\n"
    )


def test_the_document_tells_of_each() -> None:
    told = re.findall(r"^\| `(tikmatrix-[a-z-]+)` \|", DOCUMENT, re.M)
    assert told == NAMES


def test_every_deployment_that_does_work_is_looked_after() -> None:
    (watched,) = [each for each in DEFINED["automations"] if "nothing" in each["name"]]
    working = [
        entry["name"]
        for entry in PREFECT_YAML["deployments"]
        if "housekeeping" not in entry["tags"]
    ]
    assert watched["trigger"]["match_related"]["prefect.resource.name"] == working
