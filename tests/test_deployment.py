"""The flows as they run in production: deployed, started or scheduled, run by a worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # it comes with Prefect, its types do not

from tests.conftest import HOME
from tests.real_worker import until
from tests.test_command import command
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.simulator import Options, Simulator

ROOT = Path(__file__).parents[1]
PREFECT_YAML = ROOT / "deployments" / "prefect.yaml"
ENTRIES: list[dict[str, Any]] = yaml.safe_load(PREFECT_YAML.read_text("utf-8"))["deployments"]
POST_URL = "https://www.tiktok.com/@a/video/1"
PARAMETERS: dict[str, dict[str, Any]] = {
    "warmup-then-post": {
        "warmup": {"task_duration": 60, "follow_probability": 5},
        "post": {"captions": "Hi", "material_list": ["C:/v.mp4"]},
    },
    "post": {"post": {"captions": "Hi"}},
    "follow": {"follow": {"target_users": ["x"]}},
    "unfollow": {"unfollow": {"target_users": ["x"]}},
    "comment": {"comment": {"target_post_urls": [POST_URL], "comment_content": ["nice"]}},
    "warm-up": {"warmup": {"task_duration": 60}},
    "run-custom-script": {"script": {"script": "login"}},
}
"""What each deployment is started with here, besides its phones."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    phones = tuple(f"phone-{number}" for number in range(1, 8))
    scripts = (*Options().scripts, "login")
    options = Options(phones=phones, speed=500, auto_retry=False, seed=1, scripts=scripts)
    with Simulator(options) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def environment(prefect_address: str, simulator: Simulator) -> dict[str, str]:
    """What a worker has: where Prefect is, and where TikMatrix is."""
    settings = {
        "BASE_URL": simulator.base_url,
        "POLL_INTERVAL_SECONDS": "0.1",
        "MAX_POLL_INTERVAL_SECONDS": "0.2",
        "FAILURE_GRACE_SECONDS": "0",
    }
    return quiet_environment(os.environ, Path(HOME.name)) | {
        "PREFECT_API_URL": f"{prefect_address}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
        **{f"PREFECT_INTEGRATIONS_TIKMATRIX_{name}": value for name, value in settings.items()},
    }


