"""The plot: requests and lateness by number of jobs, on one number of phones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.scenario import Figures
from benchmarks.tables import STRATEGIES

_STYLES: dict[str, dict[str, Any]] = {
    "ours": {"color": "#0072b2", "marker": "o", "linewidth": 2.5, "zorder": 4},
    "each": {"color": "#d55e00", "marker": "s"},
    "vendor": {"color": "#009e73", "marker": "^"},
    "limit": {"color": "#555555", "marker": "x", "linestyle": ":", "zorder": 5},
}
_NAMES = {
    "ours": "ours",
    "each": "one GET per open job",
    "vendor": "vendor's example",
    "limit": "limit (reckoned)",
}


def draw(all_figures: Sequence[Figures], path: Path) -> None:
    """Write an SVG that is the same for the same figures."""
    mpl.rcParams["svg.hashsalt"] = "prefect-tikmatrix"
    mpl.rcParams["svg.fonttype"] = "none"
    page = Figure(figsize=(10, 4.2), facecolor="white", layout="constrained")
    requests, late = page.subplots(1, 2)
    jobs = sorted({it.work.jobs for it in all_figures if _is_plain(it)})
    for strategy in STRATEGIES:
        line = sorted(
            (it for it in all_figures if it.strategy == strategy and _is_plain(it)),
            key=lambda it: it.work.jobs,
        )
        style = _STYLES[strategy]
        requests.plot(jobs, [it.requests for it in line], label=_NAMES[strategy], **style)
        late.plot(jobs, [it.percentile_95 for it in line], **style)
    requests.set_title("Requests until all have ended")
    late.set_title("End noticed, 95th percentile")
    late.set_ylabel("intervals after the job ended")
    for axes in (requests, late):
        axes.set(xscale="log", yscale="log", xlabel="awaited jobs on 100 phones")
        axes.set_xticks(jobs, [f"{it:,}" for it in jobs])
        axes.grid(alpha=0.3)
        axes.set_facecolor("white")
    late.set_ylim(bottom=0.1)
    late.text(0.97, 0.14, "all others on this line", transform=late.transAxes, ha="right")
    requests.legend(frameon=False)
    page.savefig(path, format="svg", metadata={"Date": None})


def _is_plain(figures: Figures) -> bool:
    work = figures.work
    return (work.phones, work.history, work.waits) == (100, 0, 1)
