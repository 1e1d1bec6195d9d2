"""What a run leaves in the Prefect UI: its table, its progress, its summary, its tags."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from prefect import State, flow, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.runtime import flow_run

from flows.post import post
from flows.warm_up import warm_up
from flows.warmup_then_post import warmup_then_post
from tests.conftest import PHONES, StartSimulator, block_for
from tikmatrix_tasks import (
    AccountWarmup,
    JobReport,
    Outcome,
    Post,
    Report,
    TikMatrix,
    conclude,
    run_script,
    submit_jobs,
    wait_for_jobs,
)
from tikmatrix_tasks.simulator import Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")


class Left:
    """The artifacts of a flow run, by their kinds."""

    def __init__(self, state: State[Any]) -> None:
        self.run = run_of(state)
        artifacts = artifacts_of(self.run.id)
        self.by_type: dict[str, Artifact] = {it.type or "": it for it in artifacts}
        assert len(self.by_type) == len(artifacts), "one of each"

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.run.id)

    @property
    def summary(self) -> str:
        return str(self.by_type["markdown"].data)


def artifacts_of(run_id: UUID) -> list[Artifact]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as prefect:
        return prefect.read_artifacts(artifact_filter=wanted)


def rows_of(run_id: UUID) -> list[dict[str, Any]]:
    (table,) = [artifact for artifact in artifacts_of(run_id) if artifact.type == "table"]
    rows: list[dict[str, Any]] = json.loads(str(table.data))
    return rows


def run_of(state: State[Any]) -> FlowRun:
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as prefect:
        return prefect.read_flow_run(state.state_details.flow_run_id)


def test_a_run_leaves_a_table_a_summary_and_its_progress(start_simulator: StartSimulator) -> None:
    """In the morning one sees which phone did what, and what needs a hand, without a log."""
    simulator = start_simulator(durations={"account_warmup": 60.0})
    simulator.engine.fail_next(serial="phone-2", remark="element not found")
    state: State[Report] = warmup_then_post(
        serials=PHONES,
        warmup=AccountWarmup(task_duration=60),
        post=Post(captions="Hi", material_list=["C:/v.mp4"]),
        tikmatrix=block_for(simulator.base_url),
        return_state=True,
    )
    left = Left(state)
    by_phone = {(row["phone"], row["script"]): row for row in left.rows}
    assert by_phone.keys() == {
        (phone, script) for phone in PHONES for script in ("account_warmup", "post")
    }
    done = by_phone["phone-1", "account_warmup"]
    assert (done["status"], done["duration"]) == ("completed", "0:01:00")
    assert done["job"] in [job.id for job in simulator.jobs if job.serial == "phone-1"]
    assert by_phone["phone-2", "account_warmup"]["status"] == "failed"
    assert by_phone["phone-2", "post"]["status"] == "not started"
    assert left.by_type["progress"].data == 100
    assert left.by_type["table"].key == "tikmatrix-jobs-warmup-then-post"
    assert "6 of 6 jobs have ended" in str(left.by_type["table"].description)
    assert str(state.message) in left.summary.replace("\\", "")
    assert "| account\\_warmup | 3 | 2 | 1 | 0 | 0:01:00 | 0:01:00 |" in left.summary
    assert "(data:image/svg+xml;base64," in left.summary
    assert {"tikmatrix", "post", "account_warmup", "origin:python"} <= {*left.run.tags}
    assert left.run.name == "warm up, then post on 3 phones"


def test_a_flow_of_ones_own_has_its_table_and_progress_too(tikmatrix: TikMatrix) -> None:
    """Whoever composes tasks gets the picture without asking for it."""

    @flow
    def evening() -> None:
        run_script(Post(), serials=PHONES[:2], tikmatrix=tikmatrix)
        run_script(AccountWarmup(), serials=PHONES[:1], tikmatrix=tikmatrix)

    left = Left(evening(return_state=True))
    assert [(row["phone"], row["script"], row["status"]) for row in left.rows] == [
        ("phone-1", "post", "completed"),
        ("phone-1", "account_warmup", "completed"),
        ("phone-2", "post", "completed"),
    ]
    assert left.by_type["progress"].data == 100
    assert left.by_type.keys() == {"table", "progress"}


def test_a_run_that_is_tried_again_goes_on_with_its_table(tikmatrix: TikMatrix) -> None:
    """One run, one table: what an earlier attempt saw end is still said to have ended then."""
    attempts = []

    @flow(retries=1)
    def evening() -> None:
        batch = submit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
        wait_for_jobs(batch, tikmatrix=tikmatrix)
        attempts.append(rows_of(UUID(flow_run.id)))
        if len(attempts) == 1:
            raise RuntimeError("the first attempt fails")

    state = evening(return_state=True)
    assert state.is_completed()
    first, second = attempts
    assert [row["status"] for row in first] == ["completed"] * 3
    assert first == second == Left(state).rows


def test_jobs_that_were_stopped_when_the_time_was_up_are_shown_as_they_are(
    start_simulator: StartSimulator,
) -> None:
    """A table that says "running" about a phone that rests would send somebody to look."""
    simulator = start_simulator(durations={"post": 1e6}, device_limit=1)
    tikmatrix = block_for(simulator.base_url)
    left = Left(post(serials=PHONES, timeout_seconds=1, tikmatrix=tikmatrix, return_state=True))
    assert {row["status"] for row in left.rows} <= {"failed", "gone"}
    assert "not ended after 1 s" in left.summary


def test_what_was_decided_about_a_submission_in_doubt_stands_in_table_and_summary(
    simulator: Simulator,
) -> None:
    simulator.faults.lose_reply("POST /task", times=1)
    left = Left(post(serials=PHONES, tikmatrix=block_for(simulator.base_url), return_state=True))
    for told in (str(left.by_type["table"].description), left.summary):
        assert "adopted jobs 1-3: " in told


def test_summaries_of_a_flow_are_paged_under_one_key(tikmatrix: TikMatrix) -> None:
    summaries = [
        Left(post(serials=PHONES, tikmatrix=tikmatrix, return_state=True)).by_type["markdown"]
        for _ in range(2)
    ]
    assert {it.key for it in summaries} == {"tikmatrix-summary-post"}
    assert len({it.id for it in summaries}) == 2


def test_a_run_without_jobs_leaves_nothing(tikmatrix: TikMatrix) -> None:
    assert not Left(
        post(serials=PHONES, dry_run=True, tikmatrix=tikmatrix, return_state=True)
    ).by_type


def test_an_hour_with_fifty_phones_is_a_short_log(start_simulator: StartSimulator) -> None:
    """One line per look would bury what matters."""
    phones = [f"phone-{number}" for number in range(1, 51)]
    simulator = start_simulator(
        phones=50, plan="Team", speed=600.0, durations={"account_warmup": 3600.0}
    )
    simulator.engine.fail_next(times=5)
    state = warm_up(
        serials=phones,
        retry_failed=1,
        tikmatrix=block_for(simulator.base_url),
        return_state=True,
    )
    assert state.message == "50 of 50 warmed up"
    assert len(simulator.requests) > 10, "many looks"
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_of(state).id]))
    with get_client(sync_client=True) as prefect:
        lines = prefect.read_logs(log_filter=wanted, limit=200)
    told = [line.message for line in lines]
    assert 0 < len(told) < 200
    assert any("account_warmup completed" in line and "[job" in line for line in told)


def test_a_wait_by_ids_shows_each_job_once(tikmatrix: TikMatrix) -> None:
    """Whoever waits by ids knows neither script nor phone; the rows tell, a moment later."""

    @flow
    def evening() -> None:
        batch = submit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
        wait_for_jobs(list(batch.job_ids), tikmatrix=tikmatrix)

    left = Left(evening(return_state=True))
    assert [(row["phone"], row["script"]) for row in left.rows] == [(it, "post") for it in PHONES]
    assert left.by_type["progress"].data == 100


def test_a_job_that_worked_after_all_keeps_nothing_of_its_failure(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="element not found")
    state = post(
        serials=PHONES,
        retry_failed=1,
        tikmatrix=block_for(simulator.base_url),
        return_state=True,
    )
    rows = Left(state).rows
    assert [(row["status"], row["remark"]) for row in rows] == [("completed", None)] * 3


def test_a_job_that_completed_and_was_deleted_since_has_completed(simulator: Simulator) -> None:
    tikmatrix = block_for(simulator.base_url)

    @flow(retries=1)
    def evening() -> None:
        batch = submit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
        wait_for_jobs(batch, fail_on="never", tikmatrix=tikmatrix)
        if simulator.engine.stats()["total"]:
            for job in simulator.jobs:
                simulator.engine.operator_delete(job.id)
            raise RuntimeError("and the run is tried again")

    left = Left(evening(return_state=True))
    assert [row["status"] for row in left.rows] == ["completed"] * 3


def test_what_an_earlier_attempt_could_not_begin_is_not_held_against_the_run(
    tikmatrix: TikMatrix,
) -> None:
    """A phone that posted after all must not stand first in the table, as not created."""
    missed = JobReport(script_name="post", owner="phone-1", outcome=Outcome.NOT_CREATED)

    @flow(retries=1)
    def evening() -> Report:
        done = run_script(Post(), serials=PHONES[:1], tikmatrix=tikmatrix)
        if flow_run.run_count == 1:
            conclude(Report(jobs=(missed,)), "0 posted", failed=True)
            raise RuntimeError("the first attempt fails")
        return conclude(done, "1 posted", failed=False)

    left = Left(evening(return_state=True))
    assert [(row["phone"], row["status"]) for row in left.rows] == [("phone-1", "completed")]
    assert left.by_type["markdown"].description == "1 posted"


def test_times_that_cannot_be_do_not_fail_a_run(tikmatrix: TikMatrix) -> None:
    """Some programs write the year 1 for "not yet"."""
    ever = JobReport(job_id=1, script_name="post", outcome=Outcome.COMPLETED, seconds=6.4e10)

    @flow
    def evening() -> Report:
        return conclude(Report(jobs=(ever,)), "1 posted", failed=False)

    left = Left(evening(return_state=True))
    assert left.run.state is not None
    assert left.run.state.is_completed()
    assert "1 posted" in left.summary
    assert len(left.summary) < 10_000


def test_a_run_with_subflows_has_the_sentence_of_each(tikmatrix: TikMatrix) -> None:
    @flow
    def evening() -> None:
        warm_up(serials=PHONES[:1], tikmatrix=tikmatrix)
        post(serials=PHONES, tikmatrix=tikmatrix)

    left = Left(evening(return_state=True))
    assert left.by_type["markdown"].description == "1 of 1 warmed up; 3 of 3 posted"
    assert {row["script"] for row in left.rows} == {"account_warmup", "post"}
