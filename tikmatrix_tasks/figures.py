"""The reckoning of a history: rows of jobs in, figures out. Asks nobody anything.

A job counts once, whichever tables it stands in, as it ended last and on the day it ended:

- Seen again by a later run, it counts on the day when its end was first seen.
- Failed and run again, it is what it is by now: completed, failed anew, or open again.
- Completed, it has happened: that its row was deleted, or that a later run knows nothing of it,
  changes nothing. If the same id ends again in another way, TikMatrix was set up anew and has given
  the id to another job.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta, tzinfo
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict

from tikmatrix_tasks.job_table import Row, natural
from tikmatrix_tasks.jobs import Outcome
from tikmatrix_tasks.observability import count_of

WEEK_DAYS = 7
MOST_REMARKS = 3
MOST_NAMED = 3
"""How many phones a sentence names; the figures have all."""
_OPEN = (Outcome.PENDING, Outcome.RUNNING)
_SAME = ("phone", "account", "script")


class Figures(BaseModel):
    """What became of some jobs. `completed`, `failed` and `gone` ended, the others did not."""

    model_config = ConfigDict(frozen=True)

    completed: int = 0
    failed: int = 0
    gone: int = 0
    """Deleted by someone before their end was seen."""
    open: int = 0
    """Pending or running when last seen."""
    unknown: int = 0
    not_begun: int = 0
    """Not created by TikMatrix, or held back by the flow."""
    median: timedelta | None = None
    """Of how long the completed ones ran, as far as it is known."""
    remarks: tuple[tuple[str, int], ...] = ()
    """The commonest remarks of those that ended without completing, and how often."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Figures:
        rows = list(rows)
        count = Counter(row.status for row in rows)
        completed = [row for row in rows if row.status is Outcome.COMPLETED]
        seconds = [row.duration.total_seconds() for row in completed if row.duration is not None]
        bad = [row for row in rows if row.status in (Outcome.FAILED, Outcome.GONE)]
        remarks = Counter(row.remark for row in bad if row.remark)
        return cls(
            completed=count[Outcome.COMPLETED],
            failed=count[Outcome.FAILED],
            gone=count[Outcome.GONE],
            open=sum(count[status] for status in _OPEN),
            unknown=count[Outcome.UNKNOWN],
            not_begun=count[Outcome.NOT_CREATED] + count[Outcome.NOT_STARTED],
            median=timedelta(seconds=round(median(seconds))) if seconds else None,
            remarks=tuple(remarks.most_common(MOST_REMARKS)),
        )

    @property
    def jobs(self) -> int:
        """How many have ended."""
        return self.completed + self.failed + self.gone

    @property
    def percent(self) -> int | None:
        """How many of those that ended completed; None where none has ended.

        100 means every one, and 0 not a single one.
        """
        if not self.jobs:
            return None
        if self.completed in (0, self.jobs):
            return 100 * self.completed // self.jobs
        return min(max(round(100 * self.completed / self.jobs), 1), 99)

    @property
    def apart(self) -> str:
        """What has not ended, in words; empty where everything has."""
        told = {
            "still open when last seen": self.open,
            "unknown": self.unknown,
            "not created or not started": self.not_begun,
        }
        return ", ".join(f"{count} {words}" for words, count in told.items() if count)


class HistoryLine(BaseModel):
    """Figures of one phone and script, one day, or both; None stands for all."""

    model_config = ConfigDict(frozen=True)

    day: date | None = None
    phone: str | None = None
    script: str | None = None
    now: Figures
    before: Figures
    """The same in the 7 days before."""

    @property
    def change(self) -> int | None:
        """Percent points by which more completed than before; None without jobs to compare."""
        if self.now.percent is None or self.before.percent is None:
            return None
        return self.now.percent - self.before.percent


