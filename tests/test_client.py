"""The client over real HTTP, against every way of answering that the facts allow."""

from __future__ import annotations

import asyncio
import itertools
from typing import get_args

import pytest

from tests.conftest import StartSimulator
from tests.odd_server import OddServer, envelope
from tikmatrix_tasks import (
    ApiError,
    BadRequestError,
    Follow,
    HttpStatusError,
    InternalError,
    InvalidRequest,
    Job,
    JobRequest,
    JobStatus,
    NoAnswerError,
    NotFoundError,
    NotSentError,
    OverloadedError,
    PlanError,
    Post,
    ScriptNotSupported,
    TikMatrixClient,
    TikMatrixError,
)
from tikmatrix_tasks.client import normalized_base_url
from tikmatrix_tasks.local_server import free_port
from tikmatrix_tasks.scripts import CustomScript
from tikmatrix_tasks.simulator import Dialect, Simulator
from tikmatrix_tasks.simulator.options import RowsKey

POST = JobRequest(Post(), serials=("phone-1", "phone-2"))

DIALECTS = [
    Dialect(
        rows_key=key,
        string_status=index % 2 == 0,
        with_total=index % 3 != 0,
        http_status="by_code" if index % 2 else "always_200",
        newest_first=index % 2 == 0,
        row_fields="minimal" if index % 3 == 1 else "seen",
        script_args="object" if index % 2 else "text",
        empty_data="null" if index % 2 else "object",
    )
    for index, key in enumerate((*get_args(RowsKey), None))
]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_every_endpoint_in_every_dialect(
    start_simulator: StartSimulator, dialect: Dialect
) -> None:
    """The docs leave the wording of answers open; each of these keeps to them."""
    simulator = start_simulator(dialect=dialect, speed=0.001)
    async with TikMatrixClient(simulator.base_url) as client:
        assert (await client.check_license()).plan_name == "Pro"
        created = await client.create_jobs(POST)
        assert len(created.task_ids) == 2
        first, second = created.task_ids
        page = await client.list_jobs(status=JobStatus.PENDING, page=1, page_size=20)
        assert {job.id for job in page.jobs} == {first, second}
        assert (await client.list_jobs(page=2, page_size=2)).jobs == ()
        assert [job.id async for job in client.iter_jobs(serial="phone-1", page_size=1)] == [first]
        job = await client.get_job(first)
        assert (job.id, job.known_status) == (first, JobStatus.PENDING)
        stats = await client.get_stats()
        assert (stats.total, stats.pending) == (2, 2)
        with pytest.raises(BadRequestError):
            await client.retry_job(first)
        with pytest.raises(BadRequestError):
            await client.stop_job(first)
        await client.retry_all_jobs()
        await client.delete_job(first)
        await client.delete_jobs([second])
        with pytest.raises(NotFoundError):
            await client.get_job(first)
        accounts = await client.list_accounts(device="phone-2", page_size=5)
        assert [account.device for account in accounts.accounts] == ["phone-2"]
        assert len([account async for account in client.iter_accounts(page_size=1)]) == 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (40001, BadRequestError),
        (40002, BadRequestError),
        (40003, ScriptNotSupported),
        (40301, PlanError),
        (40401, NotFoundError),
        (50001, InternalError),
        (40999, ApiError),
        (59999, InternalError),
        (7, ApiError),
    ],
)
@pytest.mark.parametrize("http_status", [200, 400, 403, 404, 500])
async def test_each_code_is_its_error_whatever_the_http_status(
    odd_server: OddServer, code: int, error: type[ApiError], http_status: int
) -> None:
    """Which HTTP status carries a code is not documented; the number is kept unchanged."""
    odd_server.answers["GET /task/stats"] = (
        http_status,
        envelope(code=code, message="their words"),
    )
    async with TikMatrixClient(odd_server.base_url) as client:
        with pytest.raises(ApiError) as raised:
            await client.get_stats()
    assert type(raised.value) is error
    assert str(raised.value).startswith(f"GET /task/stats: their words (code {code})")
    assert raised.value.code == code


