"""The simulator's API over real HTTP: every endpoint, every code, every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tikmatrix_tasks.simulator import Dialect, Options, Simulator

POST = {"script_name": "post", "script_config": {}}
NO_TLS = False  # loading certificates would take longer than the tests
SLOW = 0.001  # simulated seconds per real second: nothing is taken up while a test looks
FAST = 100_000.0  # every run is over at the next look


class Caller:
    """A simulator and a plain HTTP client for it."""

    def __init__(self, simulator: Simulator, http: httpx.Client) -> None:
        self.simulator, self.http = simulator, http

    def call(self, method: str, path: str, **more: Any) -> Any:
        """The `data` of an answer that must be a success."""
        envelope = self.http.request(method, path, **more).json()
        assert (envelope["code"], envelope["message"]) == (0, "success")
        return envelope["data"]

    def code(self, method: str, path: str, **more: Any) -> int:
        code = self.http.request(method, path, **more).json()["code"]
        assert isinstance(code, int)
        return code

    def create(self, *serials: str, **more: Any) -> list[int]:
        ids = self.call("POST", "/task", json={"serials": list(serials), **POST, **more})
        return list(ids["task_ids"])


@contextmanager
def calling(options: Options | None = None, dialect: Dialect | None = None) -> Iterator[Caller]:
    with (
        Simulator(options or Options(speed=SLOW), dialect) as simulator,
        httpx.Client(base_url=simulator.base_url, timeout=5, verify=NO_TLS) as http,
    ):
        yield Caller(simulator, http)


@pytest.fixture
def tikmatrix() -> Iterator[Caller]:
    with calling() as caller:
        yield caller


def test_quick_start_of_the_vendor(tikmatrix: Caller) -> None:
    """The three calls of the "Local API Overview" page, answered as it says."""
    license = tikmatrix.call("GET", "/license/check")
    assert license["plan_name"] == "Pro"
    assert license["api_enabled"] is True
    assert license["device_limit"] == 20
    created = tikmatrix.call(
        "POST",
        "/task",
        json={
            "serials": ["phone-1", "phone-2"],
            "script_name": "post",
            "script_config": {"content_type": 0, "captions": "Hi #fyp"},
            "enable_multi_account": False,
            "start_time": "14:30",
        },
    )
    assert created == {"task_ids": [1, 2], "created_count": 2}
    page = tikmatrix.call("GET", "/task?status=0&page=1&page_size=20")
    assert page["total"] == 2
    assert [row["serial"] for row in page["tasks"]] == ["phone-2", "phone-1"]
    assert page["tasks"][0]["start_time"].endswith("14:30:00")


def test_row_has_the_fields_the_vendors_screens_use(tikmatrix: Caller) -> None:
    """By their names and types as seen; `script_args` is JSON text that holds the username."""
    (job_id,) = tikmatrix.create("phone-1", script_config={"captions": "Hi"})
    row = tikmatrix.call("GET", f"/task/{job_id}")
    assert json.loads(row.pop("script_args")) == {"username": "user-1a", "captions": "Hi"}
    assert len(row.pop("start_time")) == len("YYYY-MM-DD HH:MM:SS")
    assert row == {
        "id": job_id,
        "serial": "phone-1",
        "script_name": "post",
        "status": 0,
        "end_time": None,
        "remark": "",
        "source": "api",
        "retry_count": 0,
    }


@pytest.mark.parametrize(
    ("script", "config", "targets"),
    [
        ("follow", {"target_users": ["a", "b", "c"]}, ["a", "b", "c"]),
        ("unfollow", {"target_user": "a\nb, c"}, ["a", "b", "c"]),
        ("follow", {"target_users": ["a"], "target_user": "b"}, ["a"]),
        ("comment", {"target_post_url": "u1\nu2\n", "comment_content": "!"}, ["u1", "u2"]),
        ("comment", {"target_post_urls": ["u1"], "comment_content": "!"}, ["u1"]),
    ],
)
def test_one_job_per_phone_and_target(
    tikmatrix: Caller, script: str, config: dict[str, Any], targets: list[str]
) -> None:
    """Three targets on two phones are six jobs; the list wins over the text."""
    tikmatrix.create("phone-1", "phone-2", script_name=script, script_config=config)
    pairs = [(job.serial, job.target) for job in tikmatrix.simulator.jobs]
    assert pairs == [(serial, to) for serial in ("phone-1", "phone-2") for to in targets]


def test_same_body_twice_creates_the_jobs_twice(tikmatrix: Caller) -> None:
    """There is no idempotency key: that is what a client must guard against."""
    assert tikmatrix.create("phone-1") != tikmatrix.create("phone-1")
    assert len(tikmatrix.simulator.jobs) == 2


def test_account_mode_and_multi_account() -> None:
    """A username finds its phone; in device mode every account of a phone may get a job."""
    with calling(Options(speed=SLOW, phones=2, accounts_per_phone=2)) as tikmatrix:
        body = {"usernames": ["user-2b", "user-1a"], **POST}
        assert tikmatrix.call("POST", "/task", json=body)["created_count"] == 2
        tikmatrix.create("phone-1", enable_multi_account=True)
        tikmatrix.create("phone-1", enable_multi_account=False)
        assert [(job.serial, job.username) for job in tikmatrix.simulator.jobs] == [
            ("phone-2", "user-2b"),
            ("phone-1", "user-1a"),
            ("phone-1", "user-1a"),
            ("phone-1", "user-1b"),
            ("phone-1", "user-1a"),
        ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"script_name": None}, 40002),
        ({"script_name": ""}, 40002),
        ({"script_name": "like"}, 40003),
        ({"script_name": "login"}, 40003),
        ({"script_config": None}, 40001),
        ({"script_config": []}, 40001),
        ({"serials": None}, 40001),
        ({"serials": []}, 40001),
        ({"serials": "phone-1"}, 40001),
        ({"serials": [1]}, 40001),
        ({"serials": ["phone-99"]}, 40001),
        ({"usernames": ["user-1a"]}, 40001),
        ({"serials": None, "usernames": ["nobody"]}, 40001),
        ({"enable_multi_account": "yes"}, 40001),
        ({"start_time": "9:30"}, 40001),
        ({"start_time": "24:00"}, 40001),
        ({"start_time": ""}, 40001),
        ({"min_interval": "soon"}, 40001),
        ({"script_name": "follow"}, 40001),
        ({"script_name": "unfollow", "script_config": {"target_user": " ,\n"}}, 40001),
        ({"script_name": "comment", "script_config": {"comment_content": "!"}}, 40001),
        ({"script_name": "comment", "script_config": {"target_post_urls": ["u"]}}, 40001),
        ({"script_config": {"material_source": "localFolder"}}, 40001),
        ({"script_config": {"post_way": "useSound"}}, 40001),
        ({"script_config": {"add_sound": "custom"}}, 40001),
    ],
)
def test_refused_body_creates_nothing(tikmatrix: Caller, change: dict[str, Any], code: int) -> None:
    """Refused with the documented code, and all or nothing."""
    body = {"serials": ["phone-1"], **POST, **change}
    body = {name: value for name, value in body.items() if value is not None}
    assert tikmatrix.code("POST", "/task", json=body) == code
    assert tikmatrix.simulator.jobs == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_body_that_is_no_object_is_refused(tikmatrix: Caller, content: bytes) -> None:
    """Not with a broken connection: 40001."""
    assert tikmatrix.code("POST", "/task", content=content) == 40001


def test_scripts_of_a_later_version_are_an_option() -> None:
    """A later page lists more scripts; their settings go through as they are."""
    with calling(Options(speed=SLOW, scripts=("post", "login"))) as tikmatrix:
        tikmatrix.create("phone-1", script_name="login", script_config={"any": 1})
        assert tikmatrix.code("POST", "/task", json={**POST, "script_name": "follow"}) == 40003


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/license/check", None),
        ("POST", "/task", {"serials": ["phone-1"], **POST}),
        ("GET", "/task", None),
        ("GET", "/task/1", None),
        ("DELETE", "/task/1", None),
        ("DELETE", "/task/batch", {"task_ids": [1]}),
        ("POST", "/task/1/stop", None),
        ("POST", "/task/1/retry", None),
        ("POST", "/task/retry-all", None),
        ("GET", "/task/stats", None),
        ("GET", "/accounts", None),
    ],
)
def test_starter_plan_has_no_api(method: str, path: str, body: Any) -> None:
    """40301 whatever is asked."""
    with calling(Options(plan="Starter")) as tikmatrix:
        assert tikmatrix.code(method, path, json=body) == 40301
        assert tikmatrix.simulator.jobs == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/task/9"),
        ("GET", "/task/9999999999999999999"),
        ("GET", "/task/nine"),
        ("DELETE", "/task/9"),
        ("POST", "/task/9/stop"),
        ("POST", "/task/9/retry"),
    ],
)
def test_unknown_job_is_40401(tikmatrix: Caller, method: str, path: str) -> None:
    """As after someone has deleted it on the screen."""
    assert tikmatrix.code(method, path) == 40401


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("PUT", "/task"), ("GET", "/task/1/stop")]
)
def test_unknown_path_is_an_html_404(tikmatrix: Caller, method: str, path: str) -> None:
    """No envelope at all: a client must not trip over it."""
    answer = tikmatrix.http.request(method, path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


def test_stop_retry_delete_and_stats() -> None:
    """The life of a job through the API; the worst of each call is 40001, not silence."""
    with calling(Options(speed=FAST, auto_retry=False, durations={"post": 1e9})) as tikmatrix:
        (job_id,) = tikmatrix.create("phone-1")
        assert tikmatrix.code("POST", f"/task/{job_id}/retry") == 40001
        while tikmatrix.call("GET", f"/task/{job_id}")["status"] != 1:
            pass
        tikmatrix.call("POST", f"/task/{job_id}/stop")
        stopped = tikmatrix.call("GET", f"/task/{job_id}")
        assert stopped["status"] == 3
        assert stopped["end_time"] is not None
        assert tikmatrix.code("POST", f"/task/{job_id}/stop") == 40001
        assert tikmatrix.call("GET", "/task/stats") == {
            "total": 1,
            "pending": 0,
            "running": 0,
            "completed": 0,
            "failed": 1,
        }
        tikmatrix.call("POST", f"/task/{job_id}/retry")
        assert tikmatrix.call("GET", f"/task/{job_id}")["retry_count"] == 1
        tikmatrix.call("DELETE", f"/task/{job_id}")
        assert tikmatrix.call("GET", "/task/stats")["total"] == 0


def test_retry_all(tikmatrix: Caller) -> None:
    """Answers success when there is nothing to do, too."""
    assert tikmatrix.call("POST", "/task/retry-all") == {}


@pytest.mark.parametrize(("missing", "code", "left"), [("ignore", 0, 1), ("refuse", 40401, 3)])
def test_batch_delete(missing: Any, code: int, left: int) -> None:
    """Whether an id that is gone spoils the rest is unknown."""
    with calling(Options(speed=SLOW, batch_delete_missing=missing)) as tikmatrix:
        ids = tikmatrix.create("phone-1", "phone-2", "phone-3")
        body = {"task_ids": [*ids[:2], ids[0], 99]}
        assert tikmatrix.code("DELETE", "/task/batch", json=body) == code
        assert len(tikmatrix.simulator.jobs) == left


@pytest.mark.parametrize("body", [{}, {"task_ids": []}, {"task_ids": ["1"]}, {"task_ids": [True]}])
def test_batch_delete_without_ids_is_refused(tikmatrix: Caller, body: dict[str, Any]) -> None:
    """Above all it must not mean "all"."""
    tikmatrix.create("phone-1")
    assert tikmatrix.code("DELETE", "/task/batch", json=body) == 40001
    assert len(tikmatrix.simulator.jobs) == 1


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("status=0", [5, 4, 3, 2, 1]),
        ("status=2", []),
        ("serial=phone-1", [4, 3, 1]),
        ("script_name=account_warmup", [5]),
        ("source=ui", [3]),
        ("source=api&serial=phone-1", [4, 1]),
        ("page=1&page_size=2", [5, 4]),
        ("page=3&page_size=2", [1]),
        ("page=4&page_size=2", []),
    ],
)
def test_list_filters_and_pages(tikmatrix: Caller, query: str, ids: list[int]) -> None:
    """Each filter of the docs, alone and together."""
    tikmatrix.create("phone-1", "phone-2")
    tikmatrix.simulator.engine.operator_create("post", serials=["phone-1"])
    tikmatrix.create("phone-1")
    tikmatrix.create("phone-2", script_name="account_warmup")
    page = tikmatrix.call("GET", f"/task?{query}")
    assert [row["id"] for row in page["tasks"]] == ids
    if "page" not in query:
        assert page["total"] == len(ids)


@pytest.mark.parametrize(
    "query", ["status=4", "status=x", "page=0", "page=-1", "page_size=0", "source=robot"]
)
def test_wrong_query_is_refused(tikmatrix: Caller, query: str) -> None:
    """40001, not an empty page that looks like an answer."""
    assert tikmatrix.code("GET", f"/task?{query}") == 40001


def test_page_holds_20_rows_and_100_at_most(tikmatrix: Caller) -> None:
    """The default and the limit of the docs; what more than 100 does is an option."""
    tikmatrix.simulator.engine.add_history(150)
    assert len(tikmatrix.call("GET", "/task")["tasks"]) == 20
    assert len(tikmatrix.call("GET", "/task?page_size=500")["tasks"]) == 100
    with calling(Options(large_page="refuse")) as strict:
        assert strict.code("GET", "/task?page_size=101") == 40001


def test_duplicates_are_an_option() -> None:
    """Whether a phone named twice gets two jobs is unknown."""
    with calling(Options(speed=SLOW, duplicates="merge")) as merging, calling() as keeping:
        assert len(merging.create("phone-1", "phone-1")) == 1
        assert len(keeping.create("phone-1", "phone-1")) == 2


@pytest.mark.parametrize("rows_key", ["tasks", "list", "items", "rows", "records", None])
def test_dialect_rows_key(rows_key: Any) -> None:
    """The docs do not name the key that holds the rows."""
    with calling(dialect=Dialect(rows_key=rows_key)) as tikmatrix:
        (job_id,) = tikmatrix.create("phone-1")
        data = tikmatrix.call("GET", "/task")
        rows = data if rows_key is None else data[rows_key]
        assert [row["id"] for row in rows] == [job_id]


def test_dialect_of_rows() -> None:
    """The other way round in everything that rows leave open."""
    dialect = Dialect(
        string_status=True, with_total=False, newest_first=False, script_args="object"
    )
    with calling(dialect=dialect) as tikmatrix:
        tikmatrix.create("phone-1", "phone-2")
        page = tikmatrix.call("GET", "/task")
        assert "total" not in page
        assert [(row["id"], row["status"]) for row in page["tasks"]] == [(1, "0"), (2, "0")]
        assert page["tasks"][0]["script_args"] == {"username": "user-1a"}


def test_dialect_minimal_rows() -> None:
    """All a client may rely on."""
    with calling(dialect=Dialect(row_fields="minimal")) as tikmatrix:
        (job_id,) = tikmatrix.create("phone-1")
        assert tikmatrix.call("GET", f"/task/{job_id}") == {"id": job_id, "status": 0}


@pytest.mark.parametrize(
    ("style", "settings"),
    [
        ("single", [{"target_user": "a"}, {"target_user": "b"}]),
        ("list", [{"target_users": ["a"]}, {"target_users": ["b"]}]),
        ("as_sent", [{"target_users": ["a", "b"]}, {"target_users": ["a", "b"]}]),
    ],
)
def test_dialect_target_in_args(style: Any, settings: list[dict[str, Any]]) -> None:
    """How a row tells its target is unknown, even whether it does."""
    dialect = Dialect(target_in_args=style, script_args="object", newest_first=False)
    with calling(dialect=dialect) as tikmatrix:
        config = {"target_users": ["a", "b"]}
        tikmatrix.create("phone-1", script_name="follow", script_config=config)
        rows = tikmatrix.call("GET", "/task")["tasks"]
        expected = [{"username": "user-1a", **expected} for expected in settings]
        assert [row["script_args"] for row in rows] == expected


def test_dialect_http_status_by_code() -> None:
    """The same codes, carried by 400, 403, 404 and 500."""
    with calling(dialect=Dialect(http_status="by_code", empty_data="null")) as tikmatrix:
        refused = tikmatrix.http.post("/task", json={})
        assert (refused.status_code, refused.json()["code"]) == (400, 40002)
        assert refused.json()["data"] is None
        assert tikmatrix.http.get("/task/9").status_code == 404
        tikmatrix.simulator.faults.internal_error("GET /task")
        assert tikmatrix.http.get("/task").status_code == 500
        assert tikmatrix.http.get("/task").status_code == 200
    with calling(Options(plan="Starter"), Dialect(http_status="by_code")) as starter:
        assert starter.http.get("/task").status_code == 403


def test_dialect_always_200(tikmatrix: Caller) -> None:
    """A client that looks at the HTTP status only would take a refusal for a success."""
    assert tikmatrix.http.post("/task", json={}).status_code == 200


def test_unknown_word_of_a_dialect_is_refused() -> None:
    """The message names the field and its choices."""
    with pytest.raises(ValueError, match=r"^rows_key: 'jobs' is none of 'tasks'"):
        Dialect(rows_key="jobs")  # type: ignore[arg-type]  # the mistake under test


ACCOUNTS = Options(
    phones=2,
    accounts_per_phone=2,
    account_details={
        "user-1b": {"platform": "instagram", "logined": 0},
        "user-2a": {"status": 1, "tags": ["eu", "shop"]},
        "user-2b": {"device_online": False, "email": "b@example.com"},
    },
)


@pytest.mark.parametrize(
    ("query", "usernames"),
    [
        ("", ["user-1a", "user-1b", "user-2a", "user-2b"]),
        ("platform=instagram", ["user-1b"]),
        ("device=phone-2", ["user-2a", "user-2b"]),
        ("logined=0", ["user-1b"]),
        ("status=0&logined=1", ["user-1a", "user-2b"]),
        ("tag=shop", ["user-2a"]),
        ("page=2&page_size=3", ["user-2b"]),
    ],
)
def test_accounts_filters(query: str, usernames: list[str]) -> None:
    """Each filter of the "Accounts Status API" page."""
    with calling(ACCOUNTS) as tikmatrix:
        data = tikmatrix.call("GET", f"/accounts?{query}")
        assert [account["username"] for account in data["accounts"]] == usernames
        if "page" in query:
            assert (data["total"], data["page"], data["page_size"]) == (4, 2, 3)


def test_account_has_all_documented_fields() -> None:
    """Several of them null."""
    with calling(ACCOUNTS) as tikmatrix:
        accounts = tikmatrix.call("GET", "/accounts")["accounts"]
    assert accounts[1] == {
        "id": 2,
        "username": "user-1b",
        "email": None,
        "platform": "instagram",
        "packagename": "com.instagram.android",
        "device": "phone-1",
        "device_online": True,
        "device_name": None,
        "logined": 0,
        "logined_text": "Not logged in",
        "status": 0,
        "status_text": "Enabled",
        "tags": [],
    }


@pytest.mark.parametrize("query", ["platform=myspace", "logined=2", "status=x"])
def test_wrong_account_query_is_refused(tikmatrix: Caller, query: str) -> None:
    """40001, as for jobs."""
    assert tikmatrix.code("GET", f"/accounts?{query}") == 40001


def test_older_tikmatrix_has_no_accounts() -> None:
    """Then it is a path like any other unknown one."""
    with calling(Options(accounts_endpoint=False)) as tikmatrix:
        assert tikmatrix.http.get("/accounts").status_code == 404


def test_requests_are_logged_for_tests(tikmatrix: Caller) -> None:
    """How often a client asks is part of what is tested."""
    tikmatrix.create("phone-1")
    tikmatrix.http.get("/task/1?x=1")
    tikmatrix.http.get("/elsewhere")
    log = tikmatrix.simulator.requests
    assert len(log) == 3
    assert (log.count("POST /task"), log.count("GET /task/{id}"), log.count(None)) == (1, 1, 1)
    assert log.bodies("POST /task") == [{"serials": ["phone-1"], **POST}]
    assert [(request.path, request.query, request.code) for request in log] == [
        ("/api/v1/task", "", 0),
        ("/api/v1/task/1", "x=1", 0),
        ("/api/v1/elsewhere", "", None),
    ]
    log.clear()
    assert (len(log), list(log)) == (0, [])
