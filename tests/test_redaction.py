"""Nothing private where others read: searched for in all that a real Prefect keeps and logs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import traceback
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.post import post
from tests.conftest import HOME, block_for
from tests.odd_server import OddServer, envelope
from tests.real_flows.canaries import PRIVATE, SECRET
from tests.real_worker import ROOT, PrefectServer
from tikmatrix_tasks import (
    BadRequestError,
    CustomScript,
    InvalidRequest,
    JobRequest,
    NoAnswerError,
    Post,
    TikMatrix,
    TikMatrixClient,
)
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.redaction import PrivateTexts, redact, remember
from tikmatrix_tasks.simulator import Simulator

PARAMETERS = {("flow_run", "parameters"), ("deployment", "parameters")}
"""Where captions, comments and paths are by nature: table and column of Prefect's database."""

Places = Mapping[str, set[str]]
"""Each canary that was found, and where."""


def run_with_canaries(home: Path, **environment: str) -> Places:
    """Run everything in processes of their own, and search all that they left behind."""
    home.mkdir()
    quiet = quiet_environment(os.environ, home) | environment
    server = PrefectServer(quiet, home / "server.log")
    try:
        server.start()
        with (home / "runs.log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-m", "tests.real_flows.canaries"],
                cwd=ROOT,
                env=quiet
                | {
                    "PREFECT_API_URL": server.api,
                    "PREFECT_LOGGING_LEVEL": "DEBUG",
                    "PYTHONPATH": str(ROOT),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=900,
                check=True,
            )
    except subprocess.CalledProcessError:
        raise AssertionError((home / "runs.log").read_text("utf-8")[-5000:]) from None
    finally:
        server.close()
    return search(home)


def search(home: Path) -> Places:
    """Every table of the database, every log, and what is kept as results."""
    found: dict[str, set[str]] = defaultdict(set)

    def look(place: str, text: str, canaries: tuple[str, ...]) -> None:
        for canary in canaries:
            if canary in text:
                found[canary].add(place)

    with sqlite3.connect(home / "prefect.db") as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')
            columns = [column for column, *_ in cursor.description]
            for row in cursor:
                for column, value in zip(columns, row, strict=True):
                    private = () if (table, column) in PARAMETERS else PRIVATE
                    look(f"table {table}", str(value), (*SECRET, *private))
    for path in home.rglob("*"):
        is_result = "storage" in path.relative_to(home).parts
        if path.is_file() and (is_result or path.suffix == ".log"):
            place = "results" if is_result else "logs"
            look(place, path.read_text("utf-8", errors="replace"), (*SECRET, *PRIVATE))
    return found


def test_no_canary_is_found() -> None:
    assert run_with_canaries(Path(HOME.name) / "redacted") == {}


def test_with_redaction_switched_off_each_canary_is_found_everywhere() -> None:
    """So the test above looks where they would be."""
    switch = {"PREFECT_INTEGRATIONS_TIKMATRIX_REDACT": "false"}
    found = run_with_canaries(Path(HOME.name) / "not-redacted", **switch)
    assert set(found) == {*PRIVATE, *SECRET} - {"Canaryinline"}
    places = {place for each in found.values() for place in each}
    tables = {"log", "flow_run_state", "task_run_state", "artifact", "events"}
    assert places >= {"logs", "results", *(f"table {name}" for name in tables)}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot read C:\\Clips\\one.mp4, is it there?", "cannot read [path], is it there?"),
        ("'D:/My Clips/number one.mp4' is missing", "'[path]' is missing"),
        ('{"file": "D:\\\\Clips\\\\one.mp4"}', '{"file": "[path]"}'),
        ("\\\\nas\\share\\one.mp4 is missing", "[path] is missing"),
        ("no space on /sdcard/DCIM", "no space on [path]"),
        ("see file:///home/me/one.mp4", "see [path]"),
        ("~/clips/one.mp4 is missing", "[path] is missing"),
    ],
)
def test_what_looks_like_a_path_is_taken_out(said: str, shown: str) -> None:
    assert redact(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "5/6 phones on 2026/01/02 at 7:05",
        "https://www.tiktok.com/@user/video/1 is gone",
        "and/or",
        "http://localhost:50809/api/v1/task",
        "element not found: android:id/button",
    ],
)
def test_what_is_no_path_is_left(said: str) -> None:
    assert redact(said) == said


def test_parts_of_a_private_text_are_found_too() -> None:
    """TikMatrix picks one of the alternatives, shows one line, or cuts a text short."""
    remember(["{Spring bargains|Autumn bargains} are here\nOnly until Sunday, for friends"])
    assert redact("caption: Autumn bargains") == "caption: [private]"
    assert redact("caption: Only until Sunday, fo...") == "caption: [private]..."
    remember(["relative/clips/first-clip.mp4", 'Said "yes" in Zürich'])
    assert redact("first-clip.mp4 is too long") == "[private] is too long"
    assert redact(r'{"captions": "Said \"yes\" in Z\u00fcrich"}') == '{"captions": "[private]"}'