async def test_every_code_can_be_provoked_on_the_simulator(start_simulator: StartSimulator) -> None:
    simulator = start_simulator()
    simulator.faults.internal_error("GET /task/stats", when="before")
    async with TikMatrixClient(simulator.base_url) as client:
        with pytest.raises(BadRequestError):
            await client.create_jobs(JobRequest(Post(), serials=("nobody's phone",)))
        with pytest.raises(ScriptNotSupported):
            await client.create_jobs(JobRequest(CustomScript(script="like"), serials=("phone-1",)))
        with pytest.raises(NotFoundError):
            await client.stop_job(4711)
        with pytest.raises(InternalError):
            await client.get_stats()
    starter = start_simulator(plan="Starter")
    async with TikMatrixClient(starter.base_url) as client:
        with pytest.raises(PlanError):
            await client.check_license()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"<html>hello</html>", NoAnswerError),
        (200, b"", NoAnswerError),
        (200, b'{"code": 0, "data": {"tot', NoAnswerError),
        (200, b"[1, 2]", NoAnswerError),
        (200, b'{"code": "zero"}', NoAnswerError),
        (200, {"code": 0, "data": {"total": 1}}, NoAnswerError),
        (200, {"code": 0, "data": None}, NoAnswerError),
        (500, b"<html>oops</html>", NoAnswerError),
        (502, b"<html>bad gateway</html>", NoAnswerError),
        (404, b"<html>no such page</html>", HttpStatusError),
        (404, b"", HttpStatusError),
        (401, b"", HttpStatusError),
        (302, b"", HttpStatusError),
        (503, b"", OverloadedError),
        (429, {"code": 42900, "message": "slow down"}, OverloadedError),
    ],
)
async def test_answers_without_an_envelope_are_told_apart(
    odd_server: OddServer, status: int, body: object, error: type[TikMatrixError]
) -> None:
    odd_server.answers["GET /task/stats"] = (status, body)
    async with TikMatrixClient(odd_server.base_url) as client:
        with pytest.raises(TikMatrixError) as raised:
            await client.get_stats()
    assert type(raised.value) is error
    assert "GET /task/stats" in str(raised.value)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-1", None), ("soon", None), ("inf", None)]
)
async def test_retry_after_is_read(
    odd_server: OddServer, header: str, seconds: float | None
) -> None:
    odd_server.headers["Retry-After"] = header
    odd_server.answers["GET /task/stats"] = (503, b"")
    async with TikMatrixClient(odd_server.base_url) as client:
        with pytest.raises(OverloadedError) as raised:
            await client.get_stats()
    assert raised.value.retry_after_seconds == seconds


async def test_rows_may_be_odd_in_every_optional_field(odd_server: OddServer) -> None:
    """No page promises these fields, so none of them may break a wait."""
    row = {
        "id": "17",
        "status": "1",
        "serial": 5,
        "script_args": "{broken",
        "start_time": "yesterday",
        "end_time": "2026-01-02 03:04:05",
        "retry_count": "many",
        "remark": "",
        "nobody_knows": {"this": 1},
    }
    odd_server.answers["GET /task/17"] = (200, envelope(row))
    async with TikMatrixClient(odd_server.base_url) as client:
        job = await client.get_job(17)
    assert (job.id, job.status, job.serial, job.username) == (17, 1, "5", None)
    assert (job.start_time, job.retry_count, job.remark) == (None, None, None)
    assert job.end_time is not None
    assert job.end_time.year == 2026


async def test_the_account_of_a_job_is_read_from_text_and_object(odd_server: OddServer) -> None:
    for args in ({"username": "ann"}, '{"username": "ann"}'):
        odd_server.answers["GET /task/1"] = (
            200,
            envelope({"id": 1, "status": 0, "script_args": args}),
        )
        async with TikMatrixClient(odd_server.base_url) as client:
            assert (await client.get_job(1)).username == "ann"


async def test_a_status_nobody_listed_stays_readable_in_a_page(odd_server: OddServer) -> None:
    """One strange job of somebody else must not hide all others."""
    rows = [{"id": 1, "status": 9}, {"id": 2, "status": 0}]
    odd_server.answers["GET /task"] = (200, envelope({"tasks": rows, "total": 2}))
    async with TikMatrixClient(odd_server.base_url) as client:
        assert [job.status for job in (await client.list_jobs()).jobs] == [9, 0]


@pytest.mark.parametrize("with_total", [True, False])
async def test_a_server_that_ignores_the_page_number_does_not_loop_forever(
    odd_server: OddServer, with_total: bool
) -> None:
    data: dict[str, object] = {"tasks": [{"id": n, "status": 2} for n in range(100)]}
    if with_total:
        data["total"] = 1000
    odd_server.answers["GET /task"] = (200, envelope(data))
    async with TikMatrixClient(odd_server.base_url) as client:
        assert len([job async for job in client.iter_jobs()]) == 100
    assert len(odd_server.paths) == 2


async def test_a_smaller_page_than_asked_for_is_not_the_end(odd_server: OddServer) -> None:
    pages = [(200, envelope({"tasks": [{"id": n, "status": 2}], "total": 3})) for n in (1, 2, 3)]
    odd_server.answers["GET /task"] = list(pages)
    async with TikMatrixClient(odd_server.base_url) as client:
        assert [job.id async for job in client.iter_jobs()] == [1, 2, 3]


