"""Each fault, as a plain HTTP client meets it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tikmatrix_tasks.simulator import ENDPOINTS, Api, Engine, Faults, Options, Simulator
from tikmatrix_tasks.simulator.faults import KINDS, Fault, parse_fault

NO_TLS = False  # loading certificates would take longer than the tests
JOB = {"serials": ["phone-1"], "script_name": "post", "script_config": {}}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(speed=0.001)) as simulator:
        yield simulator


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=simulator.base_url, timeout=5, verify=NO_TLS) as client:
        yield client


@pytest.mark.parametrize(("kind", "jobs"), [("lose_reply", 1), ("drop", 0)])
def test_lost_reply_and_dropped_call_look_the_same(
    simulator: Simulator, http: httpx.Client, kind: str, jobs: int
) -> None:
    """But one has created a job: that doubt is what exactly-once is about."""
    simulator.faults.add(Fault("POST /task", kind))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        http.post("/task", json=JOB)
    assert len(simulator.jobs) == jobs
    assert http.post("/task", json=JOB).json()["code"] == 0, "once means once"


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_internal_error_tells_nothing_about_the_work(
    simulator: Simulator, http: httpx.Client, when: str, jobs: int
) -> None:
    """50001 may come before or after the jobs were made."""
    simulator.faults.add(Fault("POST /task", f"internal_error_{when}"))
    assert http.post("/task", json=JOB).json()["code"] == 50001
    assert len(simulator.jobs) == jobs


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_html_502_is_no_envelope(
    simulator: Simulator, http: httpx.Client, when: str, jobs: int
) -> None:
    """What a gateway in between says."""
    simulator.faults.add(Fault("POST /task", f"html_502_{when}"))
    answer = http.post("/task", json=JOB)
    assert answer.status_code == 502
    assert answer.text.startswith("<!DOCTYPE html>")
    assert len(simulator.jobs) == jobs


def test_truncated_json_is_good_http(simulator: Simulator, http: httpx.Client) -> None:
    """Only reading the JSON shows that something is missing."""
    simulator.faults.truncated_json("POST /task")
    answer = http.post("/task", json=JOB)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert len(simulator.jobs) == 1


def test_short_body_breaks_off(simulator: Simulator, http: httpx.Client) -> None:
    """Fewer bytes than promised: the transport notices."""
    simulator.faults.short_body("POST /task")
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        http.post("/task", json=JOB)
    assert len(simulator.jobs) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_hanging_call_ends_without_a_reply(
    simulator: Simulator, http: httpx.Client, when: str
) -> None:
    """For clients with a time-out, and for those without."""
    simulator.faults.add(Fault("POST /task", f"hang_{when}", seconds=30))
    with pytest.raises(httpx.ReadTimeout):
        http.post("/task", json=JOB, timeout=httpx.Timeout(5, read=0.1))
    simulator.faults.add(Fault("POST /task", f"hang_{when}", seconds=0.05))
    with pytest.raises(httpx.RemoteProtocolError):
        http.post("/task", json=JOB)
    assert len(simulator.jobs) == (2 if when == "after" else 0)


def test_closing_wakes_hanging_calls() -> None:
    """Ending a test or a demo must not take as long as the fault, nor leave threads behind."""
    threads_before = set(threading.enumerate())
    simulator = Simulator().start()
    simulator.faults.hang("GET /task/stats", seconds=60)
    outcome: list[Exception] = []

    def call() -> None:
        try:
            httpx.get(f"{simulator.base_url}/task/stats", timeout=60)
        except httpx.HTTPError as err:
            outcome.append(err)

    caller = threading.Thread(target=call)
    caller.start()
    while simulator.requests.count("GET /task/stats") == 0:
        time.sleep(0.005)
    simulator.close()
    caller.join(10)
    assert [type(err) for err in outcome] == [httpx.RemoteProtocolError]
    for thread in set(threading.enumerate()) - threads_before:
        thread.join(10)
        assert not thread.is_alive()


def test_slow_answer_comes_late_but_whole(simulator: Simulator, http: httpx.Client) -> None:
    """The work is done at once."""
    simulator.faults.slow("POST /task", seconds=0.1)
    began = time.monotonic()
    assert http.post("/task", json=JOB).json()["code"] == 0
    assert time.monotonic() - began >= 0.09  # the two clocks may differ by a tick


@pytest.mark.parametrize("status", [429, 503])
def test_overloaded_says_when_to_come_back(
    simulator: Simulator, http: httpx.Client, status: int
) -> None:
    """Nothing was done."""
    simulator.faults.add(Fault("*", f"overloaded_{status}", seconds=2.5))
    answer = http.post("/task", json=JOB)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "2.5")
    assert simulator.jobs == []


def test_refused_connections_end_by_themselves(simulator: Simulator, http: httpx.Client) -> None:
    """The port is really closed, for new connections and open ones, and opens again."""
    http.get("/task/stats")
    simulator.faults.refuse(seconds=0.3)
    with pytest.raises(httpx.ConnectError):
        http.get("/task/stats")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert http.get("/task/stats").json()["code"] == 0
            return
        except httpx.ConnectError:
            time.sleep(0.02)
    pytest.fail("the port stayed closed")


def test_refuse_after_a_call(simulator: Simulator, http: httpx.Client) -> None:
    """TikMatrix is closed right after it has created the jobs: that answer still arrives."""
    simulator.faults.refuse("POST /task", seconds=60, after=1)
    http.get("/task/stats")
    assert http.post("/task", json=JOB).json()["code"] == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the port closes just after the answer is out
        try:
            http.get("/task/stats")
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            pass
    pytest.fail("the port stayed open")


def test_refused_before_the_start() -> None:
    """TikMatrix is not up yet."""
    simulator = Simulator()
    simulator.faults.refuse(seconds=60)
    with simulator, pytest.raises(httpx.ConnectError):
        httpx.get(f"{simulator.base_url}/task/stats")


def test_times_after_and_order() -> None:
    """The oldest fault that is ready takes the call; `after` counts calls that pass by."""
    faults = Faults()
    faults.drop("GET /task", times=2, after=1)
    faults.lose_reply("*", after=2)
    faults.slow("GET /task/stats")
    met = [faults.take("GET /task") for _ in range(4)]
    assert [fault and fault.kind for fault in met] == [None, "drop", "drop", "lose_reply"]
    assert faults.left == 1
    assert faults.take("GET /license/check") is None
    faults.clear()
    assert faults.take("GET /task/stats") is None


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_can_fail(endpoint: str) -> None:
    """By its own name, whatever job it is about; without sockets as well as with them."""
    api = Api(Engine())
    api.faults.internal_error(endpoint)
    method, path = endpoint.replace("{id}", "7").split(" ")
    assert api.answer(method, f"/api/v1{path}").code == 50001
    assert api.requests.count(endpoint) == 1


def test_unknown_endpoint_is_refused_with_the_names() -> None:
    """A fault that never strikes would make a test pass for nothing."""
    with pytest.raises(ValueError, match=r"'POST /tasks'; there are: \*, GET /license/check, POST"):
        Faults().drop("POST /tasks")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("POST /task=lose_reply", Fault("POST /task", "lose_reply")),
        (
            "GET /task/stats=internal_error_before*3",
            Fault("GET /task/stats", "internal_error_before", times=3),
        ),
        ("GET /task=slow(2.5)", Fault("GET /task", "slow", 2.5)),
        ("*=hang(3)*2 after 4", Fault("*", "hang_after", 3.0, 2, 4)),
        ("*=refuse(5)", Fault("*", "refuse", 5.0)),
        ("*=refuse", Fault("*", "refuse", 1.0)),
        ("POST /task=refuse(5) after 1", Fault("POST /task", "refuse", 5.0, after=1)),
        ("*=overloaded", Fault("*", "overloaded_503", 1.0)),
        ("DELETE /task/{id}=html_502", Fault("DELETE /task/{id}", "html_502_before")),
    ],
)
def test_fault_as_text(text: str, fault: Fault) -> None:
    """The command line says the same as the methods."""
    assert parse_fault(text) == fault


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_text(kind: str) -> None:
    """So that everything a test can do, a demo can."""
    assert parse_fault(f"*={kind}").kind == kind


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lose_reply", "a fault reads ENDPOINT=KIND"),
        ("POST /task=lose_reply*", "a fault reads ENDPOINT=KIND"),
        ("POST /tusk=lose_reply", "no endpoint is called 'POST /tusk'"),
        ("POST /task=explode", "no fault is called 'explode'"),
        ("POST /task=drop(3)", "drop takes no seconds"),
        ("POST /task=drop*0", "at least once"),
        ("POST /task=refuse(3)", "refuse closes the port for every endpoint"),
        ("*=refuse(3)*2", "refuse happens once"),
    ],
)
def test_wrong_text_says_what_is_wrong(text: str, complaint: str) -> None:
    """Its author sits at a command line."""
    with pytest.raises(ValueError, match=complaint):
        parse_fault(text)
