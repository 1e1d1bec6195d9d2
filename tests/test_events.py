"""What docs/events.md says, on a real Prefect server: told once, and only what is certain."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import State, flow
from prefect.events import Event, emit_event
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from flows.check_health import check_health
from flows.post import post
from flows.post_from_table import post_from_table
from flows.warm_up import warm_up
from tests.conftest import PHONES, StartSimulator, block_for
from tests.real_worker import ROOT, until
from tests.test_tasks import quick
from tikmatrix_tasks import (
    Batch,
    Post,
    TikMatrix,
    check_license,
    run_script,
    stop_jobs,
    submit_jobs,
    wait_for_each,
    wait_for_jobs,
)
from tikmatrix_tasks.local_server import free_port
from tikmatrix_tasks.simulator import Simulator

pytestmark = pytest.mark.usefixtures("prefect_api")
DOCUMENT = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
KINDS = ("job", "batch", "phone", "license", "connection")


def events_of(address: str, state: State[Any]) -> list[Event]:
    """Every event of the kinds of docs/events.md that a flow run emitted, the first one first."""

    def ask(**query: Any) -> list[Event]:
        answer = httpx.post(
            f"{address}/api/events/filter",
            json={"filter": query | {"order": "ASC"}, "limit": 50},
            timeout=30,
            trust_env=False,
        )
        return [Event.model_validate(event) for event in answer.raise_for_status().json()["events"]]

    mark = f"tikmatrix.mark.{uuid4()}"  # events of one process reach the server one by one
    emit_event("tikmatrix.mark", resource={"prefect.resource.id": mark})
    until("Prefect's server has kept what came before", lambda: ask(resource={"id": [mark]}))
    return ask(
        related={"id": [f"prefect.flow-run.{state.state_details.flow_run_id}"]},
        event={"prefix": [f"tikmatrix.{kind}." for kind in KINDS]},
    )


def names_of(events: list[Event], kind: str = "") -> list[str]:
    names = [event.event.removeprefix("tikmatrix.") for event in events]
    return [name for name in names if name.startswith(kind)]


def host_of(tikmatrix: TikMatrix) -> str:
    return str(tikmatrix.base_url).split("/")[2]


def test_a_runs_whole_story(prefect_address: str, start_simulator: StartSimulator) -> None:
    simulator = start_simulator(durations={"post": 1500.0})  # long enough to be seen running
    tikmatrix = block_for(simulator.base_url)
    simulator.engine.fail_next(serial="phone-2", remark="element not found")
    state: State[Any] = post(
        serials=PHONES, post=Post(captions="secret words"), tikmatrix=tikmatrix, return_state=True
    )
    events = events_of(prefect_address, state)
    assert Counter(names_of(events)) == {
        "license.valid": 1,
        "batch.submitted": 1,
        "job.running": 3,
        "job.completed": 2,
        "job.failed": 1,
        "batch.failed": 1,
    }
    (failed,) = [event for event in events if event.event == "tikmatrix.job.failed"]
    job = next(job for job in simulator.jobs if job.serial == "phone-2")
    assert failed.resource.id == f"tikmatrix.job.{host_of(tikmatrix)}.{job.id}"
    assert failed.resource["tikmatrix.flow"] == "post"
    roles = {related.role: related.id for related in failed.related}
    assert roles["phone"] == "tikmatrix.phone.phone-2"
    assert roles["flow-run"] == f"prefect.flow-run.{state.state_details.flow_run_id}"
    assert {"flow", "task-run"} <= set(roles)
    assert failed.payload["job_id"] == job.id
    assert failed.payload["script"] == "post"
    assert failed.payload["serial"] == "phone-2"
    assert failed.payload["remark"] == "element not found"
    (batch,) = [event for event in events if event.event == "tikmatrix.batch.failed"]
    first = simulator.jobs[0].id
    assert batch.resource.id == f"tikmatrix.batch.{host_of(tikmatrix)}.{first}"
    counts = {"completed": 2, "failed": 1, "gone": 0, "not_created": 0}
    assert batch.payload == {"script": "post", "jobs": 3, **counts}
    assert not [event for event in events if "secret words" in event.model_dump_json()]


def test_a_failure_that_auto_retry_mends_is_no_event(
    prefect_address: str, start_simulator: StartSimulator
) -> None:
    """Whoever is called at night must not be called for something that worked."""
    simulator = start_simulator(auto_retry=True)
    tikmatrix = block_for(simulator.base_url, failure_grace_seconds=1)
    simulator.engine.fail_next(serial="phone-1")
    state: State[Any] = post(serials=["phone-1"], tikmatrix=tikmatrix, return_state=True)
    assert state.message == "1 of 1 posted"
    names = names_of(events_of(prefect_address, state))
    assert simulator.jobs[0].retry_count == 1
    assert names[-2:] == ["job.completed", "batch.completed"]
    assert "job.failed" not in names


def test_a_failure_that_the_wait_itself_runs_again_is_no_event(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    simulator.engine.fail_next(serial="phone-1", times=2)
    once: State[Any] = post(
        serials=["phone-1"], retry_failed=2, tikmatrix=tikmatrix, return_state=True
    )
    assert "job.failed" not in names_of(events_of(prefect_address, once))
    simulator.engine.fail_next(serial="phone-1", times=2)
    twice: State[Any] = post(
        serials=["phone-1"], retry_failed=1, tikmatrix=tikmatrix, return_state=True
    )
    assert names_of(events_of(prefect_address, twice)).count("job.failed") == 1


def test_a_run_that_is_tried_again_and_two_waits_tell_a_failure_once(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """Three failures of a phone start an automation: one failure must not count three times."""
    simulator.engine.fail_next(serial="phone-1")
    attempts: list[Batch] = []

    @flow(retries=1)
    def unlucky() -> None:
        batch = submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix)
        for _ in range(2):
            wait_for_jobs(batch, fail_on="never", tikmatrix=tikmatrix)
        attempts.append(batch)
        if len(attempts) == 1:
            raise RuntimeError("something else failed")

    events = events_of(prefect_address, unlucky(return_state=True))
    assert [batch.job_ids for batch in attempts] == [(simulator.jobs[0].id,)] * 2
    assert names_of(events).count("job.failed") == 1
    assert names_of(events).count("batch.submitted") == 1


def test_a_later_attempt_does_not_even_send_what_was_told(
    simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """Prefect's server forgets within the hour which events it saw; the run does not."""
    simulator.engine.fail_next(serial="phone-1")
    attempts: list[int] = []

    @flow(retries=2)
    def unlucky() -> None:
        wait_for_jobs(
            submit_jobs(Post(), serials=["phone-1"], tikmatrix=tikmatrix),
            fail_on="never",
            tikmatrix=tikmatrix,
        )
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise RuntimeError("something else failed")

    EventsWorker.set_client_override(AssertingEventsClient)
    try:
        unlucky()
        EventsWorker.instance().drain()
        sent = [event for client in AssertingEventsClient.all for event in client.events]
    finally:
        EventsWorker.set_client_override(None)
        AssertingEventsClient.reset()
    assert len(attempts) == 3
    assert [event.event for event in sent].count("tikmatrix.job.failed") == 1


