"""What `warmup_then_post` over many phones costs beyond the phones' own time, and where it goes.

The flow runs in a process of its own, as under a worker; the simulator is in the process that
measures, Prefect's server in a third. The phones are faster than in life and the poll intervals
shorter by as much, so ends come that much denser: what is measured is more than life would show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.profile import Profile, all_threads, attributed, can_be_measured
from tikmatrix_tasks import AccountWarmup, Post, TikMatrix
from tikmatrix_tasks.local_server import prefect_server, quiet_environment
from tikmatrix_tasks.settings import TikMatrixSettings
from tikmatrix_tasks.simulator import ENDPOINTS, Job, Options, Simulator

SPEED = 5.0
WARMUP_SECONDS = 200
PLACES = 10
_MOST_SECONDS = 300


@dataclass(frozen=True)
class Overhead:
    """Real seconds of one run of the flow."""

    phones: int
    wall: float
    phones_own: float
    """The longest that one phone had jobs, from a job's creation to its end, waiting aside."""
    before_warmups: float
    """From the beginning of the flow until the last warm-up was created."""
    between: tuple[float, ...]
    """For each phone, from the end of its warm-up until its post was created."""
    after_posts: float
    """From the end of the last post until the flow had ended."""
    cpu: float
    requests: dict[str, int]
    """By endpoint."""
    profile: Profile | None

    @property
    def beyond(self) -> float:
        return self.wall - self.phones_own


def poll_intervals() -> tuple[float, float]:
    """The default shortest and longest, shortened as the phones' time is."""
    fields = TikMatrixSettings.model_fields
    names = ("poll_interval_seconds", "max_poll_interval_seconds")
    shortest, longest = (float(fields[name].default) / SPEED for name in names)
    return shortest, longest


def measure(phones: int, *, profiled: bool) -> Overhead:
    """Run the flow once, against a Prefect server and a TikMatrix that are up only for it."""
    options = Options(phones=phones, device_limit=phones, speed=SPEED, auto_retry=False)
    with (
        tempfile.TemporaryDirectory(prefix="tikmatrix-bench-", ignore_cleanup_errors=True) as home,
        Simulator(options) as simulator,
    ):
        environment = quiet_environment(os.environ, Path(home))
        environment["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
        with prefect_server(environment, Path(home)) as prefect:
            environment["PREFECT_API_URL"] = f"{prefect}/api"
            run = _run_elsewhere(environment, simulator.base_url, phones, profiled=profiled)
        began = _simulated_second(simulator, run["began_at"])
        ended = _simulated_second(simulator, run["ended_at"])
        return _overhead(simulator, phones, began, ended, run)


def _run_elsewhere(
    environment: dict[str, str], base_url: str, phones: int, *, profiled: bool
) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead"],
        input=json.dumps({"base_url": base_url, "phones": phones, "profiled": profiled}),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the flow did not end well:\n{done.stderr[-2000:]}")
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return run


def _simulated_second(simulator: Simulator, monotonic: float) -> float:
    return simulator.engine.now() - (time.monotonic() - monotonic) * SPEED


def _overhead(
    simulator: Simulator, phones: int, began: float, ended: float, run: dict[str, Any]
) -> Overhead:
    warmups = _by_phone(simulator, AccountWarmup.script_name)
    posts = _by_phone(simulator, Post.script_name)
    own = [_took(warmups[serial]) + _took(posts[serial]) for serial in warmups]
    between = [posts[serial].due_at - _end(warmups[serial]) for serial in warmups]
    return Overhead(
        phones=phones,
        wall=(ended - began) / SPEED,
        phones_own=max(own) / SPEED,
        before_warmups=(max(job.due_at for job in warmups.values()) - began) / SPEED,
        between=tuple(sorted(seconds / SPEED for seconds in between)),
        after_posts=(ended - max(map(_end, posts.values()))) / SPEED,
        cpu=run["cpu_seconds"],
        requests={
            call: sent for call in sorted(ENDPOINTS) if (sent := simulator.requests.count(call))
        },
        profile=run["profile"],
    )


def _by_phone(simulator: Simulator, script_name: str) -> dict[str, Job]:
    return {job.serial: job for job in simulator.jobs if job.script_name == script_name}


def _end(job: Job) -> float:
    if job.ended_at is None:
        raise RuntimeError(f"job {job.id} did not end, so the run was not whole")
    return job.ended_at


def _took(job: Job) -> float:
    return _end(job) - job.due_at


def _run_here() -> None:
    """In the flow's own process: run it, and print what can be known only here."""
    from flows.warmup_then_post import warmup_then_post

    task = json.load(sys.stdin)
    shortest, longest = poll_intervals()
    arguments: dict[str, Any] = {
        "serials": [f"phone-{number}" for number in range(1, task["phones"] + 1)],
        "warmup": AccountWarmup(task_duration=WARMUP_SECONDS),
        "post": Post(material_list=["C:/videos/v.mp4"]),
        "success": "all",
        "max_jobs": task["phones"],
        "tikmatrix": TikMatrix(
            base_url=task["base_url"],
            poll_interval_seconds=shortest,
            max_poll_interval_seconds=longest,
            failure_grace_seconds=0,
        ),
    }
    profile = None
    began_at, cpu_began = time.monotonic(), time.process_time()
    if task["profiled"] and can_be_measured():
        with all_threads() as profiles:
            state = warmup_then_post(**arguments, return_state=True)
        ended_at, cpu_ended = time.monotonic(), time.process_time()
        profile = attributed(profiles, PLACES)
    else:
        state = warmup_then_post(**arguments, return_state=True)
        ended_at, cpu_ended = time.monotonic(), time.process_time()
    if not state.is_completed():
        raise RuntimeError(f"the flow ended as {state.name}: {state.message}")
    print(
        json.dumps(
            {
                "began_at": began_at,
                "ended_at": ended_at,
                "cpu_seconds": cpu_ended - cpu_began,
                "profile": profile,
            }
        )
    )


if __name__ == "__main__":
    _run_here()
