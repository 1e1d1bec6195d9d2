"""A job, and the table that finds jobs by status, serial, script and source without a scan."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PENDING, RUNNING, COMPLETED, FAILED = 0, 1, 2, 3

Source = Literal["ui", "api"]


@dataclass(slots=True)
class Job:
    """What the API calls a task. Times are simulated seconds; None where it has not happened."""

    id: int
    serial: str
    username: str
    script_name: str
    script_config: dict[str, Any]
    target: str | None
    source: Source
    due_at: float
    status: int = PENDING
    remark: str = ""
    retry_count: int = 0
    runs: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    ends_at: float | None = None
    """While it runs: when it will end."""
    fails_with: str | None = None
    """While it runs: the remark it will fail with."""
    retry_at: float | None = None
    """While it is failed: when Auto Retry runs it again."""
    turn: int = field(default=0, compare=False)
    """Counts changes of status, so that an event planned before one is known to be stale."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The filters of `GET /task`; None: any."""

    status: int | None = None
    serial: str | None = None
    script_name: str | None = None
    source: str | None = None

    def named(self) -> list[tuple[str, object]]:
        every = (
            ("status", self.status),
            ("serial", self.serial),
            ("script_name", self.script_name),
            ("source", self.source),
        )
        return [(name, value) for name, value in every if value is not None]

    def accepts(self, job: Job) -> bool:
        return all(getattr(job, name) == value for name, value in self.named())


class JobTable:
    """Jobs by id, with sorted ids per status, serial, script and source.

    One filter costs nothing, several cost as much as the most selective of them has jobs.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._ids: list[int] = []
        self._index: dict[tuple[str, object], list[int]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return (self._jobs[job_id] for job_id in self._ids)

    def get(self, job_id: int) -> Job | None:
        return self._jobs.get(job_id)

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job
        insort(self._ids, job.id)
        for key in _keys(job):
            insort(self._index.setdefault(key, []), job.id)

    def remove(self, job: Job) -> None:
        del self._jobs[job.id]
        _discard(self._ids, job.id)
        for key in _keys(job):
            _discard(self._index[key], job.id)

    def set_status(self, job: Job, status: int) -> None:
        _discard(self._index["status", job.status], job.id)
        job.status = status
        job.turn += 1
        insort(self._index.setdefault(("status", status), []), job.id)

    def ids(self, wanted: Filter) -> Sequence[int]:
        """The ids of the jobs the filter accepts, oldest first. Not to be changed."""
        named = wanted.named()
        if not named:
            return self._ids
        shortest = min((self._index.get(key, []) for key in named), key=len)
        if len(named) == 1:
            return shortest
        return [job_id for job_id in shortest if wanted.accepts(self._jobs[job_id])]


def _keys(job: Job) -> list[tuple[str, object]]:
    return Filter(job.status, job.serial, job.script_name, job.source).named()


def _discard(ids: list[int], job_id: int) -> None:
    del ids[bisect_left(ids, job_id)]
