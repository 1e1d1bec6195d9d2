"""The simulator as a program: opened, closed, kept on disk, run from the command line."""

from __future__ import annotations

import _thread
import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tikmatrix_tasks.simulator import Options, Simulator, StateFileError
from tikmatrix_tasks.simulator.command import add_arguments, run

JOB = {"serials": ["phone-1"], "script_name": "post", "script_config": {}}
SLOW = Options(speed=0.001)


def create(simulator: Simulator) -> None:
    assert httpx.post(f"{simulator.base_url}/task", json=JOB).json()["code"] == 0


def test_closed_program_opens_again_on_the_same_port() -> None:
    """TikMatrix is updated while a client waits: same address, same jobs."""
    with Simulator(SLOW) as simulator:
        create(simulator)
        url = simulator.base_url
        simulator.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/task/1")
        simulator.start()
        assert simulator.base_url == url
        assert httpx.get(f"{url}/task/1").json()["data"]["id"] == 1


def test_start_and_close_twice_do_nothing() -> None:
    """A fixture may close what a test has closed."""
    simulator = Simulator().start()
    port = simulator.start().port
    simulator.close()
    simulator.close()
    assert simulator.port == port


def test_port_in_use_is_named() -> None:
    """Most likely the real TikMatrix runs there."""
    with Simulator() as first:
        second = Simulator(port=first.port)
        with pytest.raises(OSError, match=f"cannot listen on port {first.port}"):
            second.start()


def test_connection_is_kept_alive() -> None:
    """As a client with a pool expects; a new connection per poll would be waste."""
    with Simulator() as simulator, socket.create_connection(("127.0.0.1", simulator.port)) as sock:
        for _ in range(2):
            sock.sendall(b"GET /api/v1/task/stats HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b'"failed": 0}}' not in answer:
                received = sock.recv(4096)
                assert received, "closed"
                answer += received
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_state_file_keeps_jobs_across_processes(tmp_path: Path) -> None:
    """An acknowledged job is on disk before its answer: a crash cannot take it back."""
    state_file = tmp_path / "jobs.json"
    with Simulator(SLOW, state_file=state_file) as simulator:
        create(simulator)
        before_the_crash = state_file.read_text(encoding="utf-8")
    state_file.write_text(before_the_crash, encoding="utf-8")
    with Simulator(SLOW, state_file=state_file) as again:
        assert [(job.id, job.serial, job.status) for job in again.jobs] == [(1, "phone-1", 0)]
        create(again)
        assert [job.id for job in again.jobs] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.json"]


def test_state_file_follows_what_happens_by_itself(tmp_path: Path) -> None:
    """And what the operator does, without any call."""
    state_file = tmp_path / "jobs.json"
    with Simulator(SLOW, state_file=state_file) as simulator:
        simulator.engine.operator_create("post", serials=["phone-2"])
        deadline = time.monotonic() + 10
        while "phone-2" not in state_file.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "\ufffe"])
def test_damaged_state_file_is_refused(tmp_path: Path, text: str) -> None:
    """Not overwritten: it may be all there is of somebody's jobs."""
    state_file = tmp_path / "jobs.json"
    state_file.write_text(text, encoding="utf-16")
    with pytest.raises(StateFileError, match=r"jobs\.json is damaged .* move it away"):
        Simulator(state_file=state_file)
    state_file.write_text(text, encoding="utf-8")
    with pytest.raises(StateFileError, match=r"jobs\.json is damaged .* move it away"):
        Simulator(state_file=state_file)
    assert state_file.read_text(encoding="utf-8") == text


