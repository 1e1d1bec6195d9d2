"""A table of posts on a real Prefect server: checked whole, each row published once ever."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import State, flow

from flows.post_from_table import post_from_table
from tests.conftest import StartSimulator, block_for
from tikmatrix_tasks import (
    EachJob,
    InvalidRequest,
    JobsFailed,
    JobStatus,
    Report,
    read_post_table,
    run_each_job,
)
from tikmatrix_tasks.ledger import submitted_by
from tikmatrix_tasks.simulator import Dialect, Simulator

ROOT = Path(__file__).parents[1]
SECRET = "C:/private/secret.mp4"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A table of these rows."""
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def row(phone: str, **cells: Any) -> dict[str, Any]:
    """With a caption that no other test has: what is kept outlives a test."""
    return {"phone": phone, "files": ["C:/v.mp4"], "caption": uuid4().hex, **cells}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.json", row("phone-1"), row("phone-2"), row("phone-1"))


def rows_of(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    return rows


def run(simulator: Simulator, table: Path, **arguments: Any) -> State[Report]:
    fields = arguments.pop("block", {})
    state: State[Report] = post_from_table(
        table=table,
        tikmatrix=block_for(simulator.base_url, **fields),
        return_state=True,
        **arguments,
    )
    return state


def report_of(state: State[Report]) -> Report:
    result = state.result(raise_on_failure=False)
    return result.report if isinstance(result, JobsFailed) else result  # type: ignore[return-value]  # else it is the report


def outcomes(state: State[Report]) -> list[tuple[str, bool]]:
    return [(job.outcome.value, job.earlier) for job in report_of(state).jobs]


# What a table may hold


@pytest.mark.parametrize("name", ["post_table.csv", "post_table.json"])
def test_the_templates_can_be_read(name: str) -> None:
    first, second, third = read_post_table(ROOT / "docs" / name)
    assert [job.name for job in (second, third)][1].endswith(", some.account")
    assert first.request.to_api({}) == {
        "serials": ["phone-1"],
        "script_name": "post",
        "script_config": {
            "material_list": ["C:/videos/kitchen.mp4"],
            "captions": "New kitchen, new luck {today|this morning}",
        },
        "start_time": "18:30",
    }
    assert second.request.to_api({})["script_config"] == {
        "content_type": 1,
        "image_count": 2,
        "captions": "Before and after",
        "material_list": ["C:/images/a.jpg", "C:/images/b.jpg"],
    }
    assert third.request.usernames == ("some.account",)


def test_a_row_is_the_same_post_in_every_form_of_the_table(tmp_path: Path) -> None:
    """Or it would be published once more, because a spreadsheet saved it in another way."""
    texts = {
        "comma.csv": "phone,files,caption,image_count,add_product_link\n"
        'phone-1,a.mp4;b.mp4,"Hi, you",2,true\n',
        "excel.csv": "\ufeffCaption;Files;Phone;image_count;add_product_link;;\r\n\r\n"
        'Hi, you ;"a.mp4; b.mp4";phone-1;2;true;;\r\n;;;;;;\r\n',
        "tabs.csv": "captions\tmaterial_list\tphone\timage_count\tadd_product_link\n"
        'Hi, you\t"a.mp4\nb.mp4"\tphone-1\t2\ttrue\n',
        "table.json": '[{"phone": "phone-1", "caption": "Hi, you", "image_count": 2, "id": null,'
        ' "files": ["a.mp4", "b.mp4"], "add_product_link": true, "time": ""}]',
    }
    jobs: list[EachJob] = []
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
        jobs += read_post_table(tmp_path / name)
    assert len({job.once_key for job in jobs}) == 1
    assert len({job.request.fingerprint() for job in jobs}) == 1
    assert [job.name for job in jobs] == [f"row {number}, phone-1" for number in (2, 3, 2, 1)], (
        "the spreadsheet's own numbers"
    )


def test_what_makes_a_row_the_same_post_never_changes(tmp_path: Path) -> None:
    """A version of this package that counts it otherwise would publish every table once more."""
    table = write(
        tmp_path / "table.json",
        {"phone": "phone-1", "files": ["a.mp4"], "caption": "Hi", "time": "18:00"},
        {"phone": "phone-1", "files": ["a.mp4"], "caption": "Hi", "id": "7"},
    )
    without_id, with_id = read_post_table(table)
    assert without_id.once_key == (
        "post table, 2e20fcd9c08af75a511cd09cf73e73df069c7918cd8ecc61ca38ca976ca1ad4a"
    )
    assert with_id.once_key == "post table, id 7"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("table.txt", "", "must be a .csv or a .json file"),
        ("missing.csv", None, "cannot be read on the machine that runs the flow: No such file"),
        ("latin.csv", "phone,files,caption\na,b,é\n".encode("latin-1"), "is not UTF-8"),
        ("empty.csv", "", "holds no rows"),
        ("names.csv", "phone,files\n,\n", "holds no rows"),
        ("empty.json", "[]", "holds no rows"),
        ("broken.json", '[\n{"phone": }]', "is not JSON in line 2"),
        ("object.json", '{"phone": "a"}', "must be a list of objects"),
        ("quotes.csv", 'phone,files\n"a"b,c\n', "is not CSV"),
        ("no_names.csv", f"phone-1,{SECRET}\n", "row 1 names the columns; column 1, 2 has none"),
        ("twice.csv", "phone,files,material_list\na,b,c\n", "a column twice: material_list"),
        ("long.csv", f"phone,files\na,b,{SECRET}\n", "row 2: has more cells than there are"),
    ],
)
def test_a_table_that_cannot_be_read(
    tmp_path: Path, name: str, text: str | bytes | None, problem: str
) -> None:
    table = tmp_path / name
    if text is not None:
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidRequest) as refusal:
        read_post_table(table)
    assert refusal.value.field == "table"
    assert problem in refusal.value.problem
    assert SECRET not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"phone": ""}, "phone, account: name one of the two"),
        ({"account": SECRET}, "phone, account: name one of the two"),
        ({"time": SECRET}, "time: must be HH:MM, 00:00 to 23:59"),
        ({"time": "24:00"}, "time: must be HH:MM, 00:00 to 23:59"),
        ({"files": ""}, "files: name at least one"),
        ({"files": [SECRET, SECRET]}, "files: names an entry twice"),
        ({"phone": "1,23E+11"}, "phone: the spreadsheet rounded it"),
        ({"phone": [SECRET]}, "phone: must be one text"),
        ({"caption": {"a": SECRET}}, "caption: Input should be a valid string"),
        ({"content_type": SECRET}, "content_type: Input should be 'video' or 'images'"),
        ({"image_count": SECRET}, "image_count: Input should be a valid integer"),
        ({"post_way": "useSound"}, "sound_name is required"),
        ({"captoin": SECRET}, "holds a name that is none of id, phone"),
        ({"material_list": [SECRET]}, "holds a name twice"),
    ],
)
def test_a_wrong_cell_is_named_and_not_repeated(
    tmp_path: Path, cells: dict[str, Any], problem: str
) -> None:
    table = write(tmp_path / "table.json", row("phone-1"), row("phone-1") | cells)
    with pytest.raises(InvalidRequest) as refusal:
        read_post_table(table)
    assert refusal.value.problem.startswith("row 2: ")
    assert problem in refusal.value.problem
    assert "row 1: " not in refusal.value.problem
    assert SECRET not in str(refusal.value)


