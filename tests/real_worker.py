"""Prefect and TikMatrix as they are in production: processes of their own that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tikmatrix_tasks.local_server import free_port

ROOT = Path(__file__).parents[1]
POOL = "real-crashes"
# An end to hopeless waits, no measure of speed. A Prefect client whose server answers 503, because
# its database is locked for a moment, waits for 2 s, then twice as long each time, up to 32 s.
PATIENCE_SECONDS = 180.0
R = TypeVar("R")


def until(what: str, look: Callable[[], R], within_seconds: float = PATIENCE_SECONDS) -> R:
    """Look until there is something to see, and return it; `what` it is goes into the error."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if seen := look():
                return seen
        except httpx.TransportError:  # being started, or restarted
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {within_seconds:g} s: {what}")


class Process:
    """A process of this interpreter, that logs to a file and can be killed and started again."""

    def __init__(self, arguments: Iterable[str], environment: dict[str, str], log: Path) -> None:
        self._command = [sys.executable, "-m", *arguments]
        self._environment, self.log = environment, log
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def close(self) -> None:
        if self._running is not None:
            self._running.terminate()
            try:
                self._running.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()


class SimulatorProcess(Process):
    """`prefect-tikmatrix simulate`. Its phones begin at once; nothing fails by itself."""

    def __init__(self, folder: Path, options: Iterable[str]) -> None:
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}/api/v1"
        arguments = ["tikmatrix_tasks.cli", "simulate", "--port", str(port), "--verbose"]
        arguments += ["--state-file", str(folder / f"{port}.json"), "--no-auto-retry"]
        arguments += ["--pickup", "0", "0", *options]
        super().__init__(arguments, dict(os.environ), folder / f"{port}.log")

    def has_met(self, request: str) -> bool:
        """Whether such a request, as `GET /api/v1/task`, has met a fault."""
        lines = self.log.read_text().splitlines()
        return any(line.startswith(f"{request} ") and "(fault: " in line for line in lines)

    def rows(self) -> list[dict[str, Any]]:
        query = {"page_size": "100"}
        answer = httpx.get(f"{self.base_url}/task", params=query, timeout=5, trust_env=False)
        rows: list[dict[str, Any]] = answer.json()["data"]["tasks"]
        return rows

    def jobs(self) -> list[tuple[str, str]]:
        """Serial and script of each job there is; the same twice was created twice."""
        return sorted((row["serial"], row["script_name"]) for row in self.rows())

    def statuses(self) -> list[int]:
        return sorted(row["status"] for row in self.rows())


class PrefectServer(Process):
    """Prefect's API; started again, it has the same address and the same database."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        arguments = ["uvicorn", "--factory", "--log-level", "error", "--port", str(port)]
        arguments += ["prefect.server.api.server:create_app"]
        super().__init__(arguments, environment, log)

    def start(self) -> None:
        super().start()
        until("Prefect's server answers", lambda: self.call("GET", "/health"), 90)

    def call(self, method: str, path: str, body: object = None) -> Any:
        deadline = time.monotonic() + 30
        while True:
            answer = httpx.request(method, self.api + path, json=body, timeout=30, trust_env=False)
            # 503: its database is locked for the moment. Prefect's own client asks again, too.
            if answer.status_code != 503 or time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        answer.raise_for_status()
        return answer.json()


@dataclass
class Production:
    """A Prefect server, and the environment of one worker that runs what is deployed."""

    server: PrefectServer
    environment: dict[str, str]
    _deployments: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> None:
        """Run `prefect` on the command line."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def worker(self, log: Path) -> Iterator[None]:
        self.server.call("POST", "/work_pools/", {"name": POOL, "type": "process"})
        worker = Process(["prefect", "worker", "start", "--pool", POOL], self.environment, log)
        try:
            worker.start()
            yield
        finally:
            worker.close()

    def start(self, entrypoint: str, tikmatrix: SimulatorProcess, **parameters: object) -> Run:
        """Start a flow from its deployment."""
        variables = {
            "PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL": tikmatrix.base_url,
            "FREEZE_FILE": str(freeze_file(tikmatrix)),
        }
        created = self.server.call(
            "POST",
            f"/deployments/{self._deployments[entrypoint]}/create_flow_run",
            {"parameters": parameters, "job_variables": {"env": variables}},
        )
        return Run(self, created["id"])

    def deploy(self, entrypoint: str) -> None:
        name = entrypoint.partition(":")[2]
        flow = self.server.call("POST", "/flows/", {"name": name.replace("_", "-")})
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
        deployment = self.server.call(
            "POST",
            "/deployments/",
            {
                "name": name,
                "flow_id": flow["id"],
                "entrypoint": entrypoint,
                "pull_steps": [step],
                "work_pool_name": POOL,
            },
        )
        self._deployments[entrypoint] = deployment["id"]


