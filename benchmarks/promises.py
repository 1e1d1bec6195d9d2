"""What waiting promises, held against what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.memory import Memory
from benchmarks.scenario import Figures, Work

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Promise:
    """One sentence, the worst that was measured, and whether it holds."""

    sentence: str
    measured: str
    holds: bool


def kept(
    all_figures: Sequence[Figures], still: float, joining: float, memories: Sequence[Memory]
) -> list[Promise]:
    """All promises that these measurements can tell of.

    `still` is how many requests an interval takes in which nothing moves, `joining` how many times
    as many it takes when the waits begin one by one, and not together.
    """
    by_work: dict[Work, dict[str, Figures]] = {}
    for figures in all_figures:
        by_work.setdefault(figures.work, {})[figures.strategy] = figures
    ours = {work: side["ours"] for work, side in by_work.items()}
    return [
        *_at_most(
            "never more requests than one GET per open job and interval",
            1.0,
            (side["ours"].requests / side["each"].requests for side in by_work.values()),
            "{:.2f} of it",
        ),
        *_at_most(
            "one request per interval while nothing moves", 1.0, [still], "{:.2f} per interval"
        ),
        *_at_most(
            "at most two per interval for each hundred jobs running at once, one per job, and ten",
            1.0,
            (figures.requests / _bound(figures) for figures in ours.values()),
            "{:.2f} of it",
        ),
        *_a_hundredth(by_work),
        *_at_most(
            "the same within 10 % with 100,000 old jobs as with none",
            0.1,
            _differences(ours, lambda work: replace(work, history=0)),
            "{:.1%} apart",
        ),
        *_at_most(
            "the same within 10 % with many waits as with one over the same jobs",
            0.1,
            _differences(ours, lambda work: replace(work, waits=1)),
            "{:.1%} apart",
        ),
        *_at_most(
            "the same within 10 % when the waits begin one by one and an answer takes long",
            1.1,
            [joining],
            "{:.2f} times as many",
        ),
        *_at_most(
            "an end is noticed within 0.6 interval in the median",
            0.6,
            (figures.median for figures in ours.values()),
            "{:.2f} intervals",
        ),
        *_at_most(
            "and within 1.1 at the 95th percentile",
            1.1,
            (figures.percentile_95 for figures in ours.values()),
            "{:.2f} intervals",
        ),
        *_in_memory(memories),
    ]


def _bound(figures: Figures) -> float:
    hundreds = math.ceil(figures.work.running_at_once / 100)
    return 2 * figures.intervals * hundreds + figures.work.jobs + 10


def _a_hundredth(by_work: dict[Work, dict[str, Figures]]) -> Iterator[Promise]:
    sides = [side for work, side in by_work.items() if (work.jobs, work.phones) == (1_000, 100)]
    if sides:
        least = min(side["each"].requests / side["ours"].requests for side in sides)
        sentence = "1,000 jobs on 100 phones: at least 100 times fewer than polling each"
        yield Promise(sentence, f"{least:.0f} times fewer", least >= 100)


def _differences(ours: dict[Work, Figures], without: Callable[[Work], Work]) -> Iterator[float]:
    """How far each work is from the same work without something."""
    for work, figures in ours.items():
        plain = ours.get(without(work))
        if plain is not None and plain is not figures:
            yield abs(figures.requests / plain.requests - 1)


def _in_memory(memories: Sequence[Memory]) -> Iterator[Promise]:
    most = [
        it.over_idle_bytes / MEGABYTE
        for it in memories
        if (it.strategy, it.jobs) == ("ours", 10_000)
    ]
    if most:
        yield from _at_most(
            "10,000 awaited jobs: under 50 MB over the idle process", 50, most, "{:.0f} MB"
        )


def _at_most(sentence: str, bound: float, values: Iterable[float], measured: str) -> list[Promise]:
    """None where nothing was measured."""
    worst = max(values, default=None)
    return [] if worst is None else [Promise(sentence, measured.format(worst), worst <= bound)]
