"""Housekeeping on a real Prefect server: what is touched, and above all what is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest
from prefect import State, flow

from flows.check_health import check_health
from flows.clean_up_jobs import clean_up_jobs
from flows.retry_failed_jobs import retry_failed_jobs
from flows.stop_orphans import stop_orphans
from tests.conftest import PHONES, StartSimulator, block_for
from tests.real_worker import until
from tests.test_tasks import quick
from tikmatrix_tasks import (
    AccountWarmup,
    Batch,
    Follow,
    InvalidRequest,
    JobRequest,
    JobsFailed,
    JobStatus,
    NotSentError,
    PlanError,
    Post,
    Report,
    TikMatrix,
    TikMatrixError,
    delete_finished_jobs,
    find_failed_jobs,
    find_finished_jobs,
    look_at_health,
    retry_jobs,
    run_script,
    submit_jobs,
)
from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.ledger import Submitted, submitted_by
from tikmatrix_tasks.local_server import free_port
from tikmatrix_tasks.simulator import Dialect, Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")
OPEN = (JobStatus.PENDING, JobStatus.RUNNING)
A_MOMENT = 1e-9
"""An age, in days or hours, that every job has."""
COMMENT = {
    "target_post_urls": ["https://www.tiktok.com/@a/video/1"],
    "comment_content": "hello",
}


@flow
def evening(tikmatrix: TikMatrix, serials: list[str]) -> Report:
    """What this project's users run; its failures are of no interest here."""
    return run_script(Post(), serials=serials, fail_on="never", tikmatrix=tikmatrix)


@flow
def fire_and_forget(tikmatrix: TikMatrix, serials: list[str]) -> Batch:
    return submit_jobs(AccountWarmup(), serials=serials, tikmatrix=tikmatrix)


def ended(housekeeping: Any, simulator: Simulator, **arguments: Any) -> State[Any]:
    tikmatrix = arguments.pop("tikmatrix", None) or block_for(simulator.base_url)
    state: State[Any] = housekeeping(tikmatrix=tikmatrix, return_state=True, **arguments)
    return state


def statuses(simulator: Simulator) -> dict[str, list[int]]:
    """Serial to the statuses of its jobs."""
    return {
        serial: [job.status for job in simulator.jobs if job.serial == serial]
        for serial in PHONES
        if any(job.serial == serial for job in simulator.jobs)
    }


def others_fail(simulator: Simulator) -> None:
    """An operator's job and one that another program created by the API both fail on phone-3."""
    simulator.engine.fail_next(serial="phone-3", times=2)
    simulator.engine.operator_create("comment", COMMENT, serials=["phone-3"])
    simulator.engine.create(JobRequest(Post(), serials=("phone-3",)).to_api({}))
    until(
        "the jobs of others have ended",
        lambda: statuses(simulator)["phone-3"] == [JobStatus.FAILED] * 2,
    )


@contextmanager
def run_that_goes_on(simulator: Simulator, serials: list[str]) -> Iterator[None]:
    """A flow run that has done its jobs and goes on with something else."""
    done, over = threading.Event(), threading.Event()
    tikmatrix = block_for(simulator.base_url)

    @flow
    def long_evening() -> None:
        run_script(Post(), serials=serials, fail_on="never", tikmatrix=tikmatrix)
        done.set()
        over.wait(60)

    # With this thread's context, which says where Prefect is.
    running = threading.Thread(target=copy_context().run, args=(long_evening,))
    running.start()
    try:
        assert done.wait(30)
        yield
    finally:
        over.set()
        running.join()


# retry_failed_jobs


