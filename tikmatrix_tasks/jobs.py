"""What we receive: jobs, their batch, and the report of what became of them.

What TikMatrix sends is read tolerantly: unknown fields are ignored, and only `id` and `status`
are required of a row, because no API page promises more (the rest is what its own screens show).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tikmatrix_tasks.errors import UnknownJobStatus


class JobStatus(IntEnum):
    """The documented statuses of a job."""

    PENDING = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3


def _text_or_none(value: object) -> object:
    return None if value is None or value == "" else str(value)


def _time_or_none(value: object) -> object:
    """`YYYY-MM-DD HH:MM:SS` of the TikMatrix machine; anything else counts as not known."""
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        return None


def _number_or_none(value: object) -> object:
    try:
        return int(str(value))
    except ValueError:
        return None


def _settings_or_none(value: object) -> object:
    """Settings come as an object or as JSON text; anything else counts as not known."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


Text = Annotated[str | None, BeforeValidator(_text_or_none)]
LocalTime = Annotated[datetime | None, BeforeValidator(_time_or_none)]
Number = Annotated[int | None, BeforeValidator(_number_or_none)]


class Received(BaseModel):
    """Something TikMatrix sent. Fields nobody knows are ignored; errors repeat no value."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    own_words: ClassVar[tuple[str, ...]] = ()
    """Fields that hold sentences of TikMatrix's, which may repeat what it was sent."""


class Job(Received):
    """A job as TikMatrix's row shows it.

    `start_time` and `end_time` are the TikMatrix machine's local time, without a zone.
    """

    own_words = ("remark",)

    id: int
    status: int
    serial: Text = None
    script_name: Text = None
    script_args: Annotated[dict[str, Any] | None, BeforeValidator(_settings_or_none)] = Field(
        default=None, repr=False
    )
    start_time: LocalTime = None
    end_time: LocalTime = None
    remark: Text = None
    source: Text = None
    retry_count: Number = None

    @property
    def known_status(self) -> JobStatus:
        """The status, if it is a documented one.

        Raises:
            UnknownJobStatus: it is not 0 to 3.
        """
        try:
            return JobStatus(self.status)
        except ValueError:
            raise UnknownJobStatus(self.id, self.status) from None

    @property
    def mark(self) -> tuple[object, ...]:
        """What changes whenever something happens to the job, as far as its row tells."""
        return (self.status, self.retry_count, self.end_time)

    @property
    def username(self) -> str | None:
        """The account it runs for, where the row tells."""
        name = (self.script_args or {}).get("username")
        return str(name) if name else None

    @property
    def seconds(self) -> float | None:
        """How long it ran, where the row tells."""
        if self.start_time is None or self.end_time is None:
            return None
        return (self.end_time - self.start_time).total_seconds()

    def report(self, owner: str | None, script_name: str | None = None) -> JobReport:
        """How it stands by this row, for its owner; `script_name` is what was asked for.

        Raises:
            UnknownJobStatus: its status is not a documented one.
        """
        return JobReport(
            job_id=self.id,
            script_name=script_name or self.script_name,
            outcome=Outcome(self.known_status.name.lower()),
            owner=owner,
            serial=self.serial,
            username=self.username,
            remark=self.remark,
            retry_count=self.retry_count,
            seconds=self.seconds,
        )


class JobPage(Received):
    """One page of jobs. `total` is None where TikMatrix does not say."""

    jobs: tuple[Job, ...]
    total: Number = None
    unreadable_rows: int = 0
    """Rows whose id or status could not be read; they are left out of `jobs`."""


class License(Received):
    """The plan TikMatrix runs under; `device_limit` is how many phones it allows."""

    own_words = ("message",)

    plan_name: Text = None
    api_enabled: bool | None = None
    device_limit: Number = None
    message: Text = None


class Stats(Received):
    """How many jobs TikMatrix keeps, in all and by status; anybody's, not only ours."""

    total: int
    pending: int
    running: int
    completed: int
    failed: int


class Account(Received):
    """An account that TikMatrix manages, and the phone (`device`) it is on."""

    own_words = ("logined_text", "status_text")

    id: Number = None
    username: Text = None
    email: Annotated[Text, Field(repr=False)] = None
    platform: Text = None
    packagename: Text = None
    device: Text = None
    device_online: bool | None = None
    device_name: Text = None
    logined: Number = None
    logined_text: Text = None
    status: Number = None
    status_text: Text = None
    tags: tuple[str, ...] | None = None


class AccountPage(Received):
    """One page of accounts."""

    accounts: tuple[Account, ...]
    total: Number = None
    page: Number = None
    page_size: Number = None