async def test_all_pages_are_read_once_each(start_simulator: StartSimulator) -> None:
    simulator = start_simulator(phones=250, plan="Business", speed=0.001)
    async with TikMatrixClient(simulator.base_url) as client:
        await client.create_jobs(
            JobRequest(Post(), serials=tuple(f"phone-{n}" for n in range(1, 251)))
        )
        jobs: list[Job] = [job async for job in client.iter_jobs()]
    assert len({job.id for job in jobs}) == len(jobs) == 250
    assert simulator.requests.count("GET /task") == 3


async def test_nothing_listening_names_the_address_and_asks_the_obvious() -> None:
    base_url = f"http://127.0.0.1:{free_port()}/api/v1"
    async with TikMatrixClient(base_url) as client:
        with pytest.raises(NotSentError, match="is TikMatrix running") as raised:
            await client.check_license()
    assert base_url in str(raised.value)


async def test_a_hanging_answer_ends_in_time(simulator: Simulator) -> None:
    simulator.faults.hang("GET /task/stats", seconds=30)
    async with TikMatrixClient(simulator.base_url, timeout_seconds=0.2) as client:
        with pytest.raises(NoAnswerError):
            await asyncio.wait_for(client.get_stats(), 10)


async def test_a_create_goes_over_a_fresh_connection(simulator: Simulator) -> None:
    """A connection the server has closed meanwhile would leave an unread request in doubt."""
    async with TikMatrixClient(simulator.base_url) as client:
        await client.get_stats()
        simulator.close()
        simulator.start()
        assert len((await client.create_jobs(POST)).task_ids) == 2


async def test_headers_go_with_every_request(odd_server: OddServer) -> None:
    odd_server.answers["GET /task/stats"] = (
        200,
        envelope(dict.fromkeys(("total", "pending", "running", "completed", "failed"), 0)),
    )
    odd_server.answers["POST /task"] = (200, envelope({"task_ids": [1], "created_count": 1}))
    async with TikMatrixClient(odd_server.base_url, headers={"X-Token": "abc"}) as client:
        await client.get_stats()
        await client.create_jobs(POST)
    assert [seen["X-Token"] for seen in odd_server.seen_headers] == ["abc", "abc"]


async def test_a_proxy_of_the_environment_is_not_used(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's HTTP_PROXY must not come between a PC and the program on it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    async with TikMatrixClient(simulator.base_url) as client:
        assert (await client.check_license()).plan_name == "Pro"


@pytest.mark.parametrize(
    "given",
    [
        "http://localhost:50809/api/v1",
        "http://localhost:50809/api/v1/",
        "http://localhost:50809",
        "http://localhost:50809/",
        "http://localhost:50809/api",
        "localhost:50809",
        "  http://localhost:50809/api/v1 ",
    ],
)
def test_forms_of_the_base_url_that_work(given: str) -> None:
    assert normalized_base_url(given) == "http://localhost:50809/api/v1"


def test_other_hosts_and_prefixes_work() -> None:
    assert normalized_base_url("https://pc-7.lan/tik/api/v1/") == "https://pc-7.lan/tik/api/v1"
    assert normalized_base_url("http://[::1]:50809") == "http://[::1]:50809/api/v1"


@pytest.mark.parametrize(
    "given",
    [
        "ftp://localhost",
        "http://",
        "http://localhost:50809/api/v2",
        "http://user:planted@localhost:50809",
        "http://localhost:50809/api/v1?x=1",
        "http://localhost:99999",
        "",
    ],
)
def test_a_base_url_that_cannot_be_is_explained(given: str) -> None:
    with pytest.raises(InvalidRequest, match="base_url: ") as refusal:
        normalized_base_url(given)
    assert "planted" not in str(refusal.value)


@pytest.mark.parametrize(("page", "page_size"), [(0, 20), (1, 0), (1, 101)])
async def test_pages_out_of_range_are_not_sent(
    odd_server: OddServer, page: int, page_size: int
) -> None:
    async with TikMatrixClient(odd_server.base_url) as client:
        with pytest.raises(InvalidRequest, match="page"):
            await client.list_jobs(page=page, page_size=page_size)
    assert odd_server.paths == []


async def test_pairs_are_created_once_each(simulator: Simulator) -> None:
    async with TikMatrixClient(simulator.base_url) as client:
        request = JobRequest(Follow(target_users=["x", "y", "z"]), serials=("phone-1", "phone-2"))
        assert len((await client.create_jobs(request)).task_ids) == 6
    pairs = {(job.serial, job.target) for job in simulator.jobs}
    assert pairs == set(itertools.product(("phone-1", "phone-2"), "xyz"))
