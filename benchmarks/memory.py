"""The memory of a process that waits, over the same process with nothing to do.

A real process and real HTTP: the simulator is in the process that measures, the wait in one of its
own. Linux only, where a process can read its own peak.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.strategies import poll_counters, poll_each
from tikmatrix_tasks import Batch, TikMatrixClient
from tikmatrix_tasks.simulator import Options, Simulator
from tikmatrix_tasks.waiting import Pace, follow
from tikmatrix_tasks.watcher import Watcher

SPEED = 300.0
INTERVAL_SECONDS = 0.05
PHONES = 100

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """What a waiting process held at most, over what it held before the wait."""

    strategy: str
    jobs: int
    waits: int
    idle_bytes: int
    peak_bytes: int

    @property
    def over_idle_bytes(self) -> int:
        return self.peak_bytes - self.idle_bytes


def can_be_measured() -> bool:
    return _STATUS.exists()


def measure(strategy: str, jobs: int, waits: int) -> Memory:
    """Let a process of its own wait for simulated jobs, and have it tell its peak."""
    options = Options(phones=PHONES, device_limit=PHONES, speed=SPEED, auto_retry=False)
    with Simulator(options) as simulator:
        serials = [f"phone-{number}" for number in range(1, PHONES + 1)]
        job_ids: list[int] = []
        while len(job_ids) < jobs:
            some = serials[: jobs - len(job_ids)]
            body = {"serials": some, "script_name": "post", "script_config": {}}
            job_ids += simulator.engine.create(body)
        task: dict[str, object] = {"base_url": simulator.base_url, "strategy": strategy}
        task |= {"job_ids": job_ids, "waits": waits}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    return Memory(strategy, jobs, waits, **json.loads(done.stdout))


def _wait_here() -> None:
    idle_bytes = _own_bytes("VmRSS")
    task = json.load(sys.stdin)
    parts = [task["job_ids"][first :: task["waits"]] for first in range(task["waits"])]
    asyncio.run(_WAITS[task["strategy"]](task["base_url"], parts))
    print(json.dumps({"idle_bytes": idle_bytes, "peak_bytes": _own_bytes("VmHWM")}))


async def _ours(base_url: str, parts: Sequence[Sequence[int]]) -> None:
    watcher = Watcher(lambda: TikMatrixClient(base_url))
    pace = Pace(
        poll_interval_seconds=INTERVAL_SECONDS,
        max_poll_interval_seconds=INTERVAL_SECONDS,
        failure_grace_seconds=0,
    )
    reports = await asyncio.gather(
        *(follow(watcher, Batch.of(part), pace, timeout_seconds=200) for part in parts)
    )
    if not all(report.ok for report in reports):
        raise RuntimeError("a job did not complete, so this is not the memory of the whole wait")


async def _each(base_url: str, parts: Sequence[Sequence[int]]) -> None:
    async with TikMatrixClient(base_url) as client:
        await asyncio.gather(
            *(poll_each(client, part, INTERVAL_SECONDS, lambda job_id: None) for part in parts)
        )


async def _vendor(base_url: str, parts: Sequence[Sequence[int]]) -> None:
    async with TikMatrixClient(base_url) as client:
        await asyncio.gather(
            *(poll_counters(client, part, INTERVAL_SECONDS, lambda job_id: None) for part in parts)
        )


_WAITS = {"ours": _ours, "each": _each, "vendor": _vendor}


def _own_bytes(name: str) -> int:
    """A line of the kernel's account of this process: VmRSS is what it holds, VmHWM its peak."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {name}")


if __name__ == "__main__":
    _wait_here()