class History(BaseModel):
    """What became of jobs from the first to the last day, and in the week before."""

    model_config = ConfigDict(frozen=True)

    first: date
    last: date
    each: tuple[HistoryLine, ...] = ()
    """A line for each day, phone and script."""
    phones: tuple[HistoryLine, ...] = ()
    """A line for each phone and script, over all days."""
    days: tuple[HistoryLine, ...] = ()
    """A line for each day, also for one without jobs."""
    week_before: tuple[tuple[date, Figures], ...] = ()
    """The 7 days before the first."""
    total: HistoryLine

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show, not even of the week before."""
        return not self.each and self.total.before == Figures()

    @property
    def when(self) -> str:
        if self.first == self.last:
            return f"{self.first:%a %Y-%m-%d}"
        return f"{self.first} to {self.last}"

    def __str__(self) -> str:
        """`Mon 2026-11-23: 41 of 44 jobs completed on 12 phones; 3 failed on phone-4 (...); ...`"""
        now, before = self.total.now, self.total.before
        phones = {line.phone for line in self.phones if line.now.jobs}
        done = f"{now.completed} of {count_of(now.jobs, 'job')} completed"
        told = f"{done} on {count_of(len(phones), 'phone')}" if now.jobs else "no job ended"
        parts = [f"{self.when}: {told}"]
        parts += self._failures()
        if now.gone:
            parts.append(f"{now.gone} deleted by someone before the end")
        if now.apart:
            parts.append(now.apart)
        week = "the week before" if self.first == self.last else "the 7 days before"
        if before.percent is None:
            parts.append(f"{week} there was no job")
        else:
            parts.append(f"{week} {before.percent} %")
        return "; ".join(parts)

    def _failures(self) -> list[str]:
        """Where most failed, and the remark of most of those."""
        failed: Counter[str] = Counter()
        why: dict[str, Counter[str]] = defaultdict(Counter)
        for line in self.phones:
            if line.now.failed:
                failed[line.phone or "?"] += line.now.failed
                why[line.phone or "?"].update(dict(line.now.remarks))
        named = failed.most_common(MOST_NAMED)
        parts = []
        for phone, count in named:
            remark = "".join(f" ({text})" for text, _ in why[phone].most_common(1))
            parts.append(f"{count} failed on {phone}{remark}")
        rest = len(failed) - len(named)
        if rest:
            others = sum(failed.values()) - sum(count for _, count in named)
            parts.append(f"{others} more failed on {count_of(rest, 'other phone')}")
        return parts


def history_of(
    tables: Iterable[Sequence[Row]],
    first: date,
    last: date,
    *,
    zone: tzinfo | None = None,
    wanted: Callable[[Row], bool] = lambda row: True,
) -> History:
    """The history from the first to the last day, from the tables of flow runs.

    The days are those of `zone`, or of this machine without one. `wanted` says which jobs count; it
    is asked of a job whose phone, account and script were brought together from all tables.
    """
    rows: dict[tuple[date, str, str], list[Row]] = defaultdict(list)
    begin = first - timedelta(days=WEEK_DAYS)
    for row in each_job_once(tables):
        day = day_of(row.since, zone)
        if begin <= day <= last and wanted(row):
            rows[day, phone_of(row), row.script or "?"].append(row)
    all_pairs = {key[1:]: None for key in rows}  # in the order of their first jobs

    def line(first: date, last: date, phone: str | None, script: str | None) -> HistoryLine:
        def within(first: date, last: date) -> Figures:
            days = [first + timedelta(days=more) for more in range((last - first).days + 1)]
            pairs = [(phone, script)] if phone and script else all_pairs
            return Figures.of(
                row for day in days for pair in pairs for row in rows.get((day, *pair), ())
            )

        week = (first - timedelta(days=WEEK_DAYS), first - timedelta(days=1))
        return HistoryLine(
            day=first if first == last else None,
            phone=phone,
            script=script,
            now=within(first, last),
            before=within(*week),
        )

    keys = sorted((key for key in rows if key[0] >= first), key=_order)
    pairs = sorted({key[1:] for key in keys}, key=lambda pair: (natural(pair[0]), pair[1]))
    every_day = [begin + timedelta(days=more) for more in range((last - begin).days + 1)]
    lines = {day: line(day, day, None, None) for day in every_day}
    return History(
        first=first,
        last=last,
        each=tuple(line(day, day, phone, script) for day, phone, script in keys),
        phones=tuple(line(first, last, phone, script) for phone, script in pairs),
        days=tuple(lines[day] for day in every_day if day >= first),
        week_before=tuple((day, lines[day].now) for day in every_day if day < first),
        total=line(first, last, None, None),
    )


def each_job_once(tables: Iterable[Sequence[Row]]) -> list[Row]:
    """Each job as it ended last, or stands if it has not ended. See the top of this module."""
    without_id: list[Row] = []
    by_id: dict[int, list[Row]] = defaultdict(list)
    for rows in tables:
        for row in rows:
            if row.job is None:
                without_id.append(row)
            else:
                by_id[row.job].append(row)
    once = list(without_id)
    for rows in by_id.values():
        for same in _told_apart(sorted(rows, key=lambda row: row.since)):
            once += _ends(same)
    return once


def day_of(moment: datetime, zone: tzinfo | None) -> date:
    """The day of a moment in a time zone; without one, by the clock of this machine."""
    return moment.astimezone(zone).date()


def phone_of(row: Row) -> str:
    """What its figures are kept under: the phone, or the account where no phone is known."""
    return row.phone or (f"account {row.account}" if row.account else "?")


def _told_apart(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows under one id, by the job they may be of. Two TikMatrix may give the same ids."""
    jobs: list[list[Row]] = []
    for row in rows:
        for job in jobs:
            if all(_agree(row, other) for other in job):
                job.append(row)
                break
        else:
            jobs.append([row])
    return jobs


def _agree(one: Row, other: Row, fields: Sequence[str] = _SAME) -> bool:
    """Whether two rows do not contradict each other; not every one tells everything."""
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _ends(rows: Sequence[Row]) -> list[Row]:
    """How a job ended last, from its rows by time; more ends where its id was given anew."""
    known: dict[str, Any] = {}
    for row in rows:
        known |= {field: getattr(row, field) for field in _SAME if getattr(row, field)}
    done: list[Row] = []
    now: Row | None = None
    for row in rows:
        if now is None or now.status is Outcome.UNKNOWN:
            now = row
        elif row.status in (Outcome.COMPLETED, Outcome.FAILED):
            same = row.status is now.status and _agree(row, now, ("duration", "retries"))
            if not same and now.status is Outcome.COMPLETED:
                done.append(now)
            now = now if same else row
        elif row.status in _OPEN and now.status in (Outcome.FAILED, Outcome.GONE):
            now = row  # it is run again, or was not gone
        elif now.status in _OPEN and row.status is not Outcome.UNKNOWN:
            now = row
    if now is not None:
        done.append(now)
    return [row.model_copy(update=known) for row in done]


def _order(key: tuple[date, str, str]) -> tuple[Any, ...]:
    return (key[0], natural(key[1]), key[2])
