"""Thousands of evenings with faults, deaths and operators; see `world`.

`make test` plays `SCHEDULES`; `make soak SCHEDULES=100000 FIRST=5000` as many others as one likes.
A violation names its seed: `make soak SCHEDULES=1 FIRST=<seed>` plays that one again.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.simulation.world import PACE, Process, Violation, World
from tikmatrix_tasks import submission
from tikmatrix_tasks.intent import Found

FIRST = int(os.environ.get("FIRST", "0"))
SCHEDULES = int(os.environ.get("SCHEDULES", "2000"))
PARTS = 8
ENOUGH_TO_FAIL = 300
"""A product with one of its safeguards off is caught within so many schedules."""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_what_must_hold_holds(part: int) -> None:
    """No duplicate, no lost job, no orphan, whatever breaks and whoever dies."""
    for seed in range(FIRST + part, FIRST + SCHEDULES, PARTS):
        World(seed).play()


def test_a_seed_plays_the_same_way_again() -> None:
    """A failure can be looked at as often as it takes."""
    for seed in range(20):
        first, second = World(seed), World(seed)
        first.play()
        second.play()
        assert first.story == second.story


def is_caught(**world: object) -> bool:
    for seed in range(ENOUGH_TO_FAIL):
        try:
            World(seed, **world).play()  # type: ignore[arg-type]  # by name
        except Violation:
            return True
    return False


def test_a_blind_resend_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_look(*_: object) -> Found:
        return Found()

    monkeypatch.setattr(submission._Submission, "_look", no_look)
    assert is_caught()


def test_without_adoption_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "match", lambda intent, jobs: Found())
    monkeypatch.setattr(submission._Submission, "_stop_if_unclear", lambda *_: None)
    assert is_caught()


def test_without_a_grace_it_is_caught() -> None:
    assert is_caught(pace=replace(PACE, failure_grace_seconds=0))


def test_without_a_durable_intent_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(self: Process) -> None:
        return None

    monkeypatch.setattr(Process, "read_intent", forgets)
    assert is_caught()
