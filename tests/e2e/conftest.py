"""A simulated TikMatrix, a real Prefect server with the main flow deployed, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import HOME
from tests.e2e.prefect_ui import PrefectUi
from tests.real_worker import Process
from tests.test_deployment import ROOT, prefect
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.simulator import Options, Simulator

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
POOL = "tikmatrix"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable. Whoever asks for it comes before the server is started."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.exit(
        f"There is no browser here: none of {', '.join(BROWSERS)} can be found. "
        "On Debian: sudo apt install chromium",
        returncode=1,
    )


@pytest.fixture(scope="session")
def simulator(chromium: str) -> Iterator[Simulator]:
    """Six phones in real time; the warm-up on phone-4 fails. The same each time."""
    options = Options(
        phones=6, durations={"post": 8.0}, pickup_seconds=(0, 3), auto_retry=False, seed=1
    )
    with Simulator(options) as simulator:
        simulator.engine.fail_next(
            serial="phone-4", script_name="account_warmup", remark="element not found"
        )
        yield simulator


@pytest.fixture(scope="session")
def deployed(simulator: Simulator, prefect_address: str) -> Iterator[str]:
    """Prefect's address, with the deployment and a worker that runs it."""
    settings = {
        "BASE_URL": simulator.base_url,
        "POLL_INTERVAL_SECONDS": "0.5",
        "MAX_POLL_INTERVAL_SECONDS": "1",
        "FAILURE_GRACE_SECONDS": "0",
    }
    environment = quiet_environment(os.environ, Path(HOME.name)) | {
        "PREFECT_API_URL": f"{prefect_address}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
        **{f"PREFECT_INTEGRATIONS_TIKMATRIX_{name}": value for name, value in settings.items()},
    }
    prefect(environment, "work-pool", "create", POOL, "--type", "process")
    prefect(environment, "block", "register", "--module", "tikmatrix_tasks")
    file = ("--prefect-file", "deployments/prefect.yaml")
    prefect(environment, "deploy", "--name", "warmup-then-post", *file)
    arguments = ["prefect", "worker", "start", "--pool", POOL]
    worker = Process(arguments, environment, Path(HOME.name) / "worker.log")
    worker.start()
    yield prefect_address
    worker.close()


@pytest.fixture(scope="session")
def ui(chromium: str, deployed: str) -> Iterator[PrefectUi]:
    """A new browser that talks English and tells UTC."""
    flags = ["--disable-gpu", "--disable-background-networking"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium has none for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, locale="en-US", timezone_id="UTC"
        )
        yield PrefectUi(context.new_page(), deployed)
        browser.close()
