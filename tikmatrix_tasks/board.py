"""The live picture of a flow run: a table of its jobs and its progress, updated in place.

Both are artifacts of the outermost flow run, so a run that is tried again goes on with them, and
they stay when its process dies: each write says as of when it is true. Whatever goes wrong with
them must not disturb the run.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger

from tikmatrix_tasks.job_table import (
    PROGRESS,
    SUMMARY,
    TABLE,
    Row,
    artifact_key,
    natural,
    worst_first,
)
from tikmatrix_tasks.jobs import Batch, JobReport, Outcome, Report, tell_names
from tikmatrix_tasks.runs import outermost_run
from tikmatrix_tasks.summary import summary

ENDED = (
    Outcome.COMPLETED,
    Outcome.FAILED,
    Outcome.GONE,
    Outcome.NOT_CREATED,
    Outcome.NOT_STARTED,
)
MOST_ROWS = 1000
"""How many jobs the table shows; the rest is counted. Prefect's UI is slow with more."""
MOST_NAMED = 10
"""How many running phones the progress names."""
_BETWEEN_WRITES_SECONDS = 2.0
_ROWS_PER_SECOND = 100  # a table of 1,000 rows is written every 10 s at most
_STILL_SECONDS = 60.0  # so often "as of" is brought up to date while nothing moves
_LAST_WRITE_SECONDS = 15.0
_ALMOST = 0.95  # of a running job's expected time; it is done when it is done

Key = tuple[int | None, str | None, str | None]
LastLook = Callable[[], datetime | None]
Write = Callable[[PrefectClient], Awaitable[None]]