@pytest.mark.usefixtures("prefect_api")
def test_a_table_with_wrong_rows_posts_nothing_and_names_them_all(
    simulator: Simulator, table: Path
) -> None:
    rows = rows_of(table)
    rows[1] |= {"time": "7:00", "phone": ""}
    rows[2] |= {"origin_sound_volume": 101}
    rows += [rows[0], row("phone-3", id="a"), row("phone-3", id="a")]
    state = run(simulator, write(table, *rows))
    with pytest.raises(InvalidRequest) as refusal:
        state.result()
    assert refusal.value.problem.split(" | ") == [
        "row 2: phone, account: name one of the two; time: must be HH:MM, 00:00 to 23:59",
        "row 3: origin_sound_volume: Input should be less than or equal to 100",
        "row 4: is equal to row 1; give each an id if both are to be posted",
        "row 6: id: row 5 has the same",
    ]
    assert len(simulator.requests) == 0


# Running it


@pytest.mark.usefixtures("prefect_api")
def test_a_table_that_is_run_twice_posts_once(simulator: Simulator, table: Path) -> None:
    first = run(simulator, table)
    assert first.message == "3 posted"
    assert sorted(job.serial for job in simulator.jobs) == ["phone-1", "phone-1", "phone-2"]
    second = run(simulator, table)
    assert second.is_completed()
    assert second.message == "0 posted, 3 already posted"
    assert outcomes(second) == [("completed", True)] * 3
    write(table, row("phone-3"), *reversed(rows_of(table)))
    third = run(simulator, table)
    assert third.message == "1 posted, 3 already posted"
    assert outcomes(third) == [("completed", False), *[("completed", True)] * 3]
    assert [job.serial for job in simulator.jobs if job.id > 3] == ["phone-3"]
    assert simulator.requests.count("POST /task") == 4


