"""`prefect-tikmatrix demo`: the main job on simulated phones, with a temporary Prefect server.

It runs in a process of its own, because Prefect reads its settings when it is imported and the
user's own are not to be touched.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.table import Table

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import EndedBadly, TikMatrixError
from tikmatrix_tasks.jobs import JobReport, JobStatus, Outcome, Report
from tikmatrix_tasks.local_server import prefect_server, quiet_environment
from tikmatrix_tasks.scripts import AccountWarmup, Post
from tikmatrix_tasks.simulator import Options, Simulator

PHONES = 6
SPEED = 60.0
WARMUP_SECONDS = 300
SCRIPT_WORDS = {"account_warmup": "warm-up", "post": "post"}


def run_demo(*, ui: bool) -> int:
    """Run the demo with a temporary Prefect home, and return its exit code."""
    with tempfile.TemporaryDirectory(
        prefix="prefect-tikmatrix-", ignore_cleanup_errors=True
    ) as home:
        environment = quiet_environment(os.environ, Path(home))
        # One phone fails on purpose. Its run is shown in the table, not as a log of errors.
        environment["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
        command = [sys.executable, "-m", "tikmatrix_tasks.demo", *(["--ui"] if ui else [])]
        process = subprocess.Popen(command, env=environment)  # noqa: S603 (this interpreter)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the demo got it too, ends what it started and then itself


def _main(ui: bool) -> int:
    console = Console()
    home = Path(os.environ["PREFECT_HOME"])
    print("Starting a simulated TikMatrix and a temporary Prefect server ...", flush=True)
    options = Options(phones=PHONES, speed=SPEED, auto_retry=False, seed=1)
    with Simulator(options) as simulator, prefect_server(os.environ, home) as prefect:
        simulator.engine.fail_next(
            serial="phone-4", script_name=AccountWarmup.script_name, remark="element not found"
        )
        print(f"TikMatrix  {simulator.base_url}  ({PHONES} phones, {SPEED:g} times as fast)")
        print(f"Prefect    {prefect}")
        print(
            f"\nwarmup_then_post: {WARMUP_SECONDS // 60} minutes of warm-up on each phone, then a "
            "post where it completed\n",
            flush=True,
        )
        report, sentence = _run_flow(simulator, prefect)
        console.print(_table(report))
        print(f"\n{sentence}\n")
        print("Where to look next:")
        if not ui:
            print("  prefect-tikmatrix demo --ui   the same, and Prefect's UI in the browser")
        print("  prefect-tikmatrix check       is your own TikMatrix reachable?")
        print("  README.md                     the same flow on your own phones")
        if ui:
            _keep_up(f"{prefect}/runs")
    return 0


def _run_flow(simulator: Simulator, prefect: str) -> tuple[Report, str]:
    flow: Any = load_flow_from_entrypoint(f"{_flow_file()}:warmup_then_post")
    tikmatrix = TikMatrix(
        base_url=simulator.base_url, poll_interval_seconds=0.3, failure_grace_seconds=0
    )
    arguments: dict[str, Any] = {
        "serials": [f"phone-{number}" for number in range(1, PHONES + 1)],
        "warmup": AccountWarmup(task_duration=WARMUP_SECONDS, topics=["cooking"]),
        "post": Post(captions="Hello from Prefect", material_list=["C:/videos/hello.mp4"]),
        "tikmatrix": tikmatrix,
    }
    with (
        temporary_settings({PREFECT_API_URL: f"{prefect}/api"}),
        _progress(simulator.base_url),
    ):
        state = flow(**arguments, return_state=True)
    result = state.result(raise_on_failure=False)
    return (result.report if isinstance(result, EndedBadly) else result), str(state.message)


def _flow_file() -> Path:
    """The flow's file: beside this module in an installed package, else in the project's root."""
    installed = Path(__file__).with_name("_flows") / "warmup_then_post.py"
    root = Path(__file__).resolve().parents[1]
    return installed if installed.exists() else root / "flows" / "warmup_then_post.py"


@contextmanager
def _progress(base_url: str) -> Iterator[None]:
    """Print a line whenever a job's status changes, read as anybody would read it: by the API."""
    over = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_print_changes(base_url, over)))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _print_changes(base_url: str, over: threading.Event) -> None:
    started = time.monotonic()
    shown: dict[int, int] = {}
    async with TikMatrixClient(base_url) as client:
        last_look = False
        while not last_look:
            last_look = over.is_set()  # what ended just before is shown too
            try:
                jobs = [job async for job in client.iter_jobs()]
            except TikMatrixError:
                jobs = []
            for job in sorted(jobs, key=lambda job: job.id):
                if shown.get(job.id) != job.status:
                    shown[job.id] = job.status
                    script = SCRIPT_WORDS.get(job.script_name or "", job.script_name)
                    status = JobStatus(job.status).name.lower()
                    why = f"  ({job.remark})" if job.remark else ""
                    at = f"{time.monotonic() - started:5.1f} s"
                    print(f"{at}  {job.serial:<9} {script:<8} {status}{why}", flush=True)
            if not last_look:
                await asyncio.sleep(0.2)


def _table(report: Report) -> Table:
    table = Table(title="What became of each phone", title_justify="left")
    for heading in ("phone", *SCRIPT_WORDS.values(), "why"):
        table.add_column(heading)
    by_phone: dict[str, dict[str, JobReport]] = {}
    for job in report.jobs:
        by_phone.setdefault(job.owner or "?", {})[job.script_name or "?"] = job
    for phone, jobs in sorted(by_phone.items()):
        outcomes = [jobs[script].outcome.value for script in SCRIPT_WORDS if script in jobs]
        why = [job.remark for job in jobs.values() if job.outcome is not Outcome.COMPLETED]
        table.add_row(phone, *outcomes, why[-1] if why else "")
    return table


def _keep_up(address: str) -> None:
    print(f"\nPrefect's UI is up at {address} until you press Ctrl-C.", flush=True)
    webbrowser.open(address)
    try:
        while True:
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("Ended.")


if __name__ == "__main__":
    try:
        sys.exit(_main(ui="--ui" in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
