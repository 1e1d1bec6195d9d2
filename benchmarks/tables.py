"""The measurements as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from statistics import median, quantiles

from benchmarks import profile
from benchmarks.memory import Memory
from benchmarks.overhead import SPEED, WARMUP_SECONDS, Overhead, poll_intervals
from benchmarks.promises import MEGABYTE, Promise
from benchmarks.scenario import INTERVAL_SECONDS, Figures, Work

STRATEGIES = ("ours", "each", "vendor", "limit")
COUNTED = "°"

_WAYS = f"""\
- *ours*: `wait_for_jobs`.
- *each*: one GET per open job every interval, as Prefect's dbt and Databricks collections do.
- *vendor*: what TikMatrix's own API examples do: the counters every interval until nothing is
  pending or running, anybody's jobs included, then one page of what failed.
- *limit*: one request per interval and one page per hundred ended jobs; reckoned.

All look every {INTERVAL_SECONDS:g} s, at the same simulated work, on a virtual clock: a job takes
54 to 66 s, a phone begins one up to 10 s after the last, all are submitted at the beginning. Auto
Retry is off. With 100 jobs or fewer, requests are means of several evenings.
{COUNTED} was not sent but counted, by the strategy's arithmetic from the ends of the same work."""

_LATENESS = """\
## From the end of a job until it was noticed

In intervals: median, 95th percentile."""

_CPU = """\
## CPU seconds of the waiting side

Without sockets, and without what the simulator took to answer. Blank: only counted."""

_MEMORY = """\
## Memory of a waiting process

Its peak over what it held before the wait: a real process, over real HTTP, 100 phones."""


def where_and_how(command: str) -> str:
    """The command, the versions and the machine."""
    return (
        f"Made by `{command}` with prefect-tikmatrix {version('prefect-tikmatrix')}, Prefect "
        f"{version('prefect')}, Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores. Timings depend on the machine and on what "
        "else it does: compare them only within one run."
    )


def waiting(
    command: str,
    all_figures: Sequence[Figures],
    memories: Sequence[Memory],
    promises: Sequence[Promise],
) -> str:
    """The page about waiting."""
    return (
        "\n\n".join(
            [
                "# What waiting costs",
                where_and_how(command),
                "![Requests and lateness by number of jobs](waiting.svg)",
                _WAYS,
                "## What is promised, and what the worst case was",
                table(
                    ["promise", "measured", ""],
                    (
                        [it.sentence, it.measured, "holds" if it.holds else "**broken**"]
                        for it in promises
                    ),
                ),
                "## Requests",
                _side_by_side(all_figures, lambda it: f"{it.requests:,.0f}{COUNTED * it.counted}"),
                _LATENESS,
                _side_by_side(all_figures, lambda it: f"{it.median:,.2f}, {it.percentile_95:,.2f}"),
                _CPU,
                _side_by_side(
                    all_figures,
                    lambda it: "" if it.cpu_seconds is None else f"{it.cpu_seconds:.2f}",
                ),
                _MEMORY,
                table(
                    ["way", "jobs", "waits", "idle", "over idle"],
                    (
                        [
                            it.strategy,
                            f"{it.jobs:,}",
                            f"{it.waits}",
                            _megabytes(it.idle_bytes),
                            _megabytes(it.over_idle_bytes),
                        ]
                        for it in memories
                    ),
                )
                if memories
                else "Not measured: only Linux tells a process its own peak.",
            ]
        )
        + "\n"
    )


def _side_by_side(all_figures: Sequence[Figures], cell: Callable[[Figures], str]) -> str:
    by_work: dict[Work, dict[str, str]] = {}
    for figures in all_figures:
        by_work.setdefault(figures.work, {})[figures.strategy] = cell(figures)
    return table(
        ["jobs on phones", "old jobs", "waits", *STRATEGIES],
        (
            [work.name, f"{work.history:,}", f"{work.waits}", *(side[it] for it in STRATEGIES)]
            for work, side in by_work.items()
        ),
    )


def overhead(command: str, run: Overhead, profiled: Overhead | None) -> str:
    """The page about the main flow."""
    shortest, longest = poll_intervals()
    between = quantiles(run.between, n=20, method="inclusive")
    seconds = [
        ("the flow run, from call to end", run.wall),
        ("of it, the longest that one phone had jobs", run.phones_own),
        ("beyond that", run.beyond),
        ("from the beginning until the warm-ups were created", run.before_warmups),
        ("from the end of a warm-up until its post was created: median", median(run.between)),
        ("the same: 95th percentile", between[-1]),
        ("from the end of the last post until the flow had ended", run.after_posts),
        ("CPU time of the flow's process", run.cpu),
    ]
    parts = [
        "# What `warmup_then_post` costs beyond the phones' own time",
        where_and_how(command),
        f"{run.phones} phones, each warming up for about {WARMUP_SECONDS} s and then posting, "
        f"{SPEED:g} times as fast as in life; the poll intervals are the defaults, {SPEED:g} times "
        f"as short ({shortest:g} to {longest:g} s). So ends come {SPEED:g} times as dense as in "
        "life, and what is done between them has to be that much quicker. Prefect's server and "
        "the simulator are processes of their own on the same machine. The seconds are real ones.",
        table(["", "seconds"], ([what, f"{it:.2f}"] for what, it in seconds)),
        f"What TikMatrix was sent for {2 * run.phones} jobs:",
        table(["", "requests"], ([f"`{call}`", f"{it:,}"] for call, it in run.requests.items())),
        "## Where the time goes",
        "No profile: Python from 3.12 on profiles one thread only at a time.",
    ]
    if profiled is not None and profiled.profile is not None:
        parts[-1] = _profile(profiled, profiled.profile)
    return "\n\n".join(parts) + "\n"


def _profile(run: Overhead, found: profile.Profile) -> str:
    whole = found["ours"] + found["prefect"] + found["neither"]
    by_owner = [
        ("Prefect, with the libraries it calls", found["prefect"]),
        ("ours, with the libraries we call", found["ours"]),
        ("neither: event loops, threads", found["neither"]),
    ]
    places = (
        [
            f"`{it['place']}`",
            f"{it['calls']:,}",
            f"{it['seconds']:.2f}",
            f"{it['seconds'] / whole:.1%}",
        ]
        for it in found["places"]
    )
    return "\n\n".join(
        [
            "A second run under `cProfile`, which slows it: all threads of the flow's process, by "
            f"the clock, without waiting; {whole:.1f} s in all. The process took {run.cpu:.1f} s "
            "of CPU time; a thread that works also waits for its turn.",
            table(
                ["whose", "seconds", "share"],
                ([whose, f"{it:.2f}", f"{it / whole:.1%}"] for whose, it in by_owner),
            ),
            "The most expensive places of ours, each with the libraries it calls, without Prefect "
            "and without other places of ours:",
            table(["place", "calls", "seconds", "share"], places),
        ]
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _megabytes(number: int) -> str:
    return f"{number / MEGABYTE:.1f} MB"