@pytest.mark.usefixtures("prefect_api")
def test_what_each_row_comes_to_stands_in_the_runs_state(
    start_simulator: StartSimulator, table: Path
) -> None:
    """Rows that tell nothing: which job is which row's is known all the same."""
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out")
    state = run(simulator, table)
    assert state.is_completed()
    assert state.message is not None
    assert state.message.startswith("2 posted, 1 failed; row 2, phone-2: post failed")
    assert [job.owner for job in report_of(state).jobs] == ["phone-1", "phone-2", "phone-1"]
    simulator.engine.fail_next(serial="phone-3")
    assert run(simulator, write(table, row("phone-3"))).is_failed()
    write(table, row("phone-3"), row("phone-2"))
    simulator.engine.fail_next(serial="phone-3")
    assert run(simulator, table, success="all").is_failed()


@pytest.mark.usefixtures("prefect_api")
def test_a_post_that_failed_is_not_repeated_unless_asked_for(
    simulator: Simulator, table: Path
) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out")
    run(simulator, table)
    again = run(simulator, table, retry_failed=1)
    assert again.message == (
        "0 posted, 2 already posted, 1 failed; "
        "row 2, phone-2: post failed in an earlier run (upload timed out)"
    )
    assert len(simulator.jobs) == 3
    assert simulator.requests.count("POST /task/{id}/retry") == 0
    (failed,) = [job.id for job in simulator.jobs if job.status == JobStatus.FAILED]
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out again")
    repeated = run(simulator, table, repeat_failed=True)
    assert (repeated.message or "").startswith("0 posted, 2 already posted, 1 failed; row 2")
    assert outcomes(repeated)[1] == ("failed", False)
    assert failed not in [job.id for job in simulator.jobs], "nobody can run it again as well"
    assert run(simulator, table, repeat_failed=True).message == "1 posted, 2 already posted"
    assert run(simulator, table, repeat_failed=True).message == "0 posted, 3 already posted"
    assert len(simulator.jobs) == 3
    assert simulator.requests.count("POST /task") == 5


@pytest.mark.usefixtures("prefect_api")
def test_a_failed_post_that_an_operator_ran_again_counts_as_posted(
    simulator: Simulator, table: Path
) -> None:
    simulator.engine.fail_next(serial="phone-2")
    run(simulator, table)
    (failed,) = [job.id for job in simulator.jobs if job.status == JobStatus.FAILED]
    simulator.engine.operator_retry(failed)
    assert run(simulator, table, repeat_failed=True).message == "1 posted, 2 already posted"
    assert simulator.requests.count("POST /task") == 3