class CreatedJobs(Received):
    """The answer to a submission: the ids of the jobs it created."""

    task_ids: tuple[int, ...]
    created_count: Number = None


def _each_once(job_ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(job_ids))


class Batch(BaseModel):
    """The jobs that one submission created. Holds no caption, path or secret.

    `owners` are the phones, or with `by_account` the accounts, that were asked for;
    `expected_jobs` is None where the number was not known beforehand.
    """

    model_config = ConfigDict(frozen=True)

    job_ids: Annotated[tuple[int, ...], AfterValidator(_each_once)]
    script_name: str | None = None
    owners: tuple[str, ...] = ()
    by_account: bool = False
    expected_jobs: int | None = None
    expected_seconds: float | None = None
    start_time: str | None = None
    created_at: datetime | None = None
    decisions: tuple[str, ...] = ()
    """What was decided where the submission was in doubt, and why."""

    @classmethod
    def of(cls, job_ids: Iterable[int]) -> Batch:
        """A batch of jobs of which nothing but their ids is known."""
        return cls(job_ids=tuple(job_ids))

    def part(self, job_ids: Iterable[int], owners: Iterable[str]) -> Batch:
        """The same batch, with some of its jobs and owners only."""
        ids = tuple(job_ids)
        return self.model_copy(
            update={"job_ids": ids, "owners": tuple(owners), "expected_jobs": len(ids)}
        )

    def __str__(self) -> str:
        count = len(self.job_ids)
        kind = f"{self.script_name} job" if self.script_name else "job"
        return f"{count} {kind}{'' if count == 1 else 's'}"


def tell_ids(job_ids: Iterable[int]) -> str:
    """`101-103, 107`: ids in order, three and more in a row by the first and the last."""
    rows: list[list[int]] = []
    for job_id in sorted(job_ids):
        if rows and rows[-1][-1] == job_id - 1:
            rows[-1].append(job_id)
        else:
            rows.append([job_id])
    return ", ".join(
        f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows
    )


def first_few(things: Sequence[object], most: int) -> list[str]:
    """The first of them as text and, where there are others, how many: `and 3 more`."""
    more = len(things) - most
    return [*map(str, things[:most]), *([f"and {more} more"] if more > 0 else [])]


def tell_names(names: Sequence[str], most: int) -> str:
    """`phone-1, phone-2 and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class Outcome(str, Enum):
    """What became of a job, as far as it is known."""

    COMPLETED = "completed"
    FAILED = "failed"
    GONE = "gone"
    """Deleted by someone."""
    PENDING = "pending"
    RUNNING = "running"
    UNKNOWN = "unknown"
    """Never seen in an answer."""
    NOT_CREATED = "not created"
    """Asked for, but TikMatrix created no job for it."""
    NOT_STARTED = "not started"
    """Held back by the flow; `remark` says why."""


class JobReport(BaseModel):
    """What became of one job. `seconds` is from start to end by TikMatrix's clock."""

    model_config = ConfigDict(frozen=True)

    job_id: int | None = None
    script_name: str | None = None
    outcome: Outcome
    name: str | None = None
    """What a person calls it, where phone and script do not tell it apart: a row, a user."""
    earlier: bool = False
    """Whether this became of it in an earlier run."""
    owner: str | None = None
    """The phone's serial or the account's name, whichever was asked for."""
    serial: str | None = None
    username: str | None = None
    remark: str | None = None
    retry_count: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        who = (
            self.name
            or self.owner
            or (f"job {self.job_id}" if self.job_id is not None else "a phone")
        )
        return f"{who}: {self.what}"

    @property
    def what(self) -> str:
        """What became of it, without whose it is: `post failed (element not found)`."""
        when = " in an earlier run" if self.earlier else ""
        why = f" ({self.remark})" if self.remark else ""
        return f"{self.script_name or 'job'} {self.outcome.value}{when}{why}"


class Report(BaseModel):
    """What became of a batch, or of several."""

    model_config = ConfigDict(frozen=True)

    jobs: tuple[JobReport, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there were jobs and every one completed."""
        return bool(self.jobs) and all(job.outcome is Outcome.COMPLETED for job in self.jobs)

    @property
    def completed(self) -> tuple[JobReport, ...]:
        return tuple(job for job in self.jobs if job.outcome is Outcome.COMPLETED)

    @property
    def not_completed(self) -> tuple[JobReport, ...]:
        return tuple(job for job in self.jobs if job.outcome is not Outcome.COMPLETED)

    def __add__(self, other: Report) -> Report:
        return Report(jobs=self.jobs + other.jobs)

    def __str__(self) -> str:
        sentence = f"{len(self.completed)} of {len(self.jobs)} completed"
        return "; ".join([sentence, *map(str, self.not_completed)])
