"""The benchmarks measure what they say they do. How fast anything is, is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import profile
from benchmarks.promises import kept
from benchmarks.scenario import Figures, Work, evenings, figures
from benchmarks.strategies import (
    Reckon,
    counted_each,
    counted_vendor,
    each,
    ours,
    requests_when_joining,
    requests_while_still,
    side_by_side,
    vendor,
)
from benchmarks.tables import COUNTED, STRATEGIES

ROOT = Path(__file__).parents[1]
SMALL = Work(40, phones=10, waits=4, least_ends=80)


@pytest.mark.parametrize(("strategy", "reckon"), [(each, counted_each), (vendor, counted_vendor)])
@pytest.mark.parametrize("work", [SMALL, Work(5, phones=10, history=1_000, least_ends=20)])
def test_counting_agrees_with_sending(strategy: object, reckon: Reckon, work: Work) -> None:
    """Millions of requests are counted in place of sent; where both can be done they are equal."""
    for sent in evenings(strategy, work):  # type: ignore[arg-type]  # a parameter
        counted = reckon(sent, work)
        assert counted.requests == sent.requests
        assert counted.noticed == pytest.approx(sent.noticed)


def test_every_way_of_waiting_has_the_same_work_and_notices_every_end() -> None:
    side = side_by_side(SMALL, most_sent=100_000)
    assert [it.strategy for it in side] == list(STRATEGIES)
    assert [it.counted for it in side] == [False, False, False, True]
    assert len({it.intervals for it in side}) == 1
    by_name = {it.strategy: it for it in side}
    assert by_name["limit"].requests <= by_name["ours"].requests <= by_name["each"].requests
    assert by_name["each"].percentile_95 <= 1.0
    assert by_name["vendor"].median > 1.0, "it knows of no end before the last"


def test_an_end_that_goes_unnoticed_leaves_no_figures() -> None:
    seen, *_ = evenings(ours, SMALL)
    seen.noticed.popitem()
    with pytest.raises(ValueError, match="not every end was noticed"):
        figures("ours", SMALL, [seen])


def test_a_broken_promise_is_shown() -> None:
    side = side_by_side(SMALL, most_sent=0)
    assert all(it.holds for it in kept(side, still=1.0, joining=1.0, memories=[]))
    late = Figures("ours", SMALL, 10**6, median=0.7, percentile_95=2.0, intervals=side[0].intervals)
    broken = [
        it.sentence
        for it in kept([late, *side[1:]], still=1.5, joining=1.5, memories=[])
        if not it.holds
    ]
    assert len(broken) == 6, broken


def test_what_waits_sends_while_nothing_moves_is_counted() -> None:
    assert 0.9 <= requests_while_still(Work(20, phones=20)) <= 1.1


def test_waits_that_begin_one_by_one_are_counted_to_the_last_end() -> None:
    work = Work(10, phones=10, waits=10, least_ends=10)
    (seen,) = evenings(each, work)
    intervals = figures("each", work, [seen]).intervals
    together, one_by_one = requests_when_joining(work)
    assert intervals <= together < seen.requests
    assert one_by_one >= intervals


@pytest.mark.skipif(not profile.can_be_measured(), reason="cProfile: one thread only")
def test_a_librarys_time_belongs_to_its_caller() -> None:
    with profile.all_threads() as profiles:
        evenings(ours, Work(10, phones=10, least_ends=100))
    found = profile.attributed(profiles, 5)
    assert found["prefect"] < found["ours"]
    assert len(found["places"]) == 5
    assert all(it["place"].startswith("tikmatrix_tasks/") for it in found["places"])


def test_the_readme_shows_rows_that_were_measured() -> None:
    """No number in it is written by hand."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What waiting costs")[1]
    section = section.split("\n## ")[0]
    measured = (ROOT / "benchmarks/results/waiting.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert set(rows) <= set(measured)
    assert COUNTED in section