def test_only_our_own_failures_run_again(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    """Whoever else uses this TikMatrix must not find their failed jobs running."""
    simulator.engine.fail_next(serial="phone-2")
    evening(tikmatrix, ["phone-1", "phone-2"])
    others_fail(simulator)
    state = ended(retry_failed_jobs, simulator)
    assert state.is_completed()
    assert state.message == (
        "1 failed job run again: 1 of 1 completed; left alone: 2 not known to be this project's"
    )
    assert statuses(simulator) == {
        "phone-1": [JobStatus.COMPLETED],
        "phone-2": [JobStatus.COMPLETED],
        "phone-3": [JobStatus.FAILED, JobStatus.FAILED],
    }
    assert len(simulator.jobs) == 4, "a job is run again under its id"
    assert simulator.requests.count("POST /task/retry-all") == 0


def test_everybodys_failures_run_again_where_one_says_so(simulator: Simulator) -> None:
    others_fail(simulator)
    assert ended(retry_failed_jobs, simulator, only_own=False).message == (
        "2 failed jobs run again: 2 of 2 completed"
    )


def test_other_peoples_jobs_that_tell_no_age_are_left_alone(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator(dialect=Dialect(row_fields="minimal"))
    simulator.engine.fail_next(serial="phone-1")
    evening(block_for(simulator.base_url), ["phone-1"])
    others_fail(simulator)
    state = ended(retry_failed_jobs, simulator, only_own=False)
    assert (state.message or "").endswith("1 of 1 completed; left alone: 2 do not tell their age")


@pytest.mark.parametrize(
    ("scope", "again"),
    [
        ({"serials": ["phone-1"]}, ["phone-1"]),
        ({"script_name": "post"}, PHONES),
        ({"script_name": "follow"}, []),
        ({"max_age_hours": A_MOMENT}, []),
    ],
)
def test_a_scope_narrows_what_runs_again(
    simulator: Simulator, tikmatrix: TikMatrix, scope: dict[str, Any], again: list[str]
) -> None:
    simulator.engine.fail_next(times=3)
    evening(tikmatrix, PHONES)
    state = ended(retry_failed_jobs, simulator, **scope)
    assert state.is_completed()
    assert [job.serial for job in simulator.jobs if job.retry_count] == again
    if not again:
        assert (state.message or "").startswith("no failed job to run again")


def test_a_dry_run_shows_what_would_run_again(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    simulator.engine.fail_next(serial="phone-2", remark="no signal")
    evening(tikmatrix, PHONES)
    state = ended(retry_failed_jobs, simulator, dry_run=True)
    assert state.message == (
        "dry run: 1 failed job would run again: phone-2: post failed (no signal)"
    )
    assert statuses(simulator)["phone-2"] == [JobStatus.FAILED]


def test_what_a_run_still_waits_for_is_left_to_it(simulator: Simulator) -> None:
    simulator.engine.fail_next(serial="phone-2")
    with run_that_goes_on(simulator, ["phone-2"]):
        state = ended(retry_failed_jobs, simulator)
    assert state.message == (
        "no failed job to run again; left alone: 1 belong to a flow run that still goes on"
    )


def test_a_flow_may_run_its_own_failures_again(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    simulator.engine.fail_next(serial="phone-2")

    @flow
    def careful_evening() -> Report:
        evening(tikmatrix, PHONES)
        return retry_failed_jobs(tikmatrix=tikmatrix)

    assert [job.owner for job in careful_evening().completed] == ["phone-2"]


def test_what_fails_again_stands_in_the_runs_state(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.engine.fail_next(serial="phone-2", times=2, remark="no signal")
    evening(tikmatrix, ["phone-2"])
    state = ended(retry_failed_jobs, simulator)
    assert state.is_failed()
    assert "0 of 1 completed; phone-2: post failed (no signal)" in (state.message or "")


def test_a_run_that_is_tried_again_goes_on_with_the_same_jobs(
    start_simulator: StartSimulator,
) -> None:
    """What it set going is not failed any more, and must be waited for all the same."""
    simulator = start_simulator(speed=200)
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next(times=1)
    evening(tikmatrix, ["phone-1"])
    chosen: list[tuple[int, ...]] = []

    @flow(retries=1)
    def twice() -> None:
        failed = find_failed_jobs(tikmatrix=tikmatrix)
        chosen.append(failed.job_ids)
        retry_jobs(failed.job_ids, tikmatrix=tikmatrix)
        if len(chosen) == 1:
            raise RuntimeError("the machine was restarted")

    twice()
    assert chosen == [(1,), (1,)]
    assert simulator.jobs[0].retry_count == 1


def test_a_run_answers_for_what_it_set_going(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    """Other runs created these jobs; when this one is cancelled, it stops what it answers for."""
    simulator.engine.fail_next(serial="phone-1")
    evening(tikmatrix, PHONES)
    state = ended(retry_failed_jobs, simulator)
    run_id = state.state_details.flow_run_id
    assert run_id is not None

    @flow
    def answered_for() -> list[Submitted]:
        return run_blocking(submitted_by(run_id, None))

    (entry,) = answered_for()
    assert entry.batch is not None
    assert entry.batch.job_ids == (1,)
    assert entry.base_url == simulator.base_url


# clean_up_jobs


def test_old_completed_jobs_of_ours_are_deleted_and_no_others(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.engine.fail_next(serial="phone-2")
    evening(tikmatrix, PHONES)
    others = simulator.engine.operator_create("comment", COMMENT, serials=["phone-3"])
    until(
        "the jobs of others have ended",
        lambda: statuses(simulator)["phone-3"] == [JobStatus.COMPLETED] * 2,
    )
    state = ended(clean_up_jobs, simulator, min_age_days=A_MOMENT)
    assert state.message == "2 old jobs deleted; left alone: 1 not known to be this project's"
    assert statuses(simulator) == {
        "phone-2": [JobStatus.FAILED],
        "phone-3": [JobStatus.COMPLETED],
    }
    assert [job.id for job in simulator.jobs if job.serial == "phone-3"] == others
    assert simulator.requests.count("DELETE /task/batch") == 1
    assert simulator.requests.count("DELETE /task/{id}") == 0


def test_young_jobs_stay(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    evening(tikmatrix, PHONES)
    state = ended(clean_up_jobs, simulator)
    assert state.message == "0 old jobs deleted; left alone: 3 outside the age"
    assert len(simulator.jobs) == 3


def test_failures_go_too_where_one_says_so(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    simulator.engine.fail_next(serial="phone-2")
    evening(tikmatrix, PHONES)
    assert (
        ended(clean_up_jobs, simulator, min_age_days=A_MOMENT, keep_failed=False).message
        == "3 old jobs deleted"
    )
    assert not simulator.jobs


def test_a_failed_job_that_runs_again_meanwhile_is_not_deleted(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator()
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next(times=2)
    evening(tikmatrix, ["phone-1", "phone-2"])
    old = find_finished_jobs(keep_failed=False, min_age_days=A_MOMENT, tikmatrix=tikmatrix)
    assert old.job_ids == (1, 2)
    simulator.engine.operator_retry(1)
    assert delete_finished_jobs(old, tikmatrix=tikmatrix) == (2,)
    assert [job.id for job in simulator.jobs] == [1]


@pytest.mark.parametrize("missing", ["ignore", "refuse"])
def test_a_job_that_somebody_deleted_does_not_keep_the_others(
    start_simulator: StartSimulator, missing: str
) -> None:
    """What TikMatrix's batch call does about an unknown id is not documented."""
    simulator = start_simulator(batch_delete_missing=missing)
    tikmatrix = block_for(simulator.base_url)
    evening(tikmatrix, PHONES)
    old = find_finished_jobs(min_age_days=A_MOMENT, tikmatrix=tikmatrix)
    simulator.engine.operator_delete(2)
    assert delete_finished_jobs(old, tikmatrix=tikmatrix) == (1, 2, 3)
    assert not simulator.jobs


def test_an_old_history_is_cleaned_where_one_says_so(start_simulator: StartSimulator) -> None:
    """Old jobs end 30 s apart; those that ended within the last 5 minutes stay."""
    simulator = start_simulator(speed=1, phones=1)
    simulator.engine.add_history(250)
    days = 300 / (24 * 3600)
    state = ended(clean_up_jobs, simulator, only_own=False, min_age_days=days, keep_failed=False)
    deleted = int((state.message or "").split()[0])
    assert 238 <= deleted <= 242
    assert simulator.requests.count("DELETE /task/batch") == 3
    assert simulator.engine.stats()["total"] == 250 - deleted


def test_what_a_run_still_answers_for_is_not_deleted(simulator: Simulator) -> None:
    """It would report a job that is gone."""
    with run_that_goes_on(simulator, PHONES):
        state = ended(clean_up_jobs, simulator, min_age_days=A_MOMENT)
    assert state.message == (
        "0 old jobs deleted; left alone: 3 belong to a flow run that still goes on"
    )
    assert len(simulator.jobs) == 3


def test_a_dry_run_deletes_nothing(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    evening(tikmatrix, PHONES)
    state = ended(clean_up_jobs, simulator, min_age_days=A_MOMENT, dry_run=True)
    assert state.message == "dry run: 3 old jobs would be deleted"
    assert len(simulator.jobs) == 3


# stop_orphans


def test_jobs_whose_run_is_over_are_stopped_and_no_others(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    tikmatrix = block_for(simulator.base_url)
    fire_and_forget(tikmatrix, ["phone-1", "phone-2"])
    simulator.engine.operator_create("account_warmup", serials=["phone-3"])
    simulator.engine.create(JobRequest(AccountWarmup(), serials=("phone-2",)).to_api({}))
    state = ended(stop_orphans, simulator, over_for_minutes=0, dry_run=False)
    assert state.message == (
        "stopped 2 orphans: phone-1: account_warmup running; phone-2: account_warmup running; "
        "left alone: 2 not known to be this project's"
    )
    assert [(job.id, job.status in OPEN) for job in simulator.jobs] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
    ]


def test_by_default_orphans_are_only_shown(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    fire_and_forget(block_for(simulator.base_url), ["phone-1"])
    state = ended(stop_orphans, simulator, over_for_minutes=0)
    assert state.message == (
        "dry run, nothing was stopped; 1 orphan: phone-1: account_warmup running"
    )
    assert simulator.jobs[0].status == JobStatus.RUNNING


def test_a_run_that_ended_just_now_may_still_be_tried_again(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator(speed=1)
    fire_and_forget(block_for(simulator.base_url), ["phone-1"])
    state = ended(stop_orphans, simulator, dry_run=False)
    assert state.message == ("no orphans; left alone: 1 belong to a flow run that ended just now")
    assert simulator.jobs[0].status in OPEN


def test_a_run_that_goes_on_has_no_orphans(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=1)
    tikmatrix = block_for(simulator.base_url)

    @flow
    def long_evening() -> State[Report]:
        submit_jobs(AccountWarmup(), serials=PHONES, tikmatrix=tikmatrix)
        return ended(stop_orphans, simulator, over_for_minutes=0, dry_run=False)

    state = long_evening()
    assert state.message == ("no orphans; left alone: 3 belong to a flow run that still goes on")
    assert all(job.status in OPEN for job in simulator.jobs)


def test_rows_that_tell_nothing_but_status_will_do(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(speed=1, dialect=Dialect(row_fields="minimal"))
    fire_and_forget(block_for(simulator.base_url), PHONES)
    state = ended(
        stop_orphans, simulator, over_for_minutes=0, dry_run=False, serials=["phone-1", "phone-2"]
    )
    assert (state.message or "").startswith("stopped 2 orphans")
    assert [job.serial for job in simulator.jobs if job.status in OPEN] == ["phone-3"]


def test_another_tikmatrix_gives_the_same_ids_to_other_jobs(
    start_simulator: StartSimulator,
) -> None:
    fire_and_forget(block_for(start_simulator(speed=1).base_url), PHONES)
    other = start_simulator(speed=1)
    other.engine.create(JobRequest(AccountWarmup(), serials=tuple(PHONES)).to_api({}))
    state = ended(stop_orphans, other, over_for_minutes=0, dry_run=False)
    # Which reason it names depends on whether an earlier test had a simulator at the same port.
    assert (state.message or "").startswith("no orphans; left alone: 3 ")
    assert all(job.status in OPEN for job in other.jobs)


def test_a_tikmatrix_that_was_set_up_anew_gives_the_same_ids_again(
    start_simulator: StartSimulator,
) -> None:
    simulator = start_simulator(speed=1)
    fire_and_forget(block_for(simulator.base_url), ["phone-1"])
    simulator.engine.operator_delete(1)
    simulator.engine._list.next_id = 1
    simulator.engine.operator_create("comment", COMMENT, serials=["phone-1"])
    state = ended(stop_orphans, simulator, over_for_minutes=0, dry_run=False)
    assert state.message == (
        "no orphans; left alone: 1 look like somebody else's under the same id"
    )
    assert simulator.jobs[0].status in OPEN


# check_health


def test_all_is_well(simulator: Simulator) -> None:
    state = ended(check_health, simulator)
    assert (state.name, state.message) == (
        "Completed",
        "all is well (plan Pro, 3 phones seen, 0 running and 0 pending jobs)",
    )


@pytest.mark.parametrize("row_fields", ["seen", "minimal"])
def test_the_state_says_what_needs_a_hand(start_simulator: StartSimulator, row_fields: Any) -> None:
    simulator = start_simulator(
        speed=1,
        pickup_seconds=(0, 0),
        dialect=Dialect(row_fields=row_fields),
        account_details={
            "user-1a": {"logined": 0},
            "user-2a": {"device_online": False},
            "user-3a": {"logined": 0, "status": 1},
        },
    )
    simulator.engine.create(
        JobRequest(Follow(target_users=["a", "b", "c"]), serials=("phone-3",)).to_api({})
    )
    state = ended(check_health, simulator, serials=["phone-3", "phone-9"], longest_queue=2)
    assert state.is_completed()
    assert state.name == "Needs a hand"
    assert state.message == (
        "needs a hand: phone-3 has 3 open jobs; phone-9 has no account that TikMatrix lists; "
        "user-1a is logged out on phone-1; phone-2 is offline "
        "(plan Pro, 4 phones seen, 1 running and 2 pending jobs)"
    )


def test_an_older_tikmatrix_lists_no_accounts(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(accounts_endpoint=False)
    state = ended(check_health, simulator, serials=["phone-1"])
    assert state.message == (
        "all is well (plan Pro, 1 phones seen, 0 running and 0 pending jobs; this TikMatrix does "
        "not list its accounts)"
    )


def test_a_plan_without_api_fails_the_run(start_simulator: StartSimulator) -> None:
    with pytest.raises(PlanError, match="40301"):
        ended(check_health, start_simulator(plan="Starter")).result()


def test_a_licence_that_says_no_fails_too(odd_server: Any) -> None:
    odd_server.answers["GET /license/check"] = (
        200,
        {"code": 0, "message": "success", "data": {"plan_name": "Pro", "api_enabled": False}},
    )
    with pytest.raises(TikMatrixError, match="its API is not enabled"):
        look_at_health(tikmatrix=block_for(odd_server.base_url))


def test_a_tikmatrix_that_is_away_fails_too() -> None:
    away = block_for(f"http://127.0.0.1:{free_port()}/api/v1")
    with pytest.raises(NotSentError):
        quick(look_at_health)(tikmatrix=away)


# Bad input


@pytest.mark.parametrize(
    ("housekeeping", "arguments", "field"),
    [
        (retry_failed_jobs, {"serials": []}, "serials"),
        (retry_failed_jobs, {"serials": [" "]}, "serials"),
        (retry_failed_jobs, {"script_name": ""}, "script_name"),
        (retry_failed_jobs, {"max_jobs": 2}, "max_jobs"),
        (clean_up_jobs, {"serials": []}, "serials"),
        (stop_orphans, {"serials": []}, "serials"),
    ],
)
def test_bad_input_changes_nothing(
    simulator: Simulator,
    tikmatrix: TikMatrix,
    housekeeping: Any,
    arguments: dict[str, Any],
    field: str,
) -> None:
    simulator.engine.fail_next(times=3)
    evening(tikmatrix, PHONES)
    changed = len([request for request in simulator.requests if request.method != "GET"])
    with pytest.raises(InvalidRequest) as refusal:
        ended(housekeeping, simulator, **arguments).result()
    assert refusal.value.field == field
    assert len([request for request in simulator.requests if request.method != "GET"]) == changed


def test_the_result_says_what_became_of_each_job(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.engine.fail_next(serial="phone-1", times=2)
    simulator.engine.fail_next(serial="phone-2")
    evening(tikmatrix, PHONES)
    result = ended(retry_failed_jobs, simulator, success="all").result(raise_on_failure=False)
    assert isinstance(result, JobsFailed)
    assert [(job.owner, job.outcome.value) for job in result.report.jobs] == [
        ("phone-1", "failed"),
        ("phone-2", "completed"),
    ]
