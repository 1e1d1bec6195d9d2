"""The same simulated work for every way of waiting, on a virtual clock.

The phones, their queues and the API are the simulator's; the client is the real one. An answer
takes no virtual time unless told, so what is measured is when a question was asked, and how many
were.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

import httpx

from tests.virtual_clock import VirtualTikMatrix, run
from tikmatrix_tasks import Batch
from tikmatrix_tasks.simulator import Answer, Api, Options

INTERVAL_SECONDS = 2.0
SCRIPT = "post"  # takes 54 to 66 s, and a phone begins one up to 10 s after the last


@dataclass(frozen=True)
class Work:
    """An evening: jobs spread evenly over phones, all submitted at its beginning."""

    jobs: int
    phones: int = 100
    history: int = 0
    """Old jobs that TikMatrix keeps beside them."""
    waits: int = 1
    """Waits side by side, each for its share of the jobs."""
    least_ends: int = 300
    """A median needs so many ends: an evening with fewer is run again with other seeds."""

    @property
    def evenings(self) -> int:
        return max(1, self.least_ends // self.jobs)

    @property
    def running_at_once(self) -> int:
        return min(self.jobs, self.phones)

    @property
    def name(self) -> str:
        return f"{self.jobs:,} on {self.phones:,}"


class MeteredTikMatrix(VirtualTikMatrix):
    """A simulated TikMatrix with work to do that knows what answering costs."""

    def __init__(self, work: Work, seed: int = 0, job_seconds: float | None = None) -> None:
        super().__init__(
            Options(
                phones=work.phones,
                device_limit=work.phones,
                auto_retry=False,
                seed=seed,
                durations={} if job_seconds is None else {SCRIPT: job_seconds},
            )
        )
        self.api = self._metered = _MeteredApi(self.engine)
        self.answer_seconds = 0.0
        if work.history:
            self.engine.add_history(work.history)
        self.job_named = _create(self, work)

    @property
    def answering_seconds(self) -> float:
        """CPU seconds spent on being TikMatrix."""
        return self._metered.seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.answer_seconds:
            await asyncio.sleep(self.answer_seconds)
        return await super().handle_async_request(request)

    def batches(self, waits: int) -> list[Batch]:
        """The jobs, dealt out to so many waits."""
        names, ids = list(self.job_named), list(self.job_named.values())
        return [
            Batch(
                job_ids=tuple(ids[first::waits]),
                script_name=SCRIPT,
                owners=tuple(names[first::waits]),
                by_account=True,
                expected_jobs=len(ids[first::waits]),
                created_at=datetime.now(timezone.utc),
            )
            for first in range(waits)
        ]

    def ends(self) -> dict[int, float]:
        """When each job ended, or math.inf."""
        return {
            job.id: math.inf if job.ended_at is None else job.ended_at for job in self.engine.jobs
        }


class _MeteredApi(Api):
    seconds = 0.0

    def answer(self, method: str, path: str, query: str = "", body: bytes = b"") -> Answer:
        started = time.process_time()
        try:
            return super().answer(method, path, query, body)
        finally:
            self.seconds += time.process_time() - started


def _create(tikmatrix: VirtualTikMatrix, work: Work) -> dict[str, int]:
    """Job ids by account. Each job runs for an account of its own, so a sentence names one job."""
    job_named: dict[str, int] = {}
    for number in range(work.jobs):
        name = f"account-{number}"
        body = {
            "serials": [f"phone-{number % work.phones + 1}"],
            "script_name": SCRIPT,
            "script_config": {"username": name},
        }
        (job_named[name],) = tikmatrix.engine.create(body)
    return job_named


class Notices:
    """When a way of waiting noticed that a job had ended."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self.at: dict[int, float] = {}

    def __call__(self, job_id: int) -> None:
        self.at.setdefault(job_id, self._now())


class Strategy(Protocol):
    """A way of waiting: returns when all jobs have ended, and tells of each end it notices."""

    async def __call__(
        self, tikmatrix: MeteredTikMatrix, batches: Sequence[Batch], noticed: Notices
    ) -> None: ...


@dataclass(frozen=True)
class Figures:
    """What one way of waiting cost: means of the evenings, and quantiles of all ends."""

    strategy: str
    work: Work
    requests: float
    median: float
    """Of the time from an end until it was noticed, in intervals."""
    percentile_95: float
    intervals: float
    """How many passed from the beginning until the last end."""
    cpu_seconds: float | None = None
    """The client's. None where nothing was sent."""
    counted: bool = False
    """By the strategy's arithmetic from the ends of the same work, instead of sent."""


@dataclass(frozen=True)
class Evening:
    """What came of one evening."""

    ends: dict[int, float]
    """Seconds after the waits began."""
    noticed: dict[int, float]
    requests: float
    cpu_seconds: float | None = None


def evenings(strategy: Strategy, work: Work) -> list[Evening]:
    """Wait in one way through all evenings of some work."""
    return [run(_evening(strategy, work, seed)) for seed in range(work.evenings)]


async def _evening(strategy: Strategy, work: Work, seed: int) -> Evening:
    tikmatrix = MeteredTikMatrix(work, seed)
    batches = tikmatrix.batches(work.waits)
    noticed = Notices()
    began = asyncio.get_running_loop().time()
    cpu_began = time.process_time()
    await strategy(tikmatrix, batches, noticed)
    cpu_seconds = time.process_time() - cpu_began - tikmatrix.answering_seconds
    return Evening(
        ends={job: end - began for job, end in tikmatrix.ends().items()},
        noticed={job: at - began for job, at in noticed.at.items()},
        requests=len(tikmatrix.api.requests),
        cpu_seconds=cpu_seconds,
    )


def counted(evening: Evening, noticed_at: Callable[[float], float], requests: float) -> Evening:
    """The same evening for a way of waiting that is reckoned and not run."""
    noticed = {job: noticed_at(end) for job, end in evening.ends.items()}
    return Evening(evening.ends, noticed, requests)


def figures(name: str, work: Work, seen: Sequence[Evening], *, counted: bool = False) -> Figures:
    """
    Raises:
        ValueError: an end was missed, or noticed before it came; then no figure means anything.
    """
    late: list[float] = []
    for evening in seen:
        if set(evening.noticed) != set(evening.ends):
            raise ValueError(f"{name}, {work}: not every end was noticed")
        late += [evening.noticed[job] - end for job, end in evening.ends.items()]
    if min(late) < -1e-6:
        raise ValueError(f"{name}, {work}: an end was noticed before it came")
    cpu = [evening.cpu_seconds for evening in seen if evening.cpu_seconds is not None]
    return Figures(
        strategy=name,
        work=work,
        requests=_mean([evening.requests for evening in seen]),
        median=_quantile(late, 0.5) / INTERVAL_SECONDS,
        percentile_95=_quantile(late, 0.95) / INTERVAL_SECONDS,
        intervals=_mean([max(evening.ends.values()) for evening in seen]) / INTERVAL_SECONDS,
        cpu_seconds=_mean(cpu) if cpu else None,
        counted=counted,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