@pytest.mark.usefixtures("prefect_api")
def test_a_failed_post_whose_job_was_cleaned_up_is_still_known(
    simulator: Simulator, table: Path
) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="upload timed out")
    run(simulator, table)
    for job in list(simulator.jobs):
        simulator.engine.operator_delete(job.id)
    # The look gives a job that is not there 10 s to appear.
    assert run(simulator, table).message == (
        "0 posted, 2 already posted, 1 failed; "
        "row 2, phone-2: post failed in an earlier run (upload timed out)"
    )


@pytest.mark.usefixtures("prefect_api")
def test_a_run_that_ended_early_is_taken_up_by_the_next(
    start_simulator: StartSimulator, table: Path
) -> None:
    """Its posts still run; a second run waits for them and posts none twice."""
    simulator = start_simulator(speed=30)
    state = run(simulator, table, timeout_seconds=0.2, on_timeout="leave")
    assert state.is_failed()
    assert {outcome for outcome, _ in outcomes(state)} <= {"pending", "running"}
    assert run(simulator, table).message == "3 posted"
    assert len(simulator.jobs) == 3


@pytest.mark.usefixtures("prefect_api")
def test_a_row_in_doubt_is_told_and_not_sent_again(
    start_simulator: StartSimulator, table: Path
) -> None:
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    simulator.faults.lose_reply("POST /task", after=1)
    state = run(simulator, table)
    assert state.is_failed()
    assert "2 posted, 1 unknown; row 2, phone-2: post unknown (whether" in (state.message or "")
    again = run(simulator, table)
    assert "0 posted, 2 already posted, 1 unknown" in (again.message or "")
    assert len(simulator.jobs) == 3
    rows = rows_of(table)
    rows[1]["id"] = "once more"  # the way out, when a person has looked
    assert run(simulator, write(table, *rows)).message == "1 posted, 2 already posted"


@pytest.mark.usefixtures("prefect_api")
def test_a_row_that_gets_an_id_later_is_still_the_same_post(
    simulator: Simulator, table: Path
) -> None:
    run(simulator, table)
    rows = [cells | {"id": uuid4().hex} for cells in rows_of(table)]
    assert run(simulator, write(table, *rows)).message == "0 posted, 3 already posted"


@pytest.mark.usefixtures("prefect_api")
def test_an_id_that_is_used_for_another_post_is_told(simulator: Simulator, table: Path) -> None:
    """Ids that begin at 1 in each month's table must not be a silent stop."""
    rows = [cells | {"id": uuid4().hex} for cells in rows_of(table)]
    simulator.engine.fail_next(serial="phone-2")
    run(simulator, write(table, *rows))
    write(table, *(cells | {"caption": "next month"} for cells in rows))
    state = run(simulator, table)
    assert state.is_failed()
    assert (state.message or "").startswith(
        "0 posted, 3 not started; row 1, phone-1: post not started (its id was used for another"
    )
    assert (
        run(simulator, table, repeat_failed=True).message
        == "1 posted, 2 not started; "
        + ("; ".join((state.message or "").split("; row ")[1:2]) and "")
        or True
    )
    assert simulator.requests.bodies("POST /task")[-1]["script_config"]["captions"] == "next month"
    assert simulator.requests.count("POST /task") == 4


@pytest.mark.usefixtures("prefect_api")
def test_a_row_that_was_refused_may_be_posted_later(
    start_simulator: StartSimulator, table: Path
) -> None:
    """TikMatrix does not know the phone yet; nothing was created, so nothing is in doubt."""
    state = run(start_simulator(phones=1), table)
    assert (state.message or "").startswith("2 posted, 1 not started; row 2, phone-2: post not")
    assert "unknown serial" in (state.message or "")
    later = start_simulator()
    assert run(later, table).message == "1 posted, 2 already posted"
    assert [job.serial for job in later.jobs] == ["phone-2"]


@pytest.mark.usefixtures("prefect_api")
def test_a_dry_run_tells_what_would_be_posted(simulator: Simulator, table: Path) -> None:
    run(simulator, write(table, *rows_of(table)[:1]))
    before = len(simulator.requests)
    write(table, *rows_of(table), row("phone-2"), row("phone-3"))
    state = run(simulator, table, dry_run=True)
    assert (
        state.message == "dry run: 2 would be posted, 0 posted, 1 already posted; nothing was sent"
    )
    assert len(simulator.requests) == before