def test_state_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    """At once, not at the first job."""
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Simulator(state_file=tmp_path / "nowhere" / "jobs.json")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "70000"], "argument --port: '70000' is not a whole number from 0 to 65535"),
        (["--phones", "0"], "argument --phones: '0'"),
        (["--phones", "many"], "argument --phones: 'many'"),
        (["--plan", "Gold"], "argument --plan: invalid choice: 'Gold'"),
        (["--fail-rate", "2"], "argument --fail-rate: '2' is not a number from 0 to 1"),
        (["--fail-rate", "nan"], "argument --fail-rate: 'nan'"),
        (["--speed", "0"], "argument --speed: '0'"),
        (["--duration", "post"], "argument --duration: ''"),
        (["--duration", "=3"], "argument --duration: '=3' is not SCRIPT=SECONDS"),
        (["--fault", "POST /task=explode"], "argument --fault: no fault is called 'explode'"),
        (["--rows-key", "jobs"], "argument --rows-key: invalid choice: 'jobs'"),
    ],
)
def test_wrong_argument_is_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input is refused before anything starts, naming the option."""
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_command_that_cannot_begin_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2, no traceback."""
    damaged = tmp_path / "jobs.json"
    damaged.write_text("?", encoding="utf-8")
    with Simulator() as other:
        for arguments, complaint in (
            (["--port", str(other.port)], f"cannot listen on port {other.port}"),
            (["--port", "0", "--state-file", str(damaged)], "is damaged"),
            (["--pickup", "9", "1"], "--pickup: 9 is more than 1"),
            (["--serials", "a", "a"], "phones: each serial once"),
        ):
            assert run(parsed(*arguments)) == 2
            printed = capsys.readouterr()
            assert complaint in printed.err
            assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """A "%" in a help text breaks argparse only when someone asks for help."""
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "simulated seconds per real second" in capsys.readouterr().out


def test_command_serves_until_interrupted() -> None:
    """The whole program: its lines, its dialect, its faults, a request in --verbose, Ctrl-C."""
    program = subprocess.Popen(
        [
            *(sys.executable, "-m", "tikmatrix_tasks.simulator"),
            *("--port", "0", "--phones", "4", "--speed", "60", "--history", "30", "--verbose"),
            *("--rows-key", "none", "--string-status", "--fault", "GET /task/stats=drop"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        address = program.stdout.readline()
        about = program.stdout.readline()
        assert program.stdout.readline() == "Ctrl-C ends it\n"
        base_url = address.removeprefix("TikMatrix simulator at ").strip()
        assert "4 phones (phone-1, phone-2, phone-3, ...), plan Pro" in about
        assert "60 simulated seconds per second" in about
        rows = httpx.get(f"{base_url}/task?page_size=5&serial=phone-2").json()["data"]
        assert [row["status"] for row in rows] == ["2"] * 5
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{base_url}/task/stats")
        if sys.platform == "win32":  # there, a signal to a child would reach its parent too
            program.terminate()
        else:
            program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=10)
    finally:
        program.kill()
    assert out == ("GET /api/v1/task code 0\nGET /api/v1/task/stats no code (fault: drop)\n")
    if sys.platform != "win32":
        assert (program.returncode, err) == (0, "")


def test_ctrl_c_ends_serving_within_a_second() -> None:
    """On Windows as elsewhere; the jobs are kept and nothing is raised."""
    simulator = Simulator(SLOW)
    threading.Timer(0.1, _thread.interrupt_main).start()
    began = time.monotonic()
    simulator.serve_forever()
    assert time.monotonic() - began < 5  # one, on a machine with nothing else to do
    with pytest.raises(httpx.ConnectError):
        httpx.get(simulator.base_url)


def test_bodies_are_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """They hold captions, paths and keys of other services."""
    body = {**JOB, "script_config": {"captions": "hush"}}
    lines: list[str] = []
    with Simulator(on_request=lambda request: lines.append(request.path)) as simulator:
        httpx.post(f"{simulator.base_url}/task", json=body)
    assert lines == ["/api/v1/task"]
    printed = capsys.readouterr()
    assert "hush" not in printed.out + printed.err


def test_state_file_is_json_of_jobs(tmp_path: Path) -> None:
    """Someone may want to look into it."""
    state_file = tmp_path / "jobs.json"
    with Simulator(SLOW, state_file=state_file) as simulator:
        create(simulator)
    state = json.loads(state_file.read_text(encoding="utf-8"))
    assert dict(zip(state["job_fields"], state["jobs"][0], strict=True))["serial"] == "phone-1"
