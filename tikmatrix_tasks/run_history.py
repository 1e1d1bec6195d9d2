"""What became of the jobs of earlier flow runs, read from the tables that those runs kept.

The tables are artifacts on Prefect's server, one for each flow run, which stay until somebody
deletes them. A flow run that is deleted leaves its table, except where a flow or a deployment is
asked for: then nobody can tell any more whose table it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    ArtifactFilterType,
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import flow_run

from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.figures import WEEK_DAYS, History, day_of, history_of
from tikmatrix_tasks.job_table import TABLE, Row

MOST_DAYS = 366
KNOWN_AGAIN_DAYS = 7
"""How long before the week before tables are read: a job that a later run looked at again, such as
one that failed and was not run again, is to count on the day it ended."""
_PAGE = 200  # the most that Prefect's API gives at once
_TABLES = ArtifactFilter(
    key=ArtifactFilterKey(like_=f"{TABLE}%"), type=ArtifactFilterType(any_=["table"])
)


def read_history(
    *,
    day: date | None = None,
    days: int = 1,
    serials: Collection[str] | None = None,
    script_name: str | None = None,
    flow_name: str | None = None,
    deployment_name: str | None = None,
    time_zone: str | None = None,
) -> History:
    """What became of the jobs of so many days, the last of them `day`, and of the week before.

    `day` is by default the day before the run's scheduled time (before today outside a flow run),
    so that a run that starts late, or is tried again, tells of the same day. Days are those of
    `time_zone`, such as `Europe/Berlin`, or of this machine. A job counts once, on the day it
    ended; what has not ended is counted apart. Jobs that no flow run followed are not known.

    Raises:
        InvalidRequest: `days` is not 1 to 366, or nobody knows the time zone.
    """
    if not 1 <= days <= MOST_DAYS:
        raise InvalidRequest("days", f"is {days}; must be 1 to {MOST_DAYS}")
    zone = zone_of(time_zone)
    last = day or _day_before(zone)
    first = last - timedelta(days=days - 1)
    since = _midnight(first - timedelta(days=WEEK_DAYS + KNOWN_AGAIN_DAYS), zone)
    return history_of(
        _tables(since, flow_name, deployment_name),
        first,
        last,
        zone=zone,
        wanted=lambda row: (
            (not serials or row.phone in serials) and script_name in (None, row.script)
        ),
    )


def zone_of(name: str | None) -> tzinfo | None:
    """A time zone by its name; None, this machine's own, without one.

    Raises:
        InvalidRequest: nobody knows it.
    """
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            "time_zone", "is not known; give a name such as Europe/Berlin"
        ) from None


def summary_run_name() -> str:
    """For `flow_run_name` of a flow that sums a day up: `summary of 2026-11-23`."""
    given = flow_run.parameters
    try:
        day = given.get("day") or _day_before(zone_of(given.get("time_zone")))
    except InvalidRequest:
        day = "a day"  # the run itself is going to say what is wrong
    return f"summary of {day}"


def _day_before(zone: tzinfo | None) -> date:
    return day_of(flow_run.scheduled_start_time, zone) - timedelta(days=1)


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    begin = datetime.combine(day, time(), tzinfo=zone)
    return begin if zone else begin.astimezone()


def _tables(
    since: datetime, flow_name: str | None, deployment_name: str | None
) -> Iterator[Sequence[Row]]:
    """The rows of each flow run's table that was written since then."""
    with get_client(sync_client=True) as prefect:
        found: dict[UUID, Artifact] = {}
        for page in _pages(prefect, since):
            found.update({artifact.id: artifact for artifact in page})
        artifacts = list(found.values())
        for start in range(0, len(artifacts), _PAGE):
            some = artifacts[start : start + _PAGE]
            if flow_name is not None or deployment_name is not None:
                runs = _runs(prefect, some, flow_name, deployment_name)
                some = [artifact for artifact in some if artifact.flow_run_id in runs]
            yield from map(_rows, some)


def _pages(prefect: SyncPrefectClient, since: datetime) -> Iterator[list[Artifact]]:
    """Tables by the time they were last written, the latest first, and the first page twice.

    A table that is written meanwhile moves to the front, past the pages that are still to come.
    """

    def page(offset: int) -> list[Artifact]:
        return prefect.read_artifacts(
            artifact_filter=_TABLES, sort=ArtifactSort.UPDATED_DESC, limit=_PAGE, offset=offset
        )

    offset = 0
    while artifacts := page(offset):
        recent = [it for it in artifacts if it.updated is None or it.updated >= since]
        yield recent
        if len(recent) < len(artifacts):
            break
        offset += len(artifacts)
    if offset:
        yield page(0)


def _runs(
    prefect: SyncPrefectClient,
    artifacts: Sequence[Artifact],
    flow_name: str | None,
    deployment_name: str | None,
) -> set[UUID]:
    """Which of the flow runs that wrote these tables are of the flow and deployment."""
    ids = [artifact.flow_run_id for artifact in artifacts if artifact.flow_run_id is not None]
    if not ids:
        return set()
    runs = prefect.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])) if flow_name else None,
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)),
        deployment_filter=(
            DeploymentFilter(name=DeploymentFilterName(any_=[deployment_name]))
            if deployment_name
            else None
        ),
        limit=_PAGE,
    )
    return {run.id for run in runs}


def _rows(artifact: Artifact) -> list[Row]:
    """The rows of our tables; of anybody else's, none."""
    data = artifact.data
    try:
        cells = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return []
    lines = cells if isinstance(cells, list) else []
    rows = [Row.read(line) for line in lines if isinstance(line, dict)]
    return [row for row in rows if row is not None]