def test_short_texts_do_not_make_noise() -> None:
    remember(["", "a", "not", "gale"])
    assert redact("a nightingale is not found") == "a nightingale is not found"
    assert redact("gale is refused") == "[private] is refused"


def test_memory_is_bounded_and_the_oldest_is_forgotten() -> None:
    texts = PrivateTexts(most_characters=1000)
    texts.add(f"caption number {number}!" for number in range(1000))
    assert texts.hide("caption number 999!") == "[private]"
    assert texts.hide("a, caption number 1!") != "a, [private]"


async def test_a_row_of_somebody_else_is_freed_of_its_own_settings(
    odd_server: OddServer,
) -> None:
    """Their captions never were in this process."""
    remark = "'Somebody else wrote it' was refused on phone-9 of user-9"
    args = {"captions": "Somebody else wrote it", "username": "user-9", "post_way": "share"}
    row = {"id": 7, "status": 3, "serial": "phone-9", "remark": remark, "script_args": args}
    odd_server.answers["GET /task/7"] = (200, envelope(row))
    async with TikMatrixClient(odd_server.base_url) as client:
        job = await client.get_job(7)
    assert job.remark == "'[private]' was refused on phone-9 of user-9"
    async with TikMatrixClient(odd_server.base_url, redact=False) as client:
        assert (await client.get_job(7)).remark == remark


async def test_settings_that_nobody_knows_are_private_and_targets_are_not(
    odd_server: OddServer,
) -> None:
    settings = {"target_users": ["somebody"], "greeting": {"text": "Good evening to you"}}
    said = "cannot follow somebody with 'Good evening to you'"
    odd_server.answers["POST /task"] = (200, envelope(code=40001, message=said))
    request = JobRequest(CustomScript(script="greet", settings=settings), serials=("phone-1",))
    async with TikMatrixClient(odd_server.base_url) as client:
        with pytest.raises(BadRequestError) as refusal:
            await client.create_jobs(request)
    assert refusal.value.message == "cannot follow somebody with '[private]'"


async def test_a_token_is_found_without_its_word_before(odd_server: OddServer) -> None:
    odd_server.answers["GET /task/stats"] = (
        200,
        envelope(code=40001, message="abcdef-12345 has expired"),
    )
    headers = {"Authorization": "Bearer abcdef-12345"}
    async with TikMatrixClient(odd_server.base_url, headers=headers) as client:
        with pytest.raises(BadRequestError, match=r"\[private\] has expired"):
            await client.get_stats()


async def test_what_had_to_be_redacted_is_not_shown_as_the_cause_either() -> None:
    """A traceback shows causes; what broke the connection may repeat what was sent."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError(f"illegal status line: {request.headers['X-Token']}")

    headers = {"X-Token": "planted-token"}
    async with TikMatrixClient(headers=headers, transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(NoAnswerError) as failure:
            await client.get_stats()
    told = "".join(traceback.format_exception(failure.value))
    assert "illegal status line: [private]" in told
    assert "planted-token" not in told


def test_header_values_among_the_parameters_of_a_run_are_refused(
    prefect_api: str, simulator: Simulator
) -> None:
    """Where the deployment does not check its parameters; nothing is sent."""
    inline: Any = {"base_url": simulator.base_url, "headers": {"X-Token": "planted"}}
    with pytest.raises(InvalidRequest, match="save it as a block") as refusal:
        post(serials=["phone-1"], post=Post(captions="Hi"), tikmatrix=inline)
    assert refusal.value.field == "tikmatrix"
    assert "planted" not in str(refusal.value)
    assert len(simulator.requests) == 0


def test_a_block_in_hand_may_have_headers(prefect_api: str, simulator: Simulator) -> None:
    """Prefect stores a run's parameters without them."""
    tikmatrix: TikMatrix = block_for(simulator.base_url, headers={"X-Token": "planted"})
    assert post(serials=["phone-1"], post=Post(captions="Hi"), tikmatrix=tikmatrix).ok


def test_the_blocks_own_form_takes_headers_and_a_flows_form_does_not() -> None:
    own = TikMatrix.model_json_schema()["properties"]["headers"]
    as_parameter = post.parameters.model_dump()["definitions"]["TikMatrix"]["properties"]["headers"]
    assert own["anyOf"][0] == {"type": "object", "additionalProperties": True}
    assert as_parameter["additionalProperties"] is False
