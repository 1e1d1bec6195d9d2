"""The command `prefect-tikmatrix`, as a person runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import HOME, StartSimulator
from tikmatrix_tasks.local_server import free_port, quiet_environment
from tikmatrix_tasks.simulator import Simulator

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "tikmatrix_tasks.cli"]


def environment(**more: str) -> dict[str, str]:
    return (
        quiet_environment(os.environ, Path(HOME.name))
        | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        | more
    )


def command(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


@contextmanager
def simulate(*arguments: str) -> Iterator[httpx.Client]:
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "simulate", "--port", str(port), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        assert str(port) in first_line
        base_url = f"http://127.0.0.1:{port}/api/v1"
        with httpx.Client(base_url=base_url, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_vendors_quick_start_answers_as_documented() -> None:
    """Whoever knows the vendor's page finds the same here."""
    options = ("--phones", "10", "--speed", "60", "--plan", "Pro", "--seed", "1")
    with simulate(*options) as client:
        licence = client.get("/license/check").json()
        assert (licence["code"], licence["message"]) == (0, "success")
        assert licence["data"]["plan_name"] == "Pro"
        assert licence["data"]["api_enabled"] is True
        created = client.post(
            "/task",
            json={
                "serials": ["phone-1", "phone-2"],
                "script_name": "post",
                "script_config": {"content_type": 1, "captions": "Hello"},
                "enable_multi_account": False,
                "start_time": "23:59",
            },
        ).json()
        assert created["code"] == 0
        assert created["data"]["created_count"] == len(created["data"]["task_ids"]) == 2
        listed = client.get("/task?status=0&page=1&page_size=20").json()
        assert listed["data"]["total"] == 2
        assert {row["id"] for row in listed["data"]["tasks"]} == set(created["data"]["task_ids"])


def test_every_code_can_be_provoked() -> None:
    with simulate("--fault", "GET /task/stats=internal_error_before") as client:
        bodies: list[tuple[dict[str, object], int]] = [
            ({"serials": ["phone-1"], "script_name": "follow", "script_config": {}}, 40001),
            ({"serials": ["phone-1"], "script_config": {}}, 40002),
            ({"serials": ["phone-1"], "script_name": "like", "script_config": {}}, 40003),
        ]
        for body, code in bodies:
            assert client.post("/task", json=body).json()["code"] == code
        assert client.get("/task/4711").json()["code"] == 40401
        assert client.get("/task/stats").json()["code"] == 50001
        assert client.get("/task/stats").json()["code"] == 0
    with simulate("--plan", "Starter") as client:
        assert client.get("/license/check").json()["code"] == 40301


def test_the_demo_ends_well_and_prints_no_noise() -> None:
    """The first thing a newcomer sees: one phone fails on purpose, the rest post."""
    done = command("demo")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "5 of 6 phones posted; phone-4: warm-up failed (element not found)" in output
    rows = [line.split("│") for line in output.splitlines() if line.startswith("│")]
    became = {row[1].strip(): (row[2].strip(), row[3].strip()) for row in rows}
    assert became.pop("phone-4") == ("failed", "not started")
    assert list(became.values()) == [("completed", "completed")] * 5
    for noise in ("Traceback", "Warning", "warning", "ERROR", "Error"):
        assert noise not in output


def test_check_says_what_is_there(simulator: Simulator) -> None:
    done = command("check", "--base-url", simulator.base_url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"ok       TikMatrix answers at {simulator.base_url}"
    assert lines[1] == "ok       plan Pro, up to 20 phones"
    assert "note     Prefect" in done.stdout
    assert "prefect server start" in done.stdout


def test_check_sees_the_prefect_api_and_the_block_type(
    simulator: Simulator, prefect_address: str
) -> None:
    done = command(
        "check", "--base-url", simulator.base_url, PREFECT_API_URL=f"{prefect_address}/api"
    )
    assert done.returncode == 0, done.stderr
    assert f"API at {prefect_address}/api" in done.stdout
    assert "block type is" in done.stdout


def test_check_names_what_is_missing_and_the_remedy(start_simulator: StartSimulator) -> None:
    base_url = f"http://127.0.0.1:{free_port()}/api/v1"
    nobody = f"http://127.0.0.1:{free_port()}/api"
    done = command("check", "--base-url", base_url, PREFECT_API_URL=nobody)
    assert done.returncode == 1
    assert "is TikMatrix running" in done.stdout
    assert "prefect-tikmatrix simulate" in done.stdout
    assert f"Prefect's API does not answer at {nobody}" in done.stdout
    assert "Traceback" not in done.stderr

    starter = start_simulator(plan="Starter")
    done = command("check", "--base-url", starter.base_url)
    assert done.returncode == 1
    assert "needs a Pro, Team or Business plan" in done.stdout

    older = start_simulator(accounts_endpoint=False)
    done = command("check", "--base-url", older.base_url)
    assert done.returncode == 0
    assert "note     it does not list accounts" in done.stdout

    done = command("check", "--base-url", "ftp://x")
    assert done.returncode == 1
    assert "base_url: must begin with http" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["simulate", "--phones", "none"]])
def test_wrong_arguments_are_explained(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "usage: prefect-tikmatrix" in done.stderr


def test_simulate_ends_on_ctrl_c_without_a_traceback() -> None:
    if os.name == "nt":
        pytest.skip("a console event cannot be sent to one process here")
    import signal

    process = subprocess.Popen(
        [*COMMAND, "simulate", "--port", str(free_port())],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_up_starts_an_evening_once_and_down_ends_it(tmp_path: Path) -> None:
    """And nothing else: a process that has got the id of one that is gone is left alone."""

    def run(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, what],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    nothing_here = run("up")
    assert nothing_here.returncode == 1
    assert "run it in the project's root" in nothing_here.stderr
    for folder in ("deployments", "flows"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    try:
        up = run("up")
        assert up.returncode == 0, up.stderr
        prefect, base_url = re.findall(r"http://127[^ /]+", up.stdout)
        again = run("up")
        assert again.stdout.startswith("It is up already.")
        assert prefect in again.stdout
        deployments = f"{prefect}/api/deployments/filter"
        assert len(httpx.post(deployments, json={}, trust_env=False).json()) >= 7
        licence = httpx.get(f"{base_url}/api/v1/license/check", trust_env=False).json()
        assert licence["code"] == 0
        workers = f"{prefect}/api/work_pools/tikmatrix/workers/filter"
        deadline = time.monotonic() + 30
        while not httpx.post(workers, json={}, trust_env=False).json():
            assert time.monotonic() < deadline, "no worker"
            time.sleep(0.2)

        kept = tmp_path / ".prefect" / "evening" / "processes.json"
        started = json.loads(kept.read_text("utf-8"))
        assert len(started) == 3
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        stale = {"name": "gone", "pid": bystander.pid, "marker": "--port 1 "}
        kept.write_text(json.dumps([*started, stale]), "utf-8")
    finally:
        down = run("down")
    assert down.stdout == "Ended: worker, Prefect server, simulator.\n", down.stderr
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    for url in (prefect, base_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)
    assert run("down").stdout == "Nothing of it runs.\n"
