"""`make bench`: measure all, print it, and write it under `benchmarks/results/`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import memory, overhead, plot, profile, promises, tables
from benchmarks.scenario import Figures, Work
from benchmarks.strategies import requests_when_joining, requests_while_still, side_by_side
from tikmatrix_tasks import count_of

RESULTS = Path(__file__).parent / "results"
OLD_JOBS = 100_000
MOST_SENT = 40_000
"""What would take more requests is counted, except for one work that shows what sending takes."""
SENT_WHOLE = Work(1_000)


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    command: str
    results: Path
    works: tuple[Work, ...]
    memory: tuple[tuple[str, int, int], ...]
    """Strategy, jobs, waits."""
    phones: int


_SIZES = (1, 10, 100, 1_000, 10_000)
FULL = Plan(
    command="make bench",
    results=RESULTS,
    works=(
        *(Work(jobs) for jobs in _SIZES),
        Work(1_000, phones=1_000),
        *(Work(jobs, history=OLD_JOBS) for jobs in _SIZES),
        *(Work(jobs, waits=10) for jobs in _SIZES[1:]),
        *(Work(jobs, waits=100) for jobs in _SIZES[2:]),
        Work(1_000, history=OLD_JOBS, waits=100),
    ),
    memory=(
        *(("ours", jobs, 1) for jobs in _SIZES),
        ("ours", 10_000, 100),
        ("each", 10_000, 1),
        ("vendor", 10_000, 1),
    ),
    phones=100,
)
QUICK = Plan(
    command="make bench QUICK=1",
    results=RESULTS / "quick",
    works=(
        *(Work(jobs) for jobs in _SIZES[:3]),
        Work(100, history=OLD_JOBS),
        Work(100, waits=100),
    ),
    memory=(("ours", 100, 1),),
    phones=5,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: small numbers only")
    plan = QUICK if parser.parse_args(arguments).quick else FULL
    plan.results.mkdir(parents=True, exist_ok=True)
    _waiting(plan)
    _overhead(plan)
    print(f"\nWritten to {plan.results.relative_to(Path.cwd())}")
    return 0


def _waiting(plan: Plan) -> None:
    all_figures: list[Figures] = []
    for work in plan.works:
        _tell(f"{work.name}, {work.history:,} old jobs, {count_of(work.waits, 'wait')}")
        all_figures += side_by_side(
            work, most_sent=10 * MOST_SENT if work == SENT_WHOLE else MOST_SENT
        )
    _tell("waits while nothing moves, and waits that begin one by one")
    still = requests_while_still(Work(100))
    together, one_by_one = requests_when_joining(Work(100, waits=100))
    memories: list[memory.Memory] = []
    if memory.can_be_measured():
        for strategy, jobs, waits in plan.memory:
            _tell(f"memory of {strategy}: {jobs:,} jobs, {count_of(waits, 'wait')}")
            memories.append(memory.measure(strategy, jobs, waits))
    kept = promises.kept(all_figures, still, one_by_one / together, memories)
    page = tables.waiting(plan.command, all_figures, memories, kept)
    _write(plan.results / "waiting.md", page)
    plot.draw(all_figures, plan.results / "waiting.svg")


def _overhead(plan: Plan) -> None:
    _tell(f"warmup_then_post over {plan.phones} phones")
    run = overhead.measure(plan.phones, profiled=False)
    profiled = None
    if profile.can_be_measured():
        _tell("the same under a profiler")
        profiled = overhead.measure(plan.phones, profiled=True)
    _write(plan.results / "overhead.md", tables.overhead(plan.command, run, profiled))


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")
    print(page, flush=True)


if __name__ == "__main__":
    sys.exit(main())
