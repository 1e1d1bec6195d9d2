"""The history: what it counts, what it reads of Prefect's records, and what it shows of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from prefect import flow, get_client
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import flow_run

from flows.daily_summary import daily_summary
from flows.retry_failed_jobs import retry_failed_jobs
from flows.warmup_then_post import warmup_then_post
from tests.conftest import StartSimulator, block_for
from tests.test_command import command
from tikmatrix_tasks import (
    AccountWarmup,
    Figures,
    History,
    InvalidRequest,
    Outcome,
    Post,
    read_history,
)
from tikmatrix_tasks.cli import main
from tikmatrix_tasks.figures import each_job_once, history_of
from tikmatrix_tasks.job_table import TABLE, Row, artifact_key

MONDAY = date(2026, 11, 23)
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
_ids = iter(range(1, 1_000_000))


def row(status: str = "completed", since: datetime = NOON, **fields: Any) -> Row:
    usual: dict[str, Any] = {"phone": "phone-1", "script": "post", "job": next(_ids)}
    return Row(status=Outcome(status), since=since, **(usual | fields))


def rows(count: int, status: str = "completed", **fields: Any) -> list[Row]:
    return [row(status, **fields) for _ in range(count)]


def history(*tables: Sequence[Row], first: date = MONDAY, **options: Any) -> History:
    return history_of(tables, first, MONDAY, zone=timezone.utc, **options)


# The reckoning


def test_the_sentence_says_what_a_person_asks_in_the_morning() -> None:
    well = [made for number in range(2, 12) for made in rows(4, phone=f"phone-{number}")]
    bad = rows(3, "failed", phone="phone-4", remark="upload timed out")
    before = [*rows(97, since=NOON - DAY), *rows(3, "failed", since=NOON - 7 * DAY)]
    assert str(history([*well, row(), *bad, *before])) == (
        "Mon 2026-11-23: 41 of 44 jobs completed on 11 phones; "
        "3 failed on phone-4 (upload timed out); the week before 97 %"
    )


def test_the_sentence_names_the_worst_phones_and_counts_the_others() -> None:
    bad = [
        made
        for number in range(1, 6)
        for made in rows(number, "failed", phone=f"phone-{number}", remark=f"reason {number}")
    ]
    gone = rows(2, "gone", phone="phone-9")
    assert str(history([*bad, *gone])) == (
        "Mon 2026-11-23: 0 of 17 jobs completed on 6 phones; 5 failed on phone-5 (reason 5); "
        "4 failed on phone-4 (reason 4); 3 failed on phone-3 (reason 3); "
        "3 more failed on 2 other phones; 2 deleted by someone before the end; "
        "the week before there was no job"
    )


def test_what_has_not_ended_is_named_apart_and_spoils_no_rate() -> None:
    """A job that runs is no failure, and one that was held back is no job."""
    told = history(
        [
            row(),
            row("running"),
            row("pending"),
            row("unknown"),
            row("not started", job=None),
            row("not created", job=None),
        ]
    )
    assert told.total.now.percent == 100
    assert str(told) == (
        "Mon 2026-11-23: 1 of 1 job completed on 1 phone; 2 still open when last seen, 1 unknown, "
        "2 not created or not started; the week before there was no job"
    )


def test_each_phone_script_and_day_has_a_line() -> None:
    sunday = NOON - DAY
    made = [
        *rows(2, duration=timedelta(minutes=10)),
        row(duration=timedelta(minutes=40)),
        row("failed", remark="element not found", duration=timedelta(seconds=1)),
        *rows(2, "failed", remark="upload timed out"),
        row(phone="phone-10"),
        row(phone="phone-2", script="follow"),
        row(since=sunday, phone="phone-2", duration=timedelta(hours=30)),
    ]
    told = history(made, first=MONDAY - DAY)
    assert [(line.day, line.phone, line.script, line.now.jobs) for line in told.each] == [
        (MONDAY - DAY, "phone-2", "post", 1),
        (MONDAY, "phone-1", "post", 6),
        (MONDAY, "phone-2", "follow", 1),
        (MONDAY, "phone-10", "post", 1),
    ]
    assert told.each[1].now == Figures(
        completed=3,
        failed=3,
        median=timedelta(minutes=10),  # of the completed ones, also where most failed at once
        remarks=(("upload timed out", 2), ("element not found", 1)),
    )
    assert [(line.phone, line.script, line.now.jobs) for line in told.phones] == [
        ("phone-1", "post", 6),
        ("phone-2", "follow", 1),
        ("phone-2", "post", 1),
        ("phone-10", "post", 1),
    ]
    assert [(line.day, line.now.jobs) for line in told.days] == [(MONDAY - DAY, 1), (MONDAY, 8)]
    assert told.total.now.jobs == 9


@pytest.mark.parametrize(
    ("completed", "failed", "percent"),
    [(0, 0, None), (3, 0, 100), (299, 1, 99), (1, 299, 1), (0, 1, 0), (2, 1, 67)],
)
def test_100_percent_is_every_job_and_0_is_none(
    completed: int, failed: int, percent: int | None
) -> None:
    assert Figures(completed=completed, failed=failed).percent == percent


def test_the_trend_compares_the_same_phone_and_script_with_its_own_week_before() -> None:
    told = history(
        [
            *rows(1, "failed"),
            *rows(1),
            *rows(4, since=NOON - 7 * DAY),  # the first day of that week
            *rows(9, "failed", since=NOON - 8 * DAY),  # too long ago
            *rows(9, "failed", since=NOON - DAY, phone="phone-2"),
            *rows(9, "failed", since=NOON - DAY, script="follow"),
            row(phone="phone-3"),
        ]
    )
    first, third = told.each
    assert (first.now.percent, first.before.percent, first.change) == (50, 100, -50)
    assert (third.phone, third.before.percent, third.change) == ("phone-3", None, None)
    assert told.total.before.jobs == 22


FIRST_TRY = {"duration": timedelta(seconds=600), "retries": 0}


@pytest.mark.parametrize(
    ("seen", "counted"),
    [
        ([("completed", 0, {}), ("completed", 5, {})], [("completed", 0)]),
        ([("completed", 0, {"phone": None}), ("completed", 5, {})], [("completed", 0)]),
        ([("failed", 0, FIRST_TRY), ("failed", 5, FIRST_TRY)], [("failed", 0)]),
        ([("failed", 0, {}), ("completed", 5, {})], [("completed", 5)]),
        ([("failed", 0, {"retries": 0}), ("failed", 5, {"retries": 1})], [("failed", 5)]),
        ([("failed", 0, {}), ("running", 5, {})], [("running", 5)]),
        ([("running", 0, {}), ("completed", 5, {})], [("completed", 5)]),
        ([("running", 0, {}), ("unknown", 5, {})], [("running", 0)]),
        ([("unknown", 0, {}), ("pending", 5, {})], [("pending", 5)]),
        ([("running", 0, {}), ("gone", 5, {})], [("gone", 5)]),
        ([("completed", 0, {}), ("gone", 5, {})], [("completed", 0)]),
        ([("failed", 0, {}), ("gone", 5, {})], [("failed", 0)]),
        ([("completed", 0, {}), ("unknown", 5, {})], [("completed", 0)]),
        ([("completed", 0, {}), ("failed", 5, {})], [("completed", 0), ("failed", 5)]),
    ],
)
def test_a_job_in_several_tables_counts_once_as_it_ended_last(
    seen: list[tuple[str, int, dict[str, Any]]], counted: list[tuple[str, int]]
) -> None:
    """Whoever reports a failure for something that worked sends a person to look for nothing."""
    tables = [[row(status, NOON + at * HOUR, job=7, **more)] for status, at, more in seen]
    for order in (tables, tables[::-1]):
        once = sorted(each_job_once(order), key=lambda it: it.since)
        assert [(it.status.value, it.since) for it in once] == [
            (status, NOON + at * HOUR) for status, at in counted
        ]
        assert once[0].phone == "phone-1", "told by another table"


@pytest.mark.parametrize("other", [{"phone": "phone-2"}, {"script": "follow"}, {"account": "b"}])
def test_two_tikmatrix_may_give_the_same_id(other: dict[str, Any]) -> None:
    here, there = row(job=7, account="a"), row(job=7, **({"account": "a"} | other))
    assert len(each_job_once([[here], [there]])) == 2


def test_a_day_ends_at_midnight_of_its_own_zone() -> None:
    late = [row(since=datetime(2026, 11, 22, 23, 30, tzinfo=timezone.utc))]
    assert history_of([late], MONDAY, MONDAY, zone=ZoneInfo("Europe/Berlin")).total.now.jobs == 1
    assert history_of([late], MONDAY, MONDAY, zone=timezone.utc).total.now.jobs == 0


# Reading Prefect's records


@flow
def keep_tables(*tables: Sequence[Row], name: str = "keep-tables") -> str:
    """As a flow run keeps its rows; the code that does it for real runs has its own tests."""
    for table in tables:
        cells = [row.cells() for row in table]
        create_table_artifact(cells, key=artifact_key(TABLE, name))
    assert flow_run.id is not None
    return str(flow_run.id)


def artifacts_of(flow_run_id: Any) -> list[Artifact]:
    with get_client(sync_client=True) as prefect:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(flow_run_id))]))
        return prefect.read_artifacts(artifact_filter=mine, sort=ArtifactSort.CREATED_DESC)


@pytest.fixture
def phone() -> str:
    """One that no other test knows: they all share a server."""
    return f"phone-{uuid4()}"


def test_tables_of_flow_runs_are_read_and_those_of_other_people_are_not(
    prefect_api: str, phone: str
) -> None:
    @flow
    def somebody_elses() -> None:
        ours = row(phone=phone).cells()
        create_table_artifact([ours], key="my-own-table")
        create_markdown_artifact("# Hello", key=f"{TABLE}-notes")
        create_table_artifact([{"phone": phone, "price": 5}], key=f"{TABLE}-prices")
        create_table_artifact([ours | {"duration": 5}, ours], key=f"{TABLE}-durations")
        create_table_artifact([[phone, 5]], key=f"{TABLE}-lists")
        create_table_artifact({"phone": [phone]}, key=f"{TABLE}-columns")

    somebody_elses()
    first = row(phone=phone, duration=timedelta(seconds=600))
    # The second run tried the same job again and found it completed.
    keep_tables([first, row("failed", phone=phone, job=9_000_000)])
    keep_tables([row(phone=phone, job=9_000_000, since=NOON + HOUR)])
    told = read_history(day=MONDAY, serials=[phone], time_zone="UTC")
    assert told.total.now == Figures(completed=3, median=timedelta(seconds=600))
    assert read_history(day=MONDAY - DAY, serials=[phone], time_zone="UTC").empty


def test_a_job_that_does_not_tell_its_phone_counts_for_the_phone_another_table_tells(
    prefect_api: str, phone: str
) -> None:
    keep_tables([row(phone=phone, job=9_000_001, since=NOON - HOUR, status="failed")])
    keep_tables([row("completed", phone=None, job=9_000_001)])
    told = read_history(day=MONDAY, serials=[phone], time_zone="UTC")
    assert told.total.now == Figures(completed=1)


def test_more_tables_than_a_page_are_read_each_once(prefect_api: str, phone: str) -> None:
    """Prefect's API gives at most 200 at once."""
    with get_client(sync_client=True) as prefect:
        for number in range(205):
            data = json.dumps([row(phone=phone).cells()])
            prefect.create_artifact(
                ArtifactCreate(key=f"{TABLE}-{number}", type="table", data=data)
            )
    told = read_history(day=MONDAY, serials=[phone], time_zone="UTC")
    assert told.total.now.jobs == 205


