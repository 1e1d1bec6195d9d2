"""The closing summary of a flow run: what a person reads the next morning, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from tikmatrix_tasks.job_table import Row, in_hours
from tikmatrix_tasks.jobs import Outcome
from tikmatrix_tasks.timeline import natural, timeline

MOST_NAMED = 50
"""How many jobs that did not complete are named; the table of the run's jobs has all."""


def summary(
    sentence: str,
    rows: Sequence[Row],
    *,
    decisions: Iterable[str] = (),
    began: Mapping[int, datetime] | None = None,
    started: datetime | None = None,
    now: datetime,
) -> str:
    """What a run came to: its sentence, counts and durations, a timeline, and what needs a hand."""
    parts = [f"## {plain(sentence)}"]
    if started is not None:
        took = in_hours(now - started)
        parts.append(f"Started {started:%Y-%m-%d %H:%M:%S} UTC, ended {now:%H:%M:%S} UTC: {took}.")
    if rows:
        parts.append(_counts(rows))
    drawn = timeline(rows, now, began)
    if drawn is not None:
        parts.append(drawn)
    bad = [row for row in rows if row.status is not Outcome.COMPLETED]
    if bad:
        parts += ["### Not completed", _not_completed(bad)]
    decided = [f"- {plain(decision)}" for decision in decisions]
    if decided:
        parts += ["### Submission", "\n".join(decided)]
    return "\n\n".join(parts)


def _counts(rows: Sequence[Row]) -> str:
    of_script: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_script[row.script or "?"].append(row)
    lines = []
    for script, jobs in of_script.items():
        statuses = [row.status for row in jobs]
        completed, failed = statuses.count(Outcome.COMPLETED), statuses.count(Outcome.FAILED)
        ran = [row.duration for row in jobs if row.duration is not None]
        cells = [len(jobs), completed, failed, len(jobs) - completed - failed]
        times = [_median(ran), in_hours(max(ran))] if ran else ["", ""]
        lines.append((script, *map(str, cells), *times))
    heads = ("script", "jobs", "completed", "failed", "other", "median duration", "longest")
    return _table(heads, lines)


def _median(durations: Sequence[timedelta]) -> str:
    return in_hours(timedelta(seconds=median(it.total_seconds() for it in durations)))


def _not_completed(rows: Sequence[Row]) -> str:
    named = sorted(rows, key=lambda row: natural(row.phone or row.account or ""))
    lines = [
        (
            row.phone or row.account or "?",
            row.script or "?",
            "" if row.job is None else str(row.job),
            row.status.value,
            row.remark or "",
        )
        for row in named[:MOST_NAMED]
    ]
    more = f"\n\nand {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return _table(("phone or account", "script", "job", "became", "why"), lines) + more


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(map(plain, row))} |" for row in rows)


def plain(words: str) -> str:
    """On one line, and no Markdown: TikMatrix's words are anybody's."""
    flat = " ".join(words.split())
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "<", ">", "#"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat
