"""One row for each job of a flow run: what the Prefect UI shows, and what the history reads back.

A run keeps its rows in a table artifact, updated in place. The table is the record: there is no
other database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import BaseModel, ConfigDict

from tikmatrix_tasks.jobs import JobReport, Outcome

TABLE = "tikmatrix-jobs"
PROGRESS = "tikmatrix-progress"
SUMMARY = "tikmatrix-summary"
_LONGEST = timedelta(days=30)
_RANK = {Outcome.RUNNING: 1, Outcome.PENDING: 2, Outcome.COMPLETED: 3}
_TIME = "%Y-%m-%d %H:%M:%S UTC"


def artifact_key(kind: str, flow_name: str, deployment_name: str | None = None) -> str:
    """The key of an artifact of this kind: one for each deployment, or each flow without one.

    Prefect lists all artifacts of a key by time, so the key is what a history is paged by.
    """
    names = [kind, flow_name]
    if deployment_name is not None and _slug(deployment_name) != _slug(flow_name):
        names.append(deployment_name)
    return "-".join(map(_slug, names))


def _slug(name: str) -> str:
    """Prefect takes lowercase letters, numbers and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Row(BaseModel):
    """How one job stands. `since` is when this was first seen, `duration` how long the job ran."""

    model_config = ConfigDict(frozen=True)

    # In the order of the table's columns: the UI cuts off what is on the right.
    phone: str | None = None
    script: str | None = None
    status: Outcome
    remark: str | None = None
    duration: timedelta | None = None
    since: datetime
    job: int | None = None
    retries: int | None = None
    account: str | None = None

    @classmethod
    def of(cls, job: JobReport, since: datetime, *, by_account: bool = False) -> Row:
        """The row of a job whose `owner`, with `by_account`, is an account."""
        return cls(
            phone=job.serial or (None if by_account else job.owner),
            account=job.username or (job.owner if by_account else None),
            script=job.script_name,
            job=job.job_id,
            status=job.outcome,
            since=since,
            duration=_believable(job.seconds),
            retries=job.retry_count,
            remark=job.remark,
        )

    @classmethod
    def read(cls, cells: dict[str, Any]) -> Row | None:
        """A row from a table artifact; None where somebody else's table has other columns."""
        try:
            hours, minutes, seconds = map(int, (cells.get("duration") or "0:0:0").split(":"))
            since = datetime.strptime(cells["since"], _TIME).replace(tzinfo=timezone.utc)
            ran = timedelta(hours=hours, minutes=minutes, seconds=seconds)
            known = cells | {"since": since, "duration": ran if cells.get("duration") else None}
            return cls.model_validate(known)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return None

    @property
    def owner(self) -> str:
        """What a person calls whoever the job belongs to."""
        return self.phone or self.account or (f"job {self.job}" if self.job else "?")

    def cells(self) -> dict[str, Any]:
        """The row for a table artifact: `since` in UTC, `duration` as H:MM:SS."""
        since = self.since.astimezone(timezone.utc).strftime(_TIME)
        ran = None if self.duration is None else in_hours(self.duration)
        return self.model_dump(mode="json") | {"since": since, "duration": ran}


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """What needs a hand first, then what goes on, then what is done; each by phone.

    The UI shows ten rows at once and does not sort.
    """
    return sorted(rows, key=lambda row: (_RANK.get(row.status, 0), natural(row.owner)))


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key by which `phone-2` goes before `phone-10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _believable(seconds: float | None) -> timedelta | None:
    """None also for a time since the year 1, which is what some programs write for none."""
    if seconds is None or not 0 <= seconds <= _LONGEST.total_seconds():
        return None
    return timedelta(seconds=seconds)


def in_hours(duration: timedelta) -> str:
    """`0:05:03`, also for more than a day."""
    seconds = round(duration.total_seconds())
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
