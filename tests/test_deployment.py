"""The flow as it runs in production: deployed, started by the command line, run by a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import HOME
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.simulator import Simulator

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environment(prefect_api: str, simulator: Simulator) -> dict[str, str]:
    """What a worker has: where Prefect is, and where TikMatrix is."""
    return quiet_environment(os.environ, Path(HOME.name)) | {
        "PREFECT_API_URL": prefect_api,
        "PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL": simulator.base_url,
        "PREFECT_INTEGRATIONS_TIKMATRIX_POLL_INTERVAL_SECONDS": "0.1",
        "PREFECT_INTEGRATIONS_TIKMATRIX_MAX_POLL_INTERVAL_SECONDS": "0.2",
        "PREFECT_INTEGRATIONS_TIKMATRIX_FAILURE_GRACE_SECONDS": "0",
        "PYTHONPATH": str(ROOT),
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


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[None]:
    prefect(environment, "work-pool", "create", "tikmatrix", "--type", "process")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tikmatrix"]
    with (Path(HOME.name) / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        yield
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.usefixtures("worker")
def test_a_deployed_flow_runs_to_completed(
    environment: dict[str, str], simulator: Simulator
) -> None:
    prefect(environment, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    parameters = {
        "serials": ["phone-1", "phone-2"],
        "warmup": {"task_duration": 60, "follow_probability": 5},
        "post": {"captions": "Hi", "material_list": ["C:/v.mp4"]},
    }
    started = prefect(
        environment,
        "deployment",
        "run",
        "warmup-then-post/warmup-then-post",
        "--params",
        json.dumps(parameters),
        "--watch",
        "--watch-interval",
        "1",
    )
    assert "Completed" in started
    assert sorted(job.serial for job in simulator.jobs if job.script_name == "post") == [
        "phone-1",
        "phone-2",
    ]
    warmup, *_ = simulator.requests.bodies("POST /task")
    assert warmup["script_config"] == {"task_duration": 60, "floow_probable": 5}
