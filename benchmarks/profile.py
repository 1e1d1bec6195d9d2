"""Where a process spends its time, waiting aside: with us, with Prefect, or with neither.

`cProfile` times each function by itself. What a library takes belongs to whoever called it, so it
is handed on to the callers in proportion, up to a function of ours or of Prefect's. What is left
over nobody called: event loops and threads.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import prefect

import tikmatrix_tasks

Function = tuple[str, int, str]
"""File, line and name, as `pstats` keys them."""
Shares = dict[str, float]
"""Owner to the part of a function's time that is the owner's."""

PREFECT = "Prefect"
NEITHER = "neither"
_ROUNDS = 40  # of handing on to callers; chains of library calls are shorter

_WAITS = {
    "<built-in method select.select>",
    "<built-in method time.sleep>",
    "<method 'acquire' of '_thread.RLock' objects>",
    "<method 'acquire' of '_thread.lock' objects>",
    "<method 'control' of 'select.kqueue' objects>",
    "<method 'get' of '_queue.SimpleQueue' objects>",
    "<method 'poll' of 'select.epoll' objects>",
    "<method 'recv' of '_socket.socket' objects>",
}
"""What a thread does while it waits for others; its time is nobody's."""

_ROOT = Path(tikmatrix_tasks.__file__).parents[1]
_OURS = (str(_ROOT / "tikmatrix_tasks"), str(_ROOT / "flows"))
_PREFECTS = str(Path(prefect.__file__).parent)


class Place(TypedDict):
    """A function of ours with the libraries it calls, without other functions of ours."""

    place: str
    calls: int
    seconds: float


class Profile(TypedDict):
    """Seconds of work by owner, and the most expensive places of ours."""

    ours: float
    prefect: float
    neither: float
    places: list[Place]


def can_be_measured() -> bool:
    """From 3.12 on, Python profiles one thread only at a time, and here there are many."""
    return sys.version_info < (3, 12)


class _ThreadProfile(cProfile.Profile):
    """Of one thread, by the clock: with a thread's CPU time in its place all takes twice as long.

    It is read while its thread may still be under way.
    """

    def create_stats(self) -> None:
        """Without ending the calls under way, as the original does."""
        self.snapshot_stats()


@contextmanager
def all_threads() -> Iterator[list[cProfile.Profile]]:
    """Profile this thread and all that start meanwhile."""
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profile = _ThreadProfile()
        profiles.append(profile)
        profile.enable()

    threading.setprofile(begin)
    begin()
    try:
        yield profiles
    finally:
        profiles[0].disable()
        threading.setprofile(_nothing)


def _nothing(*_: object) -> None:
    sys.setprofile(None)


def attributed(profiles: list[cProfile.Profile], places: int) -> Profile:
    """Hand all time on to its owners."""
    stats = pstats.Stats(*profiles)
    timed: dict[Function, Any] = stats.stats  # type: ignore[attr-defined]  # not in the stubs
    owners = _owners(timed)
    seconds: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own_seconds, _, _) in timed.items():
        if function[2] in _WAITS:
            continue
        for owner, share in owners[function].items():
            seconds[owner] += own_seconds * share
    calls = {_place(function): timed[function][1] for function in timed if _is_ours(function)}
    dearest = sorted(calls, key=lambda place: -seconds[place])[:places]
    return Profile(
        ours=sum(seconds[place] for place in calls),
        prefect=seconds[PREFECT],
        neither=seconds[NEITHER],
        places=[Place(place=it, calls=calls[it], seconds=seconds[it]) for it in dearest],
    )


def _owners(timed: dict[Function, Any]) -> dict[Function, Shares]:
    owners: dict[Function, Shares] = {}
    libraries: dict[Function, dict[Function, float]] = {}
    for function, (_, _, _, _, callers) in timed.items():
        by_caller = {caller: own_seconds for caller, (_, _, own_seconds, _) in callers.items()}
        if _is_ours(function):
            owners[function] = {_place(function): 1.0}
        elif function[0].startswith(_PREFECTS):
            owners[function] = {PREFECT: 1.0}
        else:
            owners[function] = {NEITHER: 1.0}
            if sum(by_caller.values()) > 0:
                libraries[function] = by_caller
    for _ in range(_ROUNDS):
        for function, by_caller in libraries.items():
            owners[function] = _handed_on(by_caller, owners)
    return owners


def _handed_on(by_caller: dict[Function, float], owners: dict[Function, Shares]) -> Shares:
    whole = sum(by_caller.values())
    shares: defaultdict[str, float] = defaultdict(float)
    for caller, own_seconds in by_caller.items():
        for owner, share in owners[caller].items():
            shares[owner] += share * own_seconds / whole
    return dict(shares)


def _is_ours(function: Function) -> bool:
    return function[0].startswith(_OURS)


def _place(function: Function) -> str:
    file, _, name = function
    return f"{Path(file).relative_to(_ROOT).as_posix()}: {name}"
