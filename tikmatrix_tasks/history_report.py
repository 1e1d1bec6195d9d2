"""A history to look at: its rows in words and numbers, and a table and a plot as artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.runtime import deployment, flow_run

from tikmatrix_tasks.drawing import bar, line, picture, text
from tikmatrix_tasks.figures import Figures, History, HistoryLine
from tikmatrix_tasks.job_table import artifact_key, in_hours
from tikmatrix_tasks.summary import plain

TABLE = "tikmatrix-history"
PLOT = "tikmatrix-history-plot"
MOST_PHONES = 60
_COLOURS = {
    "completed": "#16a34a",
    "failed": "#dc2626",
    "deleted by someone": "#9333ea",
    "not ended": "#6b7280",
}
_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT = 720.0, 130.0, 70.0, 60.0, 160.0
_LABEL = 56.0  # about how wide the label of a day is
_LANE = 20.0
_LONGEST_NAME = 18


def show_history(history: History) -> None:
    """Keep a history as artifacts of this flow run: a table, and a plot of its days and phones.

    Each has one key for each deployment, so that the earlier ones can be paged through.
    """
    about = plain(str(history))
    rows = [in_words(line) for line in sorted(history.each, key=_health)]
    with get_client(sync_client=True) as prefect:

        def keep(kind: str, of_type: Literal["table", "markdown"], data: str) -> None:
            key = artifact_key(kind, flow_run.flow_name or "history", deployment.name)
            run = UUID(flow_run.id) if flow_run.id else None
            prefect.create_artifact(
                ArtifactCreate(key=key, type=of_type, description=about, data=data, flow_run_id=run)
            )

        keep(TABLE, "table", json.dumps(rows))
        keep(PLOT, "markdown", plot(history))


def in_words(line: HistoryLine) -> dict[str, Any]:
    """One line of a history, for a person."""
    now = line.now
    return {  # in the order of the table's columns: the UI cuts off what is on the right
        "phone": line.phone or "",
        "script": line.script or "",
        "completed": f"{now.completed} of {now.jobs}",
        "success": _percent(now),
        "week before": _trend(line),
        "commonest remarks": "; ".join(
            f"{remark} ({count})" if count > 1 else remark for remark, count in now.remarks
        ),
        "not ended": now.apart,
        "median": "" if now.median is None else in_hours(now.median),
        "day": "" if line.day is None else f"{line.day:%a %Y-%m-%d}",
    }


def in_numbers(line: HistoryLine) -> dict[str, Any]:
    """One line of a history, for a machine. A rate without jobs is None."""
    now, before = line.now, line.before
    return {
        "day": None if line.day is None else line.day.isoformat(),
        "phone": line.phone,
        "script": line.script,
        "jobs": now.jobs,
        "completed": now.completed,
        "failed": now.failed,
        "gone": now.gone,
        "open": now.open,
        "unknown": now.unknown,
        "not_begun": now.not_begun,
        "success_rate": _rate(now),
        "median_seconds": None if now.median is None else now.median.total_seconds(),
        "week_before_jobs": before.jobs,
        "week_before_success_rate": _rate(before),
        "remarks": dict(now.remarks),
    }


def plot(history: History) -> str:
    """The Markdown of two pictures: the days with the week before, and the phones."""
    parts = []
    days = [*history.week_before, *((line.day or history.first, line.now) for line in history.days)]
    if any(map(_all, (figures for _, figures in days))):
        labels = [f"{day:%a %d %b}" for day, _ in days]
        first = len(history.week_before)
        parts.append(_columns(labels, [figures for _, figures in days], first))
    phones: dict[str, list[Figures]] = {}
    for one in history.phones:
        phones.setdefault(one.phone or "?", []).append(one.now)
    if phones:
        parts.append(_lanes(phones))
    return "\n\n".join(parts) or plain(str(history))


def _columns(labels: Sequence[str], columns: Sequence[Figures], first: int) -> str:
    """A column for each day; those before the `first` are the week before."""
    space = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    most = max(map(_all, columns))
    scale, bottom = _HEIGHT / most, _TOP + _HEIGHT
    every = max(round(_LABEL / space + 0.5), 1)  # not every day's label has room
    parts = _legend(columns)
    for count in sorted({most, most // 2}):
        y = bottom - count * scale
        parts += [line(_LEFT, y, _WIDTH - _RIGHT, y)]
        parts += [text(_LEFT - 8, y + 4, f"{count} job{'' if count == 1 else 's'}", anchor="end")]
    for number, (label, figures) in enumerate(zip(labels, columns, strict=True)):
        x, y = _LEFT + space * number, bottom
        for name, count in _parts(figures).items():
            height = count * scale
            y -= height
            if count:
                title = f"{label}: {count} {name}"
                parts += [bar(x + space * 0.15, y, space * 0.7, height, _COLOURS[name], title)]
        if (len(labels) - 1 - number) % every == 0:
            middle = x + space / 2
            parts += [text(middle, bottom + 16, label, anchor="middle", size=11)]
            parts += [text(middle, y - 4, _percent(figures), anchor="middle", size=11)]
    edge = _LEFT + space * first
    parts += [line(edge, _TOP - 14, edge, bottom + 22)]
    parts += [text(edge - 6, bottom + 34, "the week before", anchor="end", size=11)]
    parts += [line(_LEFT, bottom, _WIDTH - _RIGHT, bottom)]
    return picture(_WIDTH, bottom + 44, parts, "Jobs of each day: how many completed")


def _lanes(phones: dict[str, list[Figures]]) -> str:
    """A bar for each phone; where there are too many, those on which most did not complete."""
    sums = {phone: _sum(figures) for phone, figures in phones.items()}
    shown = list(sums)
    if len(shown) > MOST_PHONES:
        worst = sorted(sums, key=lambda phone: sums[phone]["completed"] - sum(sums[phone].values()))
        shown = [phone for phone in sums if phone in worst[:MOST_PHONES]]
    scale = (_WIDTH - _LEFT - _RIGHT) / max(sum(sums[phone].values()) for phone in shown)
    top, parts = 40.0, _legend([one for figures in phones.values() for one in figures])
    for phone in shown:
        x = _LEFT
        short = phone if len(phone) <= _LONGEST_NAME else f"{phone[: _LONGEST_NAME - 1]}…"
        parts.append(text(_LEFT - 8, top + 14, short, anchor="end"))
        for name, count in sums[phone].items():
            width = count * scale
            if count:
                title = f"{phone}: {count} {name}"
                parts.append(bar(x, top + 3, width, _LANE - 6, _COLOURS[name], title))
            x += width
        ended = sum(figures.jobs for figures in phones[phone])
        told = f"{sums[phone]['completed']} of {ended}" if ended else "none ended"
        parts.append(text(x + 8, top + 14, told, size=11))
        top += _LANE
    if len(sums) > len(shown):
        parts.append(text(_LEFT, top + 14, f"and {len(sums) - len(shown)} phones more", size=11))
        top += _LANE
    return picture(_WIDTH, top + 12, parts, "Jobs of each phone: how many completed")


def _parts(figures: Figures) -> dict[str, int]:
    """How many of each colour."""
    not_ended = figures.open + figures.unknown + figures.not_begun
    counts = (figures.completed, figures.failed, figures.gone, not_ended)
    return dict(zip(_COLOURS, counts, strict=True))


def _sum(figures: Sequence[Figures]) -> dict[str, int]:
    return {name: sum(_parts(some)[name] for some in figures) for name in _COLOURS}


def _all(figures: Figures) -> int:
    return sum(_parts(figures).values())


def _legend(figures: Sequence[Figures]) -> list[str]:
    """What the colours mean that occur."""
    parts, x = [], _LEFT
    for name, count in _sum(figures).items():
        if count:
            parts += [bar(x, 12, 14, 14, _COLOURS[name]), text(x + 20, 24, name)]
            x += 40 + len(name) * 8
    return parts


def _health(line: HistoryLine) -> int:
    """A sorting key by which what needs a hand is first: the UI shows ten rows, unsorted."""
    return line.now.percent or 0


def _percent(figures: Figures) -> str:
    return "" if figures.percent is None else f"{figures.percent} %"


def _rate(figures: Figures) -> float | None:
    return round(figures.completed / figures.jobs, 4) if figures.jobs else None


def _trend(line: HistoryLine) -> str:
    """`97 % (-4)`: how many completed then, and how many percent points more do now."""
    if line.before.percent is None:
        return "no job"
    change = "" if line.change is None else f" ({line.change:+})" if line.change else " (same)"
    return f"{line.before.percent} %{change}"