def test_the_same_job_ids_of_another_tikmatrix_are_other_jobs(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """Each PC's TikMatrix counts from 1, and each is `localhost` to its own worker."""
    first: State[Any] = post(serials=["phone-1"], tikmatrix=tikmatrix, return_state=True)
    assert "job.completed" in names_of(events_of(prefect_address, first))
    simulator.close()
    other = Simulator(simulator.options, port=int(host_of(tikmatrix).split(":")[1]))
    with other:
        second: State[Any] = post(serials=["phone-1"], tikmatrix=tikmatrix, return_state=True)
    assert other.jobs[0].id == simulator.jobs[0].id
    assert "job.completed" in names_of(events_of(prefect_address, second))


def test_a_deleted_job_and_a_stopped_one(
    prefect_address: str, start_simulator: StartSimulator
) -> None:
    simulator = start_simulator(speed=1, pickup_seconds=(0, 0))
    tikmatrix = block_for(simulator.base_url)

    @flow
    def evening() -> None:
        batch = submit_jobs(Post(), serials=["phone-1", "phone-2"], tikmatrix=tikmatrix)
        wait = wait_for_jobs.submit(batch, fail_on="never", tikmatrix=tikmatrix)
        time.sleep(0.5)  # it has seen them: what was never seen may be slow to show
        simulator.engine.operator_delete(batch.job_ids[0])
        stop_jobs(batch, tikmatrix=tikmatrix)
        wait.result()
        batches.append(batch)

    batches: list[Batch] = []
    events = events_of(prefect_address, evening(return_state=True))
    first, second = batches[0].job_ids
    told = {(event.event, event.payload["job_id"]) for event in events if "job." in event.event}
    assert ("tikmatrix.job.gone", first) in told
    assert ("tikmatrix.job.stopped", second) in told
    assert ("tikmatrix.job.stopped", first) not in told


def test_a_wait_out_of_time_tells_what_it_stopped(
    prefect_address: str, start_simulator: StartSimulator
) -> None:
    simulator = start_simulator(speed=1)
    tikmatrix = block_for(simulator.base_url)
    state: State[Any] = post(
        serials=["phone-1"], timeout_seconds=0.3, tikmatrix=tikmatrix, return_state=True
    )
    names = names_of(events_of(prefect_address, state))
    assert names.count("job.stopped") == 1
    assert not {"job.failed", "batch.failed", "batch.completed"} & set(names)


def test_accounts_are_related_as_accounts(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    state: State[Any] = warm_up(usernames=["user-1a"], tikmatrix=tikmatrix, return_state=True)
    events = events_of(prefect_address, state)
    (completed,) = [event for event in events if event.event == "tikmatrix.job.completed"]
    roles = {related.role: related.id for related in completed.related}
    assert roles["account"] == "tikmatrix.account.user-1a"
    assert roles["phone"] == "tikmatrix.phone.phone-1"  # its row tells
    (submitted,) = [event for event in events if event.event == "tikmatrix.batch.submitted"]
    assert "tikmatrix.account.user-1a" in [related.id for related in submitted.related]


def test_an_outage_is_told_once_by_many_waits(
    prefect_address: str, start_simulator: StartSimulator
) -> None:
    simulator = start_simulator(speed=20)
    tikmatrix = block_for(simulator.base_url)

    @flow
    def evening() -> None:
        batch = submit_jobs(Post(), serials=PHONES, tikmatrix=tikmatrix)
        waits = wait_for_each(batch, "wait for {owner}", tikmatrix=tikmatrix)
        simulator.faults.refuse(seconds=0.5)
        for wait in waits:
            wait.result()

    names = names_of(events_of(prefect_address, evening(return_state=True)), "connection")
    assert names == ["connection.lost", "connection.restored"]


def test_a_closed_tikmatrix_is_told_once_however_often_it_is_asked(prefect_address: str) -> None:
    closed = block_for(f"http://127.0.0.1:{free_port()}/api/v1")

    @flow
    def evening() -> None:
        quick(check_license)(closed)

    state: State[Any] = evening(return_state=True)
    assert state.is_failed()
    (event,) = events_of(prefect_address, state)
    assert event.event == "tikmatrix.connection.lost"
    assert event.payload == {"why": "NotSentError", "sent": False}


def test_a_plan_without_api_access(prefect_address: str, start_simulator: StartSimulator) -> None:
    starter = block_for(start_simulator(plan="Starter").base_url)
    state: State[Any] = post(serials=["phone-1"], tikmatrix=starter, return_state=True)
    (event,) = events_of(prefect_address, state)
    assert event.event == "tikmatrix.license.lost"
    assert event.resource.id == f"tikmatrix.license.{host_of(starter)}"
    assert event.payload == {"code": 40301}


def test_phones_as_check_health_finds_them(
    prefect_address: str, start_simulator: StartSimulator
) -> None:
    details = {"user-1a": {"device_online": False}, "user-2a": {"logined": 0}}
    tikmatrix = block_for(start_simulator(account_details=details).base_url)
    state: State[Any] = check_health(tikmatrix=tikmatrix, return_state=True)
    found = [event for event in events_of(prefect_address, state) if ".phone." in event.event]
    assert {event.resource.id: event.event for event in found} == {
        "tikmatrix.phone.phone-1": "tikmatrix.phone.offline",
        "tikmatrix.phone.phone-2": "tikmatrix.phone.logged-out",
        "tikmatrix.phone.phone-3": "tikmatrix.phone.well",
    }
    (logged_out,) = [event for event in found if event.event.endswith("logged-out")]
    assert logged_out.payload == {"serial": "phone-2", "logged_out": ["user-2a"]}
    assert "tikmatrix.account.user-2a" in [related.id for related in logged_out.related]


def test_outside_a_flow_run_nothing_is_told(simulator: Simulator, tikmatrix: TikMatrix) -> None:
    """And nothing fails for it."""
    assert run_script(Post(), serials=["phone-1"], tikmatrix=tikmatrix).ok


def test_the_document_names_every_event() -> None:
    documented = set(
        re.findall(r"`tikmatrix\.((?:job|batch|phone|license|connection)\.[a-z-]+)`", DOCUMENT)
    )
    words = {
        "job": ("running", "completed", "failed", "gone", "stopped"),
        "batch": ("submitted", "completed", "failed"),
        "phone": ("offline", "logged-out", "well"),
        "license": ("lost", "valid"),
        "connection": ("lost", "restored"),
    }
    assert documented == {f"{kind}.{word}" for kind, all_ in words.items() for word in all_}


def test_a_failure_of_an_earlier_run_is_not_told_again(
    prefect_address: str, simulator: Simulator, tikmatrix: TikMatrix, tmp_path: Path
) -> None:
    """Else a table with an old failure would look each night like a phone that keeps failing."""
    table = tmp_path / "posts.csv"
    table.write_text("phone,files\nphone-1,C:/a.mp4\nphone-2,C:/b.mp4\n", encoding="utf-8")
    simulator.engine.fail_next(serial="phone-2")
    told = []
    for _ in range(3):
        state = post_from_table(table, tikmatrix=tikmatrix, success="any", return_state=True)
        told.append(names_of(events_of(prefect_address, state)).count("job.failed"))
    assert told == [1, 0, 0]
