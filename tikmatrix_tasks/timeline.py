"""When each phone did what, as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

from tikmatrix_tasks.drawing import BACKGROUND, bar, line, picture, text
from tikmatrix_tasks.job_table import Row, in_hours, natural
from tikmatrix_tasks.jobs import Outcome

MOST_PHONES = 60
_COLOURS = {
    Outcome.COMPLETED: "#16a34a",
    Outcome.FAILED: "#dc2626",
    Outcome.RUNNING: "#2563eb",
    Outcome.GONE: "#9333ea",
}
_OTHER = "#6b7280"
# No wider than the UI shows it: V2 would shrink the words with the picture.
_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 600.0, 120.0, 24.0, 46.0, 22.0
_LONGEST_NAME = 16
_LETTER = 6.5  # about how wide a letter is
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def timeline(
    rows: Sequence[Row], now: datetime, began: Mapping[int, datetime] | None = None
) -> str | None:
    """The Markdown of a picture with a lane for each phone; None where nothing has run.

    A bar ends when the end was noticed. It begins when the job, by its id, was seen to have
    `began`; a job that nobody saw running ran for as long as TikMatrix says.
    """
    lanes: dict[str, list[tuple[datetime, datetime, Row]]] = defaultdict(list)
    for row in rows:
        ran = _ran(row, now, (began or {}).get(row.job or 0))
        if ran is not None:
            lanes[row.owner].append((*ran, row))
    if not lanes:
        return None
    names = sorted(lanes, key=natural)
    shown, more = names[:MOST_PHONES], len(names) - MOST_PHONES
    begin = min(start for lane in lanes.values() for start, _, _ in lane)
    end = max(stop for lane in lanes.values() for _, stop, _ in lane)
    scale = (_WIDTH - _LEFT - _RIGHT) / max((end - begin).total_seconds(), 1.0)

    def at(moment: datetime) -> float:
        return _LEFT + (moment - begin).total_seconds() * scale

    bottom = _TOP + _LANE * len(shown)
    parts = _legend([row for lane in lanes.values() for _, _, row in lane])
    for moment in _ticks(begin, end):
        parts += [line(at(moment), _TOP - 4, at(moment), bottom)]
        parts += [text(at(moment), bottom + 14, _clock(moment, end - begin), anchor="middle")]
    for number, name in enumerate(shown):
        top = _TOP + _LANE * number
        short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        parts.append(text(_LEFT - 8, top + 15, short, anchor="end"))
        for start, stop, row in sorted(lanes[name], key=lambda bar: bar[0]):
            width = max((stop - start).total_seconds() * scale, 3.0)
            colour = _COLOURS.get(row.status, _OTHER)
            title = f"{row.script} {row.status.value}, {in_hours(stop - start)}"
            parts.append(bar(at(start), top + 3, width, _LANE - 6, colour, title))
            if row.script and len(row.script) * _LETTER < width - 6:
                words = text(at(start) + 4, top + 15, row.script, size=11, colour=BACKGROUND)
                parts.append(words)
    note = f"times in UTC{f'; and {more} phones more' if more > 0 else ''}"
    parts.append(text(_LEFT, bottom + 32, note, size=11))
    return picture(_WIDTH, bottom + 42, parts, "Timeline: when each phone did what")


def _ran(row: Row, now: datetime, began: datetime | None) -> tuple[datetime, datetime] | None:
    if row.status is Outcome.RUNNING:
        return row.since, max(now, row.since)
    if row.status in (Outcome.PENDING, Outcome.UNKNOWN):
        return None
    if began is None and row.duration is not None:
        began = row.since - row.duration
    return None if began is None else (began, row.since)


def _legend(rows: Sequence[Row]) -> list[str]:
    parts, x = [], _LEFT
    for status in dict.fromkeys(row.status for row in rows):
        parts += [bar(x, 12, 14, 14, _COLOURS.get(status, _OTHER)), text(x + 20, 24, status.value)]
        x += 40 + len(status.value) * 8
    return parts


def _ticks(begin: datetime, end: datetime) -> list[datetime]:
    seconds = (end - begin).total_seconds()
    step = next((step for step in _STEPS if seconds / step <= 6), _STEPS[-1])
    first = begin.timestamp() // step * step + step
    return [
        datetime.fromtimestamp(first + number * step, timezone.utc)
        for number in range(int((end.timestamp() - first) // step) + 1)
    ]


def _clock(moment: datetime, span: timedelta) -> str:
    if span > timedelta(days=2):
        return f"{moment:%d %b %H:%M}"
    return f"{moment:%H:%M:%S}" if span < timedelta(minutes=10) else f"{moment:%H:%M}"
