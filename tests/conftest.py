"""What tests share: a simulated TikMatrix, a block that leads to it, and a real Prefect server.

Prefect reads its settings when it is imported, so they are set before anything imports it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HOME = tempfile.TemporaryDirectory(prefix="prefect-tikmatrix-tests-", ignore_cleanup_errors=True)
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
os.environ["PREFECT_HOME"] = HOME.name
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"  # tasks may run without a flow

import pytest  # noqa: E402 (after the settings)
from prefect.logging.handlers import APILogWorker  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402

from tests.odd_server import OddServer  # noqa: E402
from tikmatrix_tasks import TikMatrix  # noqa: E402
from tikmatrix_tasks.local_server import prefect_server, quiet_environment  # noqa: E402
from tikmatrix_tasks.simulator import Dialect, Options, Simulator  # noqa: E402

PHONES = ["phone-1", "phone-2", "phone-3"]
StartSimulator = Callable[..., Simulator]
"""Starts a simulator with some options changed; the fixture ends it."""


@pytest.fixture
def start_simulator() -> Iterator[StartSimulator]:
    started: list[Simulator] = []

    def start(*, dialect: Dialect | None = None, **options: object) -> Simulator:
        usual = {"phones": 3, "speed": 500.0, "auto_retry": False, "seed": 1}
        simulator = Simulator(Options(**(usual | options)), dialect=dialect or Dialect())  # type: ignore[arg-type]  # options by name
        started.append(simulator)
        simulator.start()
        return simulator

    yield start
    for simulator in started:
        simulator.close()


@pytest.fixture
def simulator(start_simulator: StartSimulator) -> Simulator:
    """Three phones, 500 simulated seconds per second, nothing fails by itself."""
    return start_simulator()


def block_for(base_url: str, **fields: object) -> TikMatrix:
    """A block with intervals for tests; no grace, because the simulator has Auto Retry off."""
    usual: dict[str, object] = {
        "timeout_seconds": 5,
        "poll_interval_seconds": 0.05,
        "max_poll_interval_seconds": 0.1,
        "failure_grace_seconds": 0,
        "outage_budget_seconds": 3,
        "settle_seconds": 0.3,
    }
    return TikMatrix.model_validate({"base_url": base_url, **usual, **fields})


@pytest.fixture
def tikmatrix(simulator: Simulator) -> TikMatrix:
    return block_for(simulator.base_url)


@pytest.fixture
def odd_server() -> Iterator[OddServer]:
    """A server that answers just what a test tells it to."""
    with OddServer() as server:
        yield server


@pytest.fixture(scope="session")
def prefect_address() -> Iterator[str]:
    """A real Prefect server, one for all tests: it takes long to start."""
    home = Path(HOME.name) / "server"
    home.mkdir()
    # Events are kept at once: by default they are collected for 5 s.
    prompt = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.1"}
    with prefect_server(quiet_environment(os.environ, home) | prompt, home) as address:
        yield address
        APILogWorker.drain_all(timeout=10)  # before the server that it sends to is gone


@pytest.fixture
def prefect_api(prefect_address: str) -> Iterator[str]:
    """Let flows and tasks of this process talk to that server."""
    api = f"{prefect_address}/api"
    with temporary_settings({PREFECT_API_URL: api}):
        yield api