class Board:
    """What is known of the jobs of one flow run. For one event loop only."""

    def __init__(self, run: FlowRun) -> None:
        self.run = run
        self.attempt = run.run_count  # Prefect changes the object of the run
        self.rows: dict[Key, Row] = {}
        self.began: dict[int, datetime] = {}
        """When jobs were first seen running."""
        self.decisions: dict[str, None] = {}
        self._looked_back = False
        self._flow_name = ""
        self._deployment_name: str | None = None
        self._of_subflows: list[str] = []  # their sentences
        self._by_account = False
        self._expected_jobs = 0
        self._expected_seconds: dict[int, float] = {}
        self._artifacts: dict[str, UUID] = {}
        self._tags: set[str] = set()
        self._looks: list[LastLook] = []
        self._silent_since: datetime | None = None
        self._as_of: datetime | None = None
        self._changed = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._complained = False

    def expect(self, jobs: int) -> None:
        """The run is going to have so many jobs in all, also those that are not created yet."""
        self._expected_jobs = jobs

    def begin_again(self, run: FlowRun) -> None:
        """The run is tried again: what its last attempt did not begin, this one may."""
        self.run, self.attempt = run, run.run_count
        self.rows = {key: row for key, row in self.rows.items() if row.job is not None}
        self._of_subflows.clear()

    def saw(
        self, jobs: Sequence[JobReport], *, by_account: bool = False, looked: bool = False
    ) -> None:
        """That jobs stand like this now; `looked` where somebody did so outside a wait."""
        now = _now()
        if looked:
            self._as_of = now
        for job in jobs:
            key = _key(job)
            before, row = self.rows.get(key), Row.of(job, now, by_account=by_account)
            if before is not None and row.status is Outcome.UNKNOWN:
                continue  # another wait begins; what was known stays
            if before is not None:
                row = _after(before, row)
            if row.job is not None and row.status is Outcome.RUNNING:
                self.began[row.job] = row.since
            self.rows[key] = row
        self._changed.set()

    def silent(self, why: Exception | None) -> None:
        """TikMatrix gives no answer, or with None answers again."""
        self._silent_since = None if why is None else _now()
        self._changed.set()

    @asynccontextmanager
    async def following(self, batch: Batch, last_look: LastLook) -> AsyncIterator[None]:
        """Keep the artifacts up to date while a wait for these jobs goes on."""
        self._by_account |= batch.by_account
        self.decisions.update(dict.fromkeys(batch.decisions))
        if batch.expected_seconds is not None:
            for job_id in batch.job_ids:
                self._expected_seconds[job_id] = batch.expected_seconds
        self._looks.append(last_look)
        self._changed.set()
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._keep_up())
        try:
            yield
        finally:
            self._looks.remove(last_look)
            self._note_look(last_look)
            self._changed.set()
            if not self._looks:  # the process may end right after the last wait
                await self.write()

    async def write(self) -> None:
        """Write what is known now."""
        await self._in_time(self._write_jobs)

    async def conclude(self, report: Report, sentence: str, flow_run_id: UUID) -> None:
        """Write what the report of a run that ends adds to the table, and its summary.

        Of a run with subflows that conclude, the summary has the sentence of each, until it
        concludes itself.
        """
        if flow_run_id != self.run.id:
            self._of_subflows.append(sentence)
            sentence = "; ".join(self._of_subflows)
        self._expected_jobs = 0  # what was held back is no more to come
        without_id = [job for job in report.jobs if job.job_id is None and not job.earlier]
        if self.rows:
            self.saw(without_id, by_account=self._by_account)
            await self.write()
        rows = {**self.rows}
        for job in report.jobs:
            row = Row.of(job, _now(), by_account=self._by_account)
            rows.setdefault(_key(job), row)
        if rows:
            await self._in_time(partial(self._write_summary, sentence, list(rows.values())))

    async def _write_summary(
        self, sentence: str, rows: Sequence[Row], prefect: PrefectClient
    ) -> None:
        text = summary(
            sentence,
            rows,
            decisions=self.decisions,
            began=self.began,
            started=self.run.start_time,
            now=_now(),
        )
        await self._put(prefect, SUMMARY, "markdown", text, sentence)

    async def _in_time(self, write: Write) -> None:
        writing = asyncio.ensure_future(self._without_harm(write))
        try:
            await asyncio.wait([writing], timeout=_LAST_WRITE_SECONDS)
        finally:
            writing.cancel()

    async def _without_harm(self, write: Write) -> None:
        """The run goes on without its picture, whatever goes wrong with it."""
        async with self._lock:
            try:
                async with get_client() as prefect:
                    if not self._looked_back:
                        await self._look_back(prefect)
                    await write(prefect)
            except Exception as err:
                logger = get_logger("tikmatrix")
                logger.debug("could not write the run's artifacts", exc_info=True)
                if not self._complained:
                    logger.warning("The table of this run's jobs is not up to date: %r", err)
                self._complained = True

    async def _keep_up(self) -> None:
        try:
            while self._looks:
                await self._without_harm(self._write_jobs)
                pause = max(_BETWEEN_WRITES_SECONDS, len(self.rows) / _ROWS_PER_SECOND)
                await asyncio.sleep(pause)
                changing = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([changing], timeout=self._stillness())
                changing.cancel()
        finally:
            self._writing = None

    def _stillness(self) -> float:
        """How long nothing need be written: a job of known length moves the progress by itself."""
        return min([_STILL_SECONDS, *(each / 20 for each in self._expected_seconds.values())])

    def _note_look(self, last_look: LastLook) -> None:
        seen = last_look()
        if seen is not None:
            self._as_of = max(self._as_of or seen, seen)

    async def _write_jobs(self, prefect: PrefectClient) -> None:
        self._changed.clear()
        for look in self._looks:
            self._note_look(look)
        await self._tag(prefect)
        rows = worst_first(self.rows.values())
        cells = [row.cells() for row in rows[:MOST_ROWS]]
        left_out = f"\n\nand {len(rows) - MOST_ROWS} jobs more" if len(rows) > MOST_ROWS else ""
        about = [f"{self.tell()}{left_out}", *(f"Submission: {it}" for it in self.decisions)]
        await self._put(prefect, TABLE, "table", json.dumps(cells), "\n\n".join(about))
        await self._put(prefect, PROGRESS, "progress", self.progress(), self.tell())

    async def _put(
        self,
        prefect: PrefectClient,
        kind: str,
        of_type: Literal["table", "progress", "markdown"],
        data: str | float,
        description: str,
    ) -> None:
        if kind in self._artifacts:
            # Not `update_artifact`, which emits the whole table as an event each time.
            await prefect.request(
                "PATCH",
                "/artifacts/{id}",
                path_params={"id": self._artifacts[kind]},
                json={"data": data, "description": description},
            )
            return
        created = await prefect.create_artifact(
            ArtifactCreate(
                key=artifact_key(kind, self._flow_name, self._deployment_name),
                type=of_type,
                data=data,
                description=description,
                flow_run_id=self.run.id,
            )
        )
        self._artifacts[kind] = created.id

    async def _look_back(self, prefect: PrefectClient) -> None:
        """What this run has written already, before its process died."""
        self._flow_name = (await prefect.read_flow(self.run.flow_id)).name
        if self.run.deployment_id is not None:
            deployment = await prefect.read_deployment(self.run.deployment_id)
            self._deployment_name = deployment.name
        kind_of = {
            artifact_key(kind, self._flow_name, self._deployment_name): kind
            for kind in (TABLE, PROGRESS, SUMMARY)
        }
        for artifact in await prefect.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[self.run.id]),
                key=ArtifactFilterKey(any_=list(kind_of)),
            )
        ):
            kind = kind_of[artifact.key or ""]
            self._artifacts[kind] = artifact.id
            if kind == TABLE:
                self._take_over(json.loads(str(artifact.data)), artifact.description or "")
        self._looked_back = True

    def _take_over(self, cells: Iterable[dict[str, Any]], description: str) -> None:
        """Go on with the rows of an earlier attempt. What it did not begin, this one may."""
        now_known, self.rows = self.rows, {}
        for row in filter(None, map(Row.read, cells)):
            if row.job is not None:
                self.rows[row.job, None, None] = row
                if row.status is Outcome.RUNNING:
                    self.began.setdefault(row.job, row.since)
        for key, row in now_known.items():
            before = self.rows.get(key)
            if before is None or row.status is not Outcome.UNKNOWN:
                self.rows[key] = row if before is None else _after(before, row)
        found = re.search(r"as of (\S+ \S+) UTC", description)
        if found and self._as_of is None:
            self._as_of = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc)

    async def _tag(self, prefect: PrefectClient) -> None:
        """Let runs be found by their scripts, and by what started them."""
        scripts = [row.script for row in self.rows.values() if row.script is not None]
        wanted = ["tikmatrix", *scripts, f"origin:{_origin(self.run)}"]
        if {*wanted} <= self._tags:
            return
        had = (await prefect.read_flow_run(self.run.id)).tags
        tags = list(dict.fromkeys([*had, *wanted]))  # the UI shows the first three at once
        await prefect.update_flow_run(self.run.id, tags=tags)
        self._tags = {*tags}

    def progress(self) -> float:
        """How much of the run's work is done, in percent."""
        rows = self.rows.values()
        done = float(sum(row.status in ENDED for row in rows))
        for row in rows:
            expected = self._expected_seconds.get(row.job or 0)
            if row.status is Outcome.RUNNING and expected:
                done += min((_now() - row.since).total_seconds() / expected, _ALMOST)
        return round(100 * done / max(len(rows), self._expected_jobs, 1), 1)

    def tell(self) -> str:
        """`5 of 12 jobs have ended, 1 failed; running: phone-1; as of 2026-11-24 19:03:12 UTC`.

        The UI cuts it off after about 35 letters where it lists a run's artifacts.
        """
        by_status: dict[Outcome, list[Row]] = {}
        for row in self.rows.values():
            by_status.setdefault(row.status, []).append(row)
        ended = sum(len(by_status.get(status, ())) for status in ENDED)
        told = [f"{ended} of {max(len(self.rows), self._expected_jobs)} jobs have ended"]
        told += [
            f"{len(rows)} {status.value}"
            for status, rows in by_status.items()
            if status not in (Outcome.COMPLETED, Outcome.RUNNING)
        ]
        parts = [", ".join(told)]
        running = sorted((row.owner for row in by_status.get(Outcome.RUNNING, ())), key=natural)
        if running:
            parts.append(f"running: {tell_names(running, MOST_NAMED)}")
        if self._silent_since is not None:
            parts.append(f"TikMatrix has given no answer since {self._silent_since:%H:%M:%S} UTC")
        seen = "not looked at yet"
        if self._as_of is not None:
            seen = f"as of {self._as_of:%Y-%m-%d %H:%M:%S} UTC"
        parts.append(seen)
        return "; ".join(parts)