def prefect(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Api:
    """Prefect's API, as anybody may use it."""

    def __init__(self, address: str) -> None:
        self._address = f"{address}/api"

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self.answer(method, path, body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def answer(self, method: str, path: str, body: object = None) -> httpx.Response:
        def ask() -> list[httpx.Response]:
            url = self._address + path
            answer = httpx.request(method, url, json=body, timeout=30, trust_env=False)
            # 503: its database is locked for the moment. Prefect's own client asks again, too.
            return [] if answer.status_code == 503 else [answer]

        (answer,) = until(f"an answer to {method} {path}", ask)
        return answer

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/deployments/name/{name}/{name}")
        return found

    def start(self, name: str, **parameters: Any) -> str:
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(self.call("POST", path, {"parameters": parameters})["id"])

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs: list[dict[str, Any]] = self.call("POST", "/flow_runs/filter", body)
        return runs

    def run(self, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.call("GET", f"/flow_runs/{run_id}")
        return run

    def until_state(self, run_id: str, name: str) -> dict[str, Any]:
        def is_it() -> dict[str, Any] | None:
            run = self.run(run_id)
            over = run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            assert not over or run["state"]["name"] == name, run["state"]
            return run if run["state"]["name"] == name else None

        run = until(f"the run is {name}", is_it, 180)
        assert run is not None
        return run

    def log_of(self, run_id: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}}
        return "\n".join(line["message"] for line in self.call("POST", "/logs/filter", body))

    def cancel(self, run_id: str) -> None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.call("POST", f"/flow_runs/{run_id}/set_state", {"state": state})


@pytest.fixture(scope="module")
def api(prefect_address: str, environment: dict[str, str]) -> Iterator[Api]:
    """With every deployment of the project, and a worker that runs them."""
    prefect(environment, "work-pool", "create", "tikmatrix", "--type", "process")
    prefect(environment, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tikmatrix"]
    with (Path(HOME.name) / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            worker, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        yield Api(prefect_address)
        process.terminate()
        process.wait(timeout=30)


def test_every_flow_has_a_deployment_named_like_it() -> None:
    files = {path.stem for path in (ROOT / "flows").glob("[!_]*.py")}
    assert {
        entry["entrypoint"].partition("/")[2].partition(".py:")[0] for entry in ENTRIES
    } == files
    assert [entry["name"].replace("-", "_") for entry in ENTRIES] == [
        entry["entrypoint"].partition(":")[2] for entry in ENTRIES
    ]


def test_every_deployment_started_once_ends_completed(
    api: Api, environment: dict[str, str], simulator: Simulator
) -> None:
    """One after the other is started; they run side by side, each on a phone of its own."""

    def start(number: int, name: str) -> str:
        parameters = {"serials": [f"phone-{number}"], **PARAMETERS[name]}
        arguments = [f"{name}/{name}", "--params", json.dumps(parameters)]
        started = prefect(environment, "deployment", "run", *arguments)
        found = re.search(r"UUID: ([0-9a-f-]{36})", started)
        assert found, started
        return found[1]

    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(start, range(1, len(PARAMETERS) + 1), PARAMETERS))
    for run in runs:
        message = api.until_state(run, "Completed")["state"]["message"]
        assert "1 of 1 " in message
    done = {(job.serial, job.script_name) for job in simulator.jobs}
    assert {("phone-1", "account_warmup"), ("phone-1", "post"), ("phone-7", "login")} <= done
    assert len(simulator.jobs) == len(PARAMETERS) + 1
    bodies = simulator.requests.bodies("POST /task")
    warmup = next(body for body in bodies if body["serials"] == ["phone-1"])
    assert warmup["script_config"] == {"task_duration": 60, "floow_probable": 5}


def test_housekeeping_started_once_ends_completed(api: Api) -> None:
    names = ("retry-failed-jobs", "clean-up-jobs", "stop-orphans", "check-health")
    runs = [api.start(name) for name in names]
    messages = [api.until_state(run, "Completed")["state"]["message"] for run in runs]
    began = ("no failed job to run again", "0 old jobs deleted", "no orphans", "all is well")
    assert [message.startswith(words) for message, words in zip(messages, began, strict=True)] == [
        True
    ] * 4, messages


def test_the_daily_summary_started_once_tells_of_the_day_before(api: Api) -> None:
    yesterday = datetime.now().astimezone() - timedelta(days=1)
    run = api.until_state(api.start("daily-summary"), "Completed")
    assert run["state"]["message"].startswith(f"{yesterday:%a %Y-%m-%d}: ")
    assert run["name"] == f"summary of {yesterday:%Y-%m-%d}"


def test_deployments_are_as_the_file_says(api: Api) -> None:
    for entry in ENTRIES:
        deployment = api.deployment(entry["name"])
        assert deployment["description"] == entry["description"]
        assert deployment["tags"] == entry["tags"]
        assert (deployment["work_pool_name"], deployment["work_queue_name"]) == (
            "tikmatrix",
            "default",
        )
        assert deployment["enforce_parameter_schema"] is True
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_a_schedule_is_off_until_switched_on_and_then_shows_its_next_runs(api: Api) -> None:
    """By the clock of its own zone: 19 hours, whatever the season."""
    scheduled = [entry for entry in ENTRIES if "schedules" in entry]
    names = [entry["name"] for entry in scheduled if not entry["schedules"][0]["active"]]
    switches = []
    for name in names:
        deployment = api.deployment(name)
        (schedule,) = deployment["schedules"]
        assert schedule["active"] is False
        switches.append(f"/deployments/{deployment['id']}/schedules/{schedule['id']}")
    for path in switches:
        api.call("PATCH", path, {"active": True})
    for entry in scheduled:
        (schedule,) = entry["schedules"]
        minute, hour = map(int, schedule["cron"].split()[:2])

        def next_runs(name: str = entry["name"]) -> list[dict[str, Any]]:
            return [run for run in api.runs_of(name) if run["state_type"] == "SCHEDULED"]

        runs = until(f"next runs of {entry['name']}", next_runs)
        times = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
        assert {(time.hour, time.minute) for time in times} == {(hour, minute)}
        assert len({time.date() for time in times}) == len(times) >= 2
    for path in switches:
        api.call("PATCH", path, {"active": False})


def test_a_schedule_fires_and_fires_again(api: Api, simulator: Simulator) -> None:
    deployment = api.deployment("warm-up")
    path = f"/deployments/{deployment['id']}/schedules"
    every = {"interval": 15, "timezone": "UTC"}
    parameters = {"serials": ["phone-1"], **PARAMETERS["warm-up"]}
    before = len(simulator.jobs)
    (schedule,) = api.call("POST", path, [{"schedule": every, "parameters": parameters}])
    # Prefect's scheduler looks every minute, at deployments that were just updated sooner.
    touched = {"description": deployment["description"]}
    api.call("PATCH", f"/deployments/{deployment['id']}", touched)

    def completed() -> list[dict[str, Any]]:
        runs = [run for run in api.runs_of("warm-up") if run["auto_scheduled"]]
        return [run for run in runs if run["state_name"] == "Completed"]

    try:
        until("two runs by themselves", lambda: len(completed()) >= 2, 90)
    finally:
        api.call("DELETE", f"{path}/{schedule['id']}")
    times = [run["expected_start_time"] for run in completed()]
    assert len(set(times)) == len(times), "each slot once"
    assert len(simulator.jobs) >= before + 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"when_busy": "sometimes", "follow": {"target_users": ["x"]}},
        {"start_time": "25:00", "follow": {"target_users": ["x"]}},
        {"follow": {"target_users": ["x"], "unheard": 1}},
        {"serials": ["phone-1"]},
    ],
    ids=["choice", "time", "setting", "missing"],
)
def test_a_parameter_that_does_not_fit_is_refused_at_the_form(
    api: Api, parameters: dict[str, Any]
) -> None:
    before = len(api.runs_of("follow"))
    path = f"/deployments/{api.deployment('follow')['id']}/create_flow_run"
    assert api.answer("POST", path, {"parameters": parameters}).status_code == 409
    assert len(api.runs_of("follow")) == before