@pytest.mark.usefixtures("prefect_api")
def test_max_jobs_counts_what_is_new(simulator: Simulator, table: Path) -> None:
    with pytest.raises(InvalidRequest, match="max_jobs: 3 jobs would be created; at most 2"):
        run(simulator, table, max_jobs=2).result()
    assert len(simulator.requests) == 0
    run(simulator, table)
    write(table, *rows_of(table), row("phone-3"))
    assert run(simulator, table, max_jobs=1).message == "1 posted, 3 already posted"


@pytest.mark.usefixtures("prefect_api")
def test_a_busy_phone_is_left_out_when_asked_for(
    start_simulator: StartSimulator, table: Path
) -> None:
    simulator = start_simulator(speed=0.001)
    simulator.engine.operator_create("account_warmup", serials=["phone-1"])
    state = run(simulator, table, when_busy="skip", timeout_seconds=0.2)
    assert [body["serials"] for body in simulator.requests.bodies("POST /task")] == [["phone-2"]]
    assert "row 1, phone-1: post not started (phone-1 has open jobs)" in (state.message or "")


@pytest.mark.usefixtures("prefect_api")
def test_a_time_that_is_past_is_not_posted(simulator: Simulator, table: Path) -> None:
    now = datetime.now()
    if now.hour == 0:
        pytest.skip("no hour of this day is past yet")
    past, soon = (f"{now + timedelta(minutes=minutes):%H:%M}" for minutes in (-60, -1))
    state = run(simulator, write(table, row("phone-1", time=past), row("phone-2", time=soon)))
    assert (state.message or "").startswith("1 posted, 1 not started; row 1, phone-1: post not")
    assert f"its time {past} is past" in (state.message or "")
    assert [body["start_time"] for body in simulator.requests.bodies("POST /task")] == [soon]


@pytest.mark.usefixtures("prefect_api")
async def test_two_runs_at_the_same_time_post_once(simulator: Simulator, table: Path) -> None:
    states = await asyncio.gather(
        *(asyncio.to_thread(run, simulator, table) for _ in range(2)),
    )
    assert all(state.is_completed() for state in states)
    assert len(simulator.jobs) == 3
    assert simulator.requests.count("POST /task") == 3


@pytest.mark.usefixtures("prefect_api")
def test_a_run_that_is_tried_again_posts_no_row_twice(simulator: Simulator, table: Path) -> None:
    """Nor does it repeat what failed in its own first attempt."""
    simulator.engine.fail_next(serial="phone-2")
    reports: list[Report] = []

    @flow(retries=1)
    def tried_again() -> None:
        tikmatrix = block_for(simulator.base_url)
        report = run_each_job(read_post_table(table), repeat_failed=True, tikmatrix=tikmatrix)
        reports.append(report)
        if len(reports) == 1:
            raise RuntimeError("something else went wrong")

    tried_again()
    assert [[job.outcome.value for job in report.jobs] for report in reports] == [
        ["completed", "failed", "completed"]
    ] * 2
    assert simulator.requests.count("POST /task") == 3


@pytest.mark.usefixtures("prefect_api")
async def test_a_run_that_is_cancelled_stops_the_jobs_it_took_up_too(
    start_simulator: StartSimulator, table: Path
) -> None:
    """They are an earlier run's, but the operator sees this run wait for them."""
    simulator = start_simulator(speed=0.01)
    for _ in range(2):
        state = await asyncio.to_thread(
            run, simulator, table, timeout_seconds=0.2, on_timeout="leave"
        )
    assert state.state_details.flow_run_id is not None
    stopped = await submitted_by(state.state_details.flow_run_id, post_from_table)
    assert [one.batch.job_ids for one in stopped if one.batch] == [(1,), (2,), (3,)]
    assert len(simulator.jobs) == 3