def freeze_file(tikmatrix: SimulatorProcess) -> Path:
    """While it exists, `FreezingStorage` writes no batch; `.reached` tells that it would have."""
    return tikmatrix.log.with_suffix(".freeze")


@dataclass(frozen=True)
class Table:
    description: str
    rows: list[dict[str, Any]]

    @property
    def statuses(self) -> list[str]:
        return sorted(row["status"] for row in self.rows)


@dataclass
class Run:
    """A flow run."""

    production: Production
    id: str

    @property
    def state(self) -> str:
        return str(self._read()["state"]["name"])

    def until_it_is(self, state: str) -> None:
        self.until(f"state {state}", lambda: self.state == state)

    def until(
        self, what: str, look: Callable[[], R], within_seconds: float = PATIENCE_SECONDS
    ) -> R:
        """As the function; the error shows the run's log."""
        try:
            return until(what, look, within_seconds)
        except AssertionError as err:
            raise AssertionError(f"{err}; the run is {self.state}\n{self.log()}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the run's own process."""
        os.kill(int(str(self._read()["infrastructure_pid"]).rpartition(":")[2]), number)

    def kill_and_see_it_crash(self) -> None:
        self.signal(signal.SIGKILL)
        self.until_it_is("Crashed")

    def retry(self) -> None:
        """As a person does, not before Prefect's worker is done with the crash."""
        # It reports a crash twice, the second time after its hooks: 5 s later, a retry or not.
        report = "Check whether the flow run exceeded"
        self.until("the worker is done with the crash", lambda: report in self.log())
        self.production.command("flow-run", "retry", self.id)

    def cancel(self) -> None:
        """What the command sends, without the seconds that it takes to start."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        path = f"/flow_runs/{self.id}/set_state"
        answer = self.production.server.call("POST", path, {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def cancel_by_command(self) -> None:
        self.production.command("flow-run", "cancel", self.id)

    def log(self) -> str:
        body = {"logs": {"flow_run_id": {"any_": [self.id]}}, "sort": "TIMESTAMP_ASC"}
        lines = self.production.server.call("POST", "/logs/filter", body)
        return "\n".join(line["message"] for line in lines)

    def table(self) -> Table:
        """The table of the run's jobs, as the UI shows it."""
        wanted = {"flow_run_id": {"any_": [self.id]}, "type": {"any_": ["table"]}}
        body = {"artifacts": {"operator": "and_", **wanted}}
        (table,) = self.production.server.call("POST", "/artifacts/filter", body)
        return Table(table["description"], json.loads(table["data"]))

    def told(self, event: str) -> list[Any]:
        """The payloads of the run's events of this name."""
        wanted = {"event": {"name": [event]}, "related": {"id": [f"prefect.flow-run.{self.id}"]}}
        found = self.production.server.call("POST", "/events/filter", {"filter": wanted})
        return [kept["payload"] for kept in found["events"]]

    def _read(self) -> dict[str, Any]:
        run: dict[str, Any] = self.production.server.call("GET", f"/flow_runs/{self.id}")
        return run
