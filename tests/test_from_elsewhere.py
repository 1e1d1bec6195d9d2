"""What docs/from_elsewhere.md says, literally, on a real Prefect server with a real worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # what Prefect reads its files with
from prefect import State, flow
from prefect.events import Event

from flows.post import post
from flows.warm_up import warm_up
from flows.warmup_then_post import warmup_then_post
from tests.conftest import HOME, PHONES, block_for
from tests.real_worker import ROOT, until
from tikmatrix_tasks import (
    AccountWarmup,
    JobReport,
    Outcome,
    Post,
    Report,
    TikMatrix,
    announce_ended,
)
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.simulator import Options, Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")
POOL = "from-elsewhere"
DOCUMENT = (ROOT / "docs" / "from_elsewhere.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:4200"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S)


BY_RUN, AS_SUBFLOW = blocks("python")
BY_HTTP, SWITCH_ON = blocks("bash")
(TRIGGER,) = blocks("yaml")


@dataclass
class Elsewhere:
    """A Prefect server with deployments, and a worker that reaches a simulated TikMatrix."""

    address: str
    simulator: Simulator
    environment: dict[str, str]

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.address}/api{path}", timeout=30, trust_env=False)
        return answer.raise_for_status().json()

    def forget_automations(self) -> None:
        url = f"{self.address}/api/automations"
        for automation in httpx.post(f"{url}/filter", json={}, trust_env=False).json():
            httpx.delete(f"{url}/{automation['id']}", trust_env=False).raise_for_status()

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        query = {"deployments": {"name": {"any_": [deployment]}}}
        answer = httpx.post(
            f"{self.address}/api/flow_runs/filter", json=query, timeout=30, trust_env=False
        )
        runs: list[dict[str, Any]] = answer.raise_for_status().json()
        return runs

    def new_run_of(self, deployment: str, before: list[dict[str, Any]]) -> dict[str, Any]:
        """The run that was started since, when it has ended."""
        known = {run["id"] for run in before}

        def ended() -> list[dict[str, Any]]:
            new = [run for run in self.runs_of(deployment) if run["id"] not in known]
            final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            return [run for run in new if run["state"]["type"] in final]

        return until(f"a run of {deployment} ends", ended, 90)[0]

    def shell(self, command: str) -> str:
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def posted_since(self, jobs_before: int) -> list[str]:
        new = self.simulator.jobs[jobs_before:]
        return sorted(job.serial for job in new if job.script_name == "post")


@pytest.fixture(scope="module")
def elsewhere(prefect_address: str) -> Iterator[Elsewhere]:
    options = Options(phones=3, speed=500.0, auto_retry=False, seed=1)
    with Simulator(options) as simulator:
        environment = quiet_environment(os.environ, Path(HOME.name)) | {
            "PREFECT_API_URL": f"{prefect_address}/api",
            "PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL": simulator.base_url,
            "PREFECT_INTEGRATIONS_TIKMATRIX_POLL_INTERVAL_SECONDS": "0.1",
            "PREFECT_INTEGRATIONS_TIKMATRIX_MAX_POLL_INTERVAL_SECONDS": "0.2",
            "PREFECT_INTEGRATIONS_TIKMATRIX_FAILURE_GRACE_SECONDS": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        here = Elsewhere(prefect_address, simulator, environment)
        here.forget_automations()  # of deployments that other tests made and deleted
        here.shell(
            f"prefect work-pool create {POOL} --type process; "
            f"prefect deploy --name post --pool {POOL} --prefect-file deployments/prefect.yaml"
        )
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        with (Path(HOME.name) / "elsewhere.log").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                yield here
            finally:
                worker.terminate()
                worker.wait(timeout=30)


def defined_by(code: str) -> dict[str, Any]:
    """What a snippet of the document defines, as a module of its own would."""
    path = Path(HOME.name) / "snippet.py"
    path.write_text(code, encoding="utf-8")
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, path, "exec"), names)
    return names


def test_by_http(elsewhere: Elsewhere) -> None:
    before, jobs = elsewhere.runs_of("post"), len(elsewhere.simulator.jobs)
    command = BY_HTTP.replace(ADDRESS, elsewhere.address)
    elsewhere.shell(command)
    elsewhere.shell(command)  # the answer was lost, say: the same key, the same run
    run = elsewhere.new_run_of("post", before)
    assert (run["state"]["type"], run["state"]["message"]) == (
        "COMPLETED",
        "1 of 1 posted",
    )
    assert len(elsewhere.runs_of("post")) == len(before) + 1
    assert elsewhere.posted_since(jobs) == ["phone-1"]


def test_by_http_what_does_not_fit_is_refused(elsewhere: Elsewhere) -> None:
    deployment = elsewhere.get("/deployments/name/post/post")["id"]
    refusal = httpx.post(
        f"{elsewhere.address}/api/deployments/{deployment}/create_flow_run",
        json={"parameters": {"serials": "phone-1"}},
        timeout=30,
        trust_env=False,
    )
    assert refusal.status_code == 409
    assert "serials" in refusal.text


def test_from_another_flow_a_retry_starts_no_second_run(elsewhere: Elsewhere) -> None:
    before, jobs = elsewhere.runs_of("post"), len(elsewhere.simulator.jobs)
    publish = defined_by(BY_RUN)["publish"]
    attempts: list[str] = []

    @flow(retries=1)
    def parent() -> None:
        attempts.append(publish.fn(["phone-2"]))
        if len(attempts) == 1:
            raise RuntimeError("something else failed")

    parent()
    assert attempts == ["1 of 1 posted"] * 2
    assert len(elsewhere.runs_of("post")) == len(before) + 1
    assert elsewhere.posted_since(jobs) == ["phone-2"]


def test_as_a_subflow(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in elsewhere.environment.items():
        if name.startswith("PREFECT_INTEGRATIONS_"):
            monkeypatch.setenv(name, value)
    evening = defined_by(AS_SUBFLOW)["evening"]
    assert sorted(evening(PHONES)) == PHONES


def test_by_an_event(elsewhere: Elsewhere) -> None:
    """The whole way: a warm-up ends, its event starts a deployment, that posts where it may."""
    before, jobs = elsewhere.runs_of("post"), len(elsewhere.simulator.jobs)
    tikmatrix = block_for(elsewhere.simulator.base_url)
    warmup = AccountWarmup(task_duration=60)
    warm_up(serials=["phone-3"], warmup=warmup, tikmatrix=tikmatrix)  # while it is switched off
    elsewhere.shell(SWITCH_ON)
    warmup_then_post(  # publishes by itself
        serials=["phone-2"], warmup=warmup, tikmatrix=tikmatrix
    )
    elsewhere.simulator.engine.fail_next(serial="phone-2", script_name="account_warmup")
    warm_up(serials=["phone-1", "phone-2"], warmup=warmup, tikmatrix=tikmatrix)
    run = elsewhere.new_run_of("post", before)
    assert run["parameters"]["serials"] == ["phone-1"]
    assert run["state"]["message"] == "1 of 1 posted"
    assert len(elsewhere.runs_of("post")) == len(before) + 1
    assert elsewhere.posted_since(jobs) == ["phone-1", "phone-2"]


def test_the_document_shows_the_trigger_that_is_deployed() -> None:
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    (entry,) = [entry for entry in deployed["deployments"] if entry["name"] == "post"]
    assert yaml.safe_load(TRIGGER)["triggers"] == entry["triggers"]


# What is announced, and how often


OTHERS = tuple(f"tikmatrix.{of}." for of in ("job", "batch", "phone", "license", "connection"))
"""What single jobs, batches and the rest tell: docs/events.md."""


def announced_by(address: str, state: State[Any], number: int) -> list[Event]:
    """The events about scripts that a flow run emitted, when there are so many."""
    query = {
        "filter": {
            "event": {"prefix": ["tikmatrix."]},
            "related": {"id": [f"prefect.flow-run.{state.state_details.flow_run_id}"]},
            "order": "ASC",
        }
    }

    def kept() -> list[Event]:
        answer = httpx.post(f"{address}/api/events/filter", json=query, timeout=30, trust_env=False)
        events = answer.raise_for_status().json()["events"]
        found = [
            Event.model_validate(event) for event in events if not event["event"].startswith(OTHERS)
        ]
        return found if len(found) >= number else []

    return until("Prefect's server has kept the events", kept)


def test_an_event_tells_script_flow_and_phones(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.engine.fail_next(serial="phone-2")
    state: State[Any] = post(
        serials=PHONES, post=Post(captions="secret words"), tikmatrix=tikmatrix, return_state=True
    )
    events = announced_by(prefect_address, state, 2)
    completed, failed = sorted(events, key=lambda event: event.event)
    assert (completed.event, failed.event) == ("tikmatrix.post.completed", "tikmatrix.post.failed")
    assert completed.payload == {"serials": ["phone-1", "phone-3"], "usernames": None}
    assert failed.payload == {"serials": ["phone-2"], "usernames": None}
    assert completed.resource.id == f"tikmatrix.post.{state.state_details.flow_run_id}"
    assert completed.resource["tikmatrix.flow"] == "post"
    assert completed.resource["tikmatrix.script"] == "post"
    phones = [related.id for related in completed.related if related.role == "phone"]
    assert phones == ["tikmatrix.phone.phone-1", "tikmatrix.phone.phone-3"]
    assert "secret words" not in completed.model_dump_json()


def jobs_of(script_name: str, *jobs: tuple[str | None, Outcome]) -> Report:
    return Report(
        jobs=tuple(
            JobReport(script_name=script_name, owner=owner, outcome=outcome, job_id=job_id)
            for job_id, (owner, outcome) in enumerate(jobs, start=1)
        )
    )


def test_a_run_that_is_tried_again_announces_only_what_is_new(prefect_address: str) -> None:
    """Whoever posts on the event must not post a second time on the same phone."""
    outcomes = [Outcome.UNKNOWN, Outcome.COMPLETED]
    attempts: list[Outcome] = []

    @flow(retries=1)
    def unlucky() -> None:
        attempts.append(outcomes[len(attempts)])
        jobs = (("phone-1", Outcome.COMPLETED), ("phone-2", attempts[-1]))
        announce_ended(jobs_of("follow", *jobs), "follow")
        if len(attempts) == 1:
            raise RuntimeError("something else failed")

    events = announced_by(prefect_address, unlucky(return_state=True), 2)
    assert [event.payload["serials"] for event in events] == [["phone-1"], ["phone-2"]]


def test_only_what_is_certain_is_announced(prefect_address: str) -> None:
    """An event that says more than is known would publish where nothing may be published."""
    good, bad = Outcome.COMPLETED, Outcome.FAILED
    cases: list[tuple[list[tuple[str | None, Outcome]], list[tuple[str, list[str]]]]] = [
        ([("a", good), ("a", bad)], [("failed", ["a"])]),
        ([("a", bad), ("a", Outcome.RUNNING)], []),
        ([("a", good), (None, bad)], []),
        ([("a", good), (None, good)], [("completed", ["a"])]),
        ([("a", Outcome.NOT_STARTED), ("b", Outcome.UNKNOWN)], []),
        ([("a", Outcome.GONE), ("b", Outcome.NOT_CREATED)], [("failed", ["a", "b"])]),
    ]

    @flow
    def announces() -> None:
        for number, (jobs, _) in enumerate(cases):
            announce_ended(jobs_of(f"case-{number}", *jobs), f"case-{number}", by_account=True)
        announce_ended(jobs_of("last", ("z", good)), "last", by_account=True)

    expected = [
        (f"tikmatrix.case-{number}.{word}", owners)
        for number, (_, told) in enumerate(cases)
        for word, owners in told
    ]
    expected += [("tikmatrix.last.completed", ["z"])]
    events = announced_by(prefect_address, announces(return_state=True), len(expected))
    assert [(event.event, event.payload["usernames"]) for event in events] == expected