def test_a_zone_that_does_not_exist_is_refused(api: Api) -> None:
    path = f"/deployments/{api.deployment('follow')['id']}/schedules"
    schedule = {"cron": "0 19 * * *", "timezone": "Middle-earth/Shire"}
    assert api.answer("POST", path, [{"schedule": schedule}]).status_code == 422


def test_a_run_that_waits_for_phones_hears_a_cancellation(
    api: Api, environment: dict[str, str], simulator: Simulator
) -> None:
    """And a run that is cancelled leaves its phones to the next one."""
    done = command("limits", "--phones", "phone-5", PREFECT_API_URL=environment["PREFECT_API_URL"])
    assert done.returncode == 0, done.stderr
    limit = "/v2/concurrency_limits/tikmatrix-phone-phone-5"
    alone = {"serials": ["phone-5"], "exclusive_phones": True}
    simulator.engine.operator_create(
        "account_warmup", {"task_duration": 50_000}, serials=["phone-5"]
    )
    holder = api.start("warm-up", when_busy="wait", **alone)
    until("it waits for the open job", lambda: "waiting until the open jobs" in api.log_of(holder))
    waiting = api.start("post", **alone)
    until("it waits for the phone", lambda: "in use by another run" in api.log_of(waiting))
    assert api.call("GET", limit)["active_slots"] == 1
    jobs = len(simulator.jobs)

    for run in (waiting, holder):
        cancelled_at = time.monotonic()
        api.cancel(run)
        api.until_state(run, "Cancelled")
        assert time.monotonic() - cancelled_at < 25, "not killed after 30 s"
    assert api.call("GET", limit)["active_slots"] == 0
    assert len(simulator.jobs) == jobs


def test_serve_takes_the_same_deployments_from_one_process(
    api: Api, environment: dict[str, str], simulator: Simulator
) -> None:
    """The last of the module: deployments that a worker has are refused, so they are deleted."""
    serve = [sys.executable, "deployments/serve.py"]
    options: dict[str, Any] = {"cwd": ROOT, "env": environment}
    refused = subprocess.run(serve, capture_output=True, text=True, timeout=60, **options)
    assert refused.returncode == 1
    assert "deployed for a worker: warmup-then-post/warmup-then-post, post/post" in refused.stderr
    for entry in ENTRIES:
        api.call("DELETE", f"/deployments/{api.deployment(entry['name'])['id']}")

    log = Path(HOME.name) / "serve.log"
    before = len(simulator.jobs)
    with log.open("wb") as output:
        serving = subprocess.Popen(serve, stdout=output, stderr=subprocess.STDOUT, **options)
    try:

        def all_served() -> bool:
            assert serving.poll() is None, log.read_text("utf-8")
            return "are being served" in log.read_text("utf-8")

        until("all deployments are served", all_served)
        for entry in ENTRIES:
            deployment = api.deployment(entry["name"])
            assert deployment["work_pool_name"] is None
            assert deployment["description"] == entry["description"]
            assert deployment["parameters"] == entry.get("parameters", {})
            assert [schedule["active"] for schedule in deployment["schedules"]] == [
                schedule["active"] for schedule in entry.get("schedules", ())
            ]
            assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        run = api.start("warm-up", serials=["phone-2"], **PARAMETERS["warm-up"])
        api.until_state(run, "Completed")
        assert len(simulator.jobs) == before + 1
    finally:
        serving.terminate()
        serving.wait(timeout=30)
