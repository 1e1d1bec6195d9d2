"""The closing summary of a flow run: what a person reads the next morning, in Markdown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median
from urllib.parse import quote

from tikmatrix_tasks.job_table import Row, in_hours, worst_first
from tikmatrix_tasks.jobs import Outcome
from tikmatrix_tasks.timeline import timeline

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
        lines.append((plain(script), *map(str, cells), *times))
    heads = ("script", "jobs", "completed", "failed", "other", "median duration", "longest")
    return _table(heads, lines)


def _median(durations: Sequence[timedelta]) -> str:
    return in_hours(timedelta(seconds=median(it.total_seconds() for it in durations)))


def _not_completed(rows: Sequence[Row]) -> str:
    lines = [
        (
            _linked(row),
            plain(row.script or "?"),
            "" if row.job is None else str(row.job),
            row.status.value,
            plain(row.remark or ""),
        )
        for row in worst_first(rows)[:MOST_NAMED]
    ]
    more = f"\n\nand {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    who = "phone" if all(row.phone for row in rows) else "phone or account"
    return _table((who, "script", "job", "became", "why"), lines) + more


def _linked(row: Row) -> str:
    """With a link to its story in the event feed, which no click in the UI leads to."""
    if row.phone is None:
        return plain(row.owner)
    resource = quote(json.dumps([f"tikmatrix.phone.{row.phone}"]))
    return f"[{plain(row.owner)}](/v2/events?resource={resource})"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plain(words: str) -> str:
    """On one line, and no Markdown: TikMatrix's words are anybody's."""
    flat = " ".join(words.split())
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "<", ">", "#"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat
