"""`prefect-tikmatrix up` and `down`: a first evening with the UI, on loopback.

A simulated TikMatrix, a Prefect server, a work pool, a worker and all deployments, with a Prefect
home of their own, so that the user's is not touched. What `up` started, `down` ends, nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import httpx

from tikmatrix_tasks import processes
from tikmatrix_tasks.local_server import (
    free_port,
    quiet_environment,
    server_arguments,
    until_healthy,
)

DEPLOYMENTS = Path("deployments", "prefect.yaml")
HOME = Path(".prefect", "evening")
POOL = "tikmatrix"
PHONES = 6
SPEED = 60
START_SECONDS = 90.0


def run_up(root: Path | None = None) -> int:
    """Start what does not run yet and print the addresses. Returns 0, or 1 with the reason."""
    root = root or Path.cwd()
    if not (root / DEPLOYMENTS).is_file():
        print(f"up: there is no {DEPLOYMENTS} here; run it in the project's root", file=sys.stderr)
        return 1
    home = root.resolve() / HOME
    kept, addresses = processes.read(home / "processes.json"), home / "addresses.txt"
    if kept and all(processes.runs(process) for process in kept) and addresses.is_file():
        print("It is up already.\n" + addresses.read_text(encoding="utf-8"))
        return 0
    _end(kept)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    print("Starting a simulated TikMatrix, a Prefect server and a worker ...", flush=True)
    try:
        text = _start(root, home)
    except (RuntimeError, OSError, KeyboardInterrupt) as err:
        _end(processes.read(home / "processes.json"))
        print(f"up: {err or 'interrupted'}; the logs are in {home}", file=sys.stderr)
        return 1
    addresses.write_text(text, encoding="utf-8")
    print(text)
    return 0


def run_down(root: Path | None = None) -> int:
    """End what `up` started, the worker first. Returns 0."""
    home = (root or Path.cwd()).resolve() / HOME
    ended = _end(processes.read(home / "processes.json"))
    (home / "processes.json").unlink(missing_ok=True)
    print(f"Ended: {', '.join(ended)}." if ended else "Nothing of it runs.")
    return 0


def _end(kept: list[processes.Started]) -> list[str]:
    return [process.name for process in reversed(kept) if processes.end(process)]


def _start(root: Path, home: Path) -> str:
    prefect_port, tikmatrix_port = free_port(), free_port()
    prefect = f"http://127.0.0.1:{prefect_port}"
    tikmatrix = f"http://127.0.0.1:{tikmatrix_port}/api/v1"
    environment = quiet_environment(os.environ, home) | {
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_UI_API_URL": f"{prefect}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # Kept on disk, a lease is still known, and so freed in time, after a crash of the server.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL": tikmatrix,
        "PREFECT_INTEGRATIONS_TIKMATRIX_FAILURE_GRACE_SECONDS": "2",
        "PYTHONPATH": os.pathsep.join([str(root.resolve()), os.environ.get("PYTHONPATH", "")]),
    }
    started: list[processes.Started] = []

    def start(name: str, arguments: list[str], marker: str) -> None:
        process = processes.start(
            name, arguments, marker, environment, home / f"{name.replace(' ', '-')}.log"
        )
        started.append(process)
        processes.write(home / "processes.json", started)

    simulate = ["tikmatrix_tasks.cli", "simulate", "--port", str(tikmatrix_port)]
    state = home / "simulator.json"
    simulate += ["--phones", str(PHONES), "--speed", str(SPEED), "--state-file", str(state)]
    start("simulator", [*simulate, "--no-auto-retry"], str(state))
    server = server_arguments(prefect_port)
    start("Prefect server", server, f"--port {prefect_port} ")
    _until_answers("the simulator", f"{tikmatrix}/license/check", started[0])
    until_healthy(prefect, home / "Prefect-server.log", lambda: processes.runs(started[1]))
    _prefect(root, environment, "work-pool", "create", POOL, "--type", "process")
    _prefect(root, environment, "block", "register", "--module", "tikmatrix_tasks")
    _prefect(root, environment, "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
    name = f"evening-{uuid4()}"
    start("worker", ["prefect", "worker", "start", "--pool", POOL, "--name", name], name)
    return (
        f"Prefect    {prefect}/deployments\n"
        f"TikMatrix  {tikmatrix}  ({PHONES} phones, phone-1 to phone-{PHONES}, {SPEED} times as "
        "fast)\n"
        "Start a deployment there with serials such as phone-1. `down` in place of `up` ends it."
    )


def _prefect(root: Path, environment: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603 (this interpreter)
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=root,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise RuntimeError("\n".join([f"`prefect {' '.join(arguments)}` failed:", *last]))


def _until_answers(what: str, url: str, process: processes.Started) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and processes.runs(process):
        try:
            httpx.get(url, timeout=2, trust_env=False)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"{what} did not start")