def test_a_table_that_is_written_again_counts_as_recent(prefect_api: str, phone: str) -> None:
    """Tables are read by the time of their last writing, back to the begin of the window."""
    run = keep_tables([row("running", phone=phone)])
    (before,) = artifacts_of(run)
    time.sleep(0.01)
    with get_client(sync_client=True) as prefect:
        prefect.request(
            "PATCH",
            "/artifacts/{id}",
            path_params={"id": before.id},
            json={"data": json.dumps([row(phone=phone).cells()])},
        )
    (after,) = artifacts_of(run)
    assert before.updated is not None
    assert after.updated is not None
    assert after.updated > before.updated
    assert read_history(day=MONDAY, serials=[phone], time_zone="UTC").total.now.completed == 1


def test_a_table_outlives_its_flow_run(prefect_api: str, phone: str) -> None:
    run = keep_tables([row(phone=phone)])
    with get_client(sync_client=True) as prefect:
        prefect.delete_flow_run(UUID(run))
    assert read_history(day=MONDAY, serials=[phone], time_zone="UTC").total.now.jobs == 1


def test_jobs_can_be_narrowed_by_script_flow_and_deployment(prefect_api: str, phone: str) -> None:
    def of(**wanted: str) -> int:
        told = read_history(day=MONDAY, serials=[phone], time_zone="UTC", **wanted)  # type: ignore[arg-type]  # options by name
        return told.total.now.jobs

    other = keep_tables.with_options(name=f"other-{phone}")
    keep_tables([row(phone=phone), row(phone=phone, script="follow")])
    other([row(phone=phone)])
    name = f"deployed-{phone}"
    with get_client(sync_client=True) as prefect:
        flow_id = prefect.create_flow_from_name(other.name)
        deployment = prefect.create_deployment(flow_id, name, enforce_parameter_schema=False)
        run = prefect.create_flow_run_from_deployment(deployment)
        data = json.dumps([row(phone=phone).cells()])
        prefect.create_artifact(
            ArtifactCreate(key=TABLE, type="table", data=data, flow_run_id=run.id)
        )
    assert of() == 4
    assert of(script_name="follow") == 1
    assert of(flow_name="keep-tables") == 2
    assert of(flow_name=f"other-{phone}") == 2
    assert of(deployment_name=name) == 1
    assert of(deployment_name="unheard") == 0


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"days": 0}, "days"),
        ({"days": 367}, "days"),
        ({"time_zone": "Middle-earth"}, "time_zone"),
        ({"time_zone": "../x"}, "time_zone"),
        ({"time_zone": ""}, "time_zone"),
    ],
)
def test_bad_input_is_refused_by_name(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_history(**given)
    assert refused.value.field == field


def test_jobs_of_real_flow_runs_are_in_the_history(
    prefect_api: str, start_simulator: StartSimulator, phone: str
) -> None:
    """A job that failed, was run again and completed is one job, and it completed."""
    other = f"{phone}-b"
    simulator = start_simulator(phones=(phone, other))
    simulator.engine.fail_next(serial=other, script_name="post", remark="upload timed out")
    tikmatrix = block_for(simulator.base_url)
    today = datetime.now().astimezone().date()
    warmup_then_post(
        serials=[phone, other],
        warmup=AccountWarmup(task_duration=600),
        post=Post(material_list=["C:/v.mp4"]),
        tikmatrix=tikmatrix,
    )
    told = read_history(day=today, serials=[phone, other])
    assert [
        (line.phone, line.script, line.now.completed, line.now.failed, line.now.remarks)
        for line in told.each
    ] == [
        (phone, "account_warmup", 1, 0, ()),
        (phone, "post", 1, 0, ()),
        (other, "account_warmup", 1, 0, ()),
        (other, "post", 0, 1, (("upload timed out", 1),)),
    ]
    assert (told.each[0].now.median or timedelta()) >= timedelta(seconds=600)
    retry_failed_jobs(tikmatrix=tikmatrix)
    again = read_history(day=today, serials=[phone, other])
    assert (again.total.now.jobs, again.total.now.percent) == (4, 100)
    of_retry = read_history(day=today, serials=[other], flow_name="retry-failed-jobs")
    assert of_retry.total.now.completed == 1


# The flow


def summed_up(**parameters: Any) -> State[Any]:
    state: State[Any] = daily_summary(return_state=True, **parameters)
    return state


def pictures(markdown: str) -> list[ElementTree.Element]:
    found = re.findall(r"!\[[^]]*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
    return [ElementTree.fromstring(base64.b64decode(svg)) for svg in found]


def words_in(svg: ElementTree.Element) -> set[str]:
    return {element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")}


def test_the_summary_is_a_sentence_a_table_and_a_plot(prefect_api: str, phone: str) -> None:
    odd = f"{phone}<&]"  # serials are whatever a phone reports
    ran: dict[str, Any] = {"phone": phone, "duration": timedelta(seconds=610)}
    bad = rows(1, "failed", phone=odd, remark="a [b](c) | <d>")
    keep_tables([*rows(3, **ran), *bad, *rows(4, phone=phone, since=NOON - 2 * DAY)])
    state = summed_up(day=MONDAY, serials=[phone, odd], time_zone="UTC")
    sentence = (
        f"Mon 2026-11-23: 3 of 4 jobs completed on 2 phones; 1 failed on {odd} "
        "(a [b](c) | <d>); the week before 100 %"
    )
    assert (state.name, state.message) == ("Completed", sentence)
    kept = {artifact.key: artifact for artifact in artifacts_of(state.state_details.flow_run_id)}
    table = kept["tikmatrix-history-daily-summary"]
    assert table.type == "table"
    no_markdown = r"1 failed on " + odd.replace("<", r"\<").replace("]", r"\]")
    assert f"{no_markdown} (a \\[b\\](c) \\| \\<d\\>)" in (table.description or "")
    first, second = json.loads(str(table.data))
    assert first == {
        "phone": odd,
        "script": "post",
        "completed": "0 of 1",
        "success": "0 %",
        "week before": "no job",
        "commonest remarks": "a [b](c) | <d>",
        "not ended": "",
        "median": "",
        "day": "Mon 2026-11-23",
    }, "what needs a hand is first"
    assert second == {
        "phone": phone,
        "script": "post",
        "completed": "3 of 3",
        "success": "100 %",
        "week before": "100 % (same)",
        "commonest remarks": "",
        "not ended": "",
        "median": "0:10:10",
        "day": "Mon 2026-11-23",
    }
    plot = kept["tikmatrix-history-plot-daily-summary"]
    assert plot.type == "markdown"
    assert plot.description == table.description
    by_day, by_phone = pictures(str(plot.data))
    assert {"Mon 23 Nov", "75 %", "Sat 21 Nov", "100 %", "Mon 16 Nov", "4 jobs"} <= words_in(by_day)
    assert {"3 of 3", "0 of 1", "completed", "failed"} <= words_in(by_phone)
    assert "not ended" not in words_in(by_phone), "only colours that occur"


def test_a_day_without_jobs_is_summed_up_too(prefect_api: str) -> None:
    state = summed_up(day=date(2001, 1, 1), time_zone="UTC")
    assert state.message == "Mon 2001-01-01: no job ended; the week before there was no job"
    kept = {it.key: it.data for it in artifacts_of(state.state_details.flow_run_id)}
    assert kept["tikmatrix-history-daily-summary"] == "[]"
    assert kept["tikmatrix-history-plot-daily-summary"] == state.message


def test_the_summary_is_of_the_day_before_and_the_run_is_named_after_it(
    prefect_api: str, phone: str
) -> None:
    yesterday = datetime.now().astimezone() - DAY
    keep_tables([row(phone=phone, since=yesterday)])
    state = summed_up(serials=[phone])
    assert (state.message or "").startswith(f"{yesterday:%a %Y-%m-%d}: 1 of 1 job completed")
    with get_client(sync_client=True) as prefect:
        run = prefect.read_flow_run(UUID(str(state.state_details.flow_run_id)))
    assert run.name == f"summary of {yesterday:%Y-%m-%d}"


def test_a_zone_that_nobody_knows_fails_the_run_with_its_name(prefect_api: str) -> None:
    state = summed_up(time_zone="Middle-earth")
    assert state.is_failed()
    with pytest.raises(InvalidRequest, match="time_zone: is not known"):
        state.result()


# The command


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def kept(prefect_api: str, phone: str) -> datetime:
    """Jobs of now and of eight days ago."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    ran: dict[str, Any] = {"phone": phone, "since": now, "duration": timedelta(seconds=90)}
    bad = rows(1, "failed", phone=phone, since=now, remark="[red]upload [/x] timed out")
    old = rows(1, phone=phone, since=now - 8 * DAY)
    keep_tables([*rows(2, **ran), *bad, *old, row("running", phone=phone, since=now)])
    return now


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["history", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("wide")
def test_the_command_shows_phones_and_days(
    kept: datetime, phone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(capsys, "--phone", phone, "--time-zone", "UTC")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert [
        *(phone, "post", "2 of 3", "67 %", "0:01:30", "100 % (-33)"),
        "[red]upload [/x] timed out",
        "1 still open when last seen",
    ] in lines
    assert [line[0] for line in lines if line and line[0][4:8] == str(kept.year)] == [
        f"{kept - more * DAY:%a %Y-%m-%d}" for more in range(6, -1, -1)
    ]
    assert (
        f"{kept - 6 * DAY:%Y-%m-%d} to {kept:%Y-%m-%d}: 2 of 3 jobs completed on 1 phone; "
        f"1 failed on {phone} ([red]upload [/x] timed out); 1 still open when last seen; "
        "the 7 days before 100 %"
    ) in shown
    by_day = printed(capsys, "--phone", phone, "--time-zone", "UTC", "--by-day", "--days", "9")
    first = f"│ {kept - 8 * DAY:%a %Y-%m-%d} │ {phone} │ post   │    1 of 1 │   100 % │"
    assert first in by_day


def test_machines_get_json_or_csv(
    kept: datetime, phone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    narrowed = ("--phone", phone, "--script", "post", "--flow", "keep-tables", "--time-zone", "UTC")
    told = json.loads(printed(capsys, "--json", *narrowed))
    assert (told["first"], told["last"]) == (f"{kept - 6 * DAY:%Y-%m-%d}", f"{kept:%Y-%m-%d}")
    expected = {
        "day": f"{kept:%Y-%m-%d}",
        "phone": phone,
        "script": "post",
        "jobs": 3,
        "completed": 2,
        "failed": 1,
        "gone": 0,
        "open": 1,
        "unknown": 0,
        "not_begun": 0,
        "success_rate": 0.6667,
        "median_seconds": 90.0,
        "week_before_jobs": 0,
        "week_before_success_rate": None,
        "remarks": {"[red]upload [/x] timed out": 1},
    }
    assert told["each"] == [expected]
    assert told["total"]["week_before_success_rate"] == 1.0
    (read,) = csv.DictReader(io.StringIO(printed(capsys, "--csv", *narrowed)))
    remarks = json.loads(read.pop("remarks"))
    expected_text = {name: "" if value is None else str(value) for name, value in expected.items()}
    assert read | {"remarks": str(remarks)} == expected_text


def test_an_empty_history_says_so_and_what_to_do(
    prefect_api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(printed(capsys, "--phone", "nobody").split())
    assert "Prefect's records tell of no such jobs" in shown
    assert "Run a flow of this project" in shown
    assert "%" not in shown
    assert json.loads(printed(capsys, "--phone", "nobody", "--json"))["each"] == []
    assert printed(capsys, "--phone", "nobody", "--csv").count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--days", "0"), "history: --days is 0; must be 1 to 366"),
        (("--time-zone", "Middle-earth"), "history: --time-zone is not known"),
    ],
)
def test_the_command_refuses_with_a_line(
    prefect_api: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    assert main(["history", *arguments]) == 1
    assert capsys.readouterr().err.startswith(why)


def test_the_command_needs_a_server_that_answers() -> None:
    done = command("history")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == (
        "history: set PREFECT_API_URL first: the records are on a Prefect server"
    )
    away = command("history", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert away.returncode == 1
    assert away.stderr.startswith("history: Prefect's API does not answer (")