def _after(before: Row, row: Row) -> Row:
    """What is known of a job now. One that is gone tells no more whose it was, or why."""
    if row.status is Outcome.GONE:
        if before.status is Outcome.COMPLETED:
            return before
        return before.model_copy(
            update={
                "status": row.status,
                "since": before.since if before.status is row.status else row.since,
            }
        )
    return row.model_copy(
        update={
            "phone": row.phone or before.phone,
            "account": row.account or before.account,
            "script": row.script or before.script,
            "since": before.since if before.status is row.status else row.since,
        }
    )


def _key(job: JobReport) -> Key:
    """A job that exists is known by its id: what else is told of it may come later."""
    if job.job_id is not None:
        return (job.job_id, None, None)
    return (None, job.script_name, job.owner)


def _origin(run: FlowRun) -> str:
    """What started a run. Prefect does not tell a person's click from a request by HTTP."""
    if run.auto_scheduled:
        return "schedule"
    if run.created_by is not None and run.created_by.type == "AUTOMATION":
        return "automation"
    if run.parent_task_run_id is not None:
        return "flow"
    return "python" if run.deployment_id is None else "request"


def _now() -> datetime:
    return datetime.now(timezone.utc)


_boards: dict[UUID, Board] = {}


def board_of(run: FlowRun) -> Board:
    """The board of a flow run in this process. For one event loop only."""
    board = _boards.setdefault(run.id, Board(run))
    if run.run_count != board.attempt:
        board.begin_again(run)
    return board


class Shown(NamedTuple):
    """Whom a wait tells what it sees."""

    saw: Callable[[Sequence[JobReport]], None] = lambda jobs: None
    silent: Callable[[Exception | None], None] = lambda why: None


@asynccontextmanager
async def shown_on_board(batch: Batch, last_look: LastLook) -> AsyncIterator[Shown]:
    """Show how these jobs stand while a wait goes on; outside a flow run there is no board."""
    run = outermost_run()
    if run is None:
        yield Shown()
        return
    board = board_of(run)
    async with board.following(batch, last_look):
        yield Shown(partial(board.saw, by_account=batch.by_account), board.silent)
