"""The API without sockets: a request in, an answer out, faults included.

`server.py` puts it on a port; a test may call it straight from an HTTP client's transport, with an
engine on a clock of its own. Source: TikMatrix docs, "Local API Overview", "Task Management API"
and "Accounts Status API".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from tikmatrix_tasks.simulator.codes import (
    HTTP_STATUS,
    INTERNAL_ERROR,
    INVALID,
    NOT_FOUND,
    PLAN_WITHOUT_API,
    SUCCESS,
    Refusal,
)
from tikmatrix_tasks.simulator.endpoints import find_endpoint
from tikmatrix_tasks.simulator.engine import Engine
from tikmatrix_tasks.simulator.faults import Fault, Faults
from tikmatrix_tasks.simulator.jobs import PENDING, Filter, Job
from tikmatrix_tasks.simulator.options import Dialect
from tikmatrix_tasks.simulator.orders import TARGET_FIELDS
from tikmatrix_tasks.simulator.request_log import Request, RequestLog

PAGE_SIZE = 20
LARGEST_PAGE = 100

_JSON = ("Content-Type", "application/json; charset=utf-8")
_HTML = ("Content-Type", "text/html; charset=utf-8")


@dataclass(frozen=True)
class Answer:
    """What the client gets, and how."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    code: int | None = None
    """The code in the body's envelope, None where the body has none."""
    after_seconds: float = 0.0
    """Real seconds to hold the call before anything is sent."""
    silent: bool = False
    """Close the connection without a byte."""
    missing_bytes: int = 0
    """Content-Length promises this many bytes more than `body` has; then the connection closes."""


class Api:
    """The endpoints of one simulated TikMatrix. May be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        faults: Faults | None = None,
        dialect: Dialect | None = None,
        on_request: Callable[[Request], None] | None = None,
    ) -> None:
        self.engine = engine
        self.faults = Faults() if faults is None else faults
        self.dialect = Dialect() if dialect is None else dialect
        self.requests = RequestLog()
        self._on_request = on_request
        self._calls: dict[str, Callable[[_Call], Any]] = {
            "GET /license/check": self._check_license,
            "POST /task": self._create,
            "GET /task": self._list,
            "GET /task/{id}": lambda call: self._row(engine.get(call.job_id)),
            "DELETE /task/{id}": lambda call: engine.delete([call.job_id]),
            "DELETE /task/batch": self._delete_batch,
            "POST /task/{id}/stop": lambda call: engine.stop(call.job_id),
            "POST /task/{id}/retry": lambda call: engine.retry(call.job_id),
            "POST /task/retry-all": lambda call: engine.retry_all(),
            "GET /task/stats": lambda call: engine.stats(),
            "GET /accounts": self._list_accounts,
        }

    def answer(self, method: str, path: str, query: str = "", body: bytes = b"") -> Answer:
        """Do what the request asks. `path` starts with /api/v1; `query` is without "?"."""
        found = find_endpoint(method, path)
        if found and found[0] == "GET /accounts" and not self.engine.options.accounts_endpoint:
            found = None
        if found is None:
            answer, fault = _html_page(404, "Not Found"), None
        else:
            fault = self.faults.take(found[0])
            answer = self._work_and_reply(found[0], _Call(found[1], query, body), fault)
        request = Request(
            method=method,
            path=path,
            query=query,
            endpoint=found[0] if found else None,
            body=_parsed(body),
            code=answer.code,
            fault=fault.kind if fault else None,
        )
        self.requests.add(request)
        if self._on_request is not None:
            self._on_request(request)
        return answer

    def _work_and_reply(self, endpoint: str, call: _Call, fault: Fault | None) -> Answer:
        if fault is None:
            return self._work(endpoint, call)
        own = self._work(endpoint, call) if fault.does.work else None
        return self._faulty(fault, own)

    def _work(self, endpoint: str, call: _Call) -> Answer:
        try:
            if self.engine.options.plan == "Starter":
                raise Refusal(PLAN_WITHOUT_API, "Starter plan does not support the API")
            data = self._calls[endpoint](call)
        except Refusal as refusal:
            return self._envelope(refusal.code, refusal.message, None)
        return self._envelope(SUCCESS, "success", data)

    def _faulty(self, fault: Fault, own: Answer | None) -> Answer:
        reply = fault.does.reply
        if reply == "internal_error":
            return self._envelope(INTERNAL_ERROR, "internal error", None)
        if reply == "html_502":
            return _html_page(502, "Bad Gateway")
        if reply == "overloaded":
            page = _html_page(fault.does.status, "Try again later")
            return replace(page, headers=(*page.headers, ("Retry-After", f"{fault.seconds:g}")))
        if reply == "nothing" or own is None:
            return Answer(200, (), b"", after_seconds=fault.seconds, silent=True)
        half = own.body[: len(own.body) // 2]
        if reply == "truncated_json":
            return replace(own, body=half, code=None)
        if reply == "short_body":
            missing = len(own.body) - len(half)
            return replace(own, body=half, code=None, missing_bytes=missing)
        return replace(own, after_seconds=fault.seconds)

    def _envelope(self, code: int, message: str, data: Any) -> Answer:
        if data is None and self.dialect.empty_data == "object":
            data = {}
        text = json.dumps({"code": code, "message": message, "data": data}, ensure_ascii=False)
        status = HTTP_STATUS[code] if self.dialect.http_status == "by_code" else 200
        # A text sent to us may hold half a surrogate pair, which UTF-8 cannot write.
        return Answer(status, (_JSON,), text.encode("utf-8", "replace"), code)

    # The endpoints that are more than one call of the engine

    def _check_license(self, call: _Call) -> dict[str, Any]:
        options = self.engine.options
        return {
            "plan_name": options.plan,
            "api_enabled": True,
            "device_limit": options.phones_at_once,
            "message": "API access is enabled",
        }

    def _create(self, call: _Call) -> dict[str, Any]:
        job_ids = self.engine.create(call.json_object())
        return {"task_ids": job_ids, "created_count": len(job_ids)}

    def _list(self, call: _Call) -> Any:
        page, page_size = self._page(call)
        source = call.text("source")
        if source not in (None, "ui", "api"):
            raise Refusal(INVALID, "source must be ui or api")
        wanted = Filter(
            status=call.number("status", range(4)),
            serial=call.text("serial"),
            script_name=call.text("script_name"),
            source=source,
        )
        dialect = self.dialect
        jobs, total = self.engine.find(wanted, page, page_size, dialect.newest_first)
        rows = [self._row(job) for job in jobs]
        if dialect.rows_key is None:
            return rows
        data = {dialect.rows_key: rows, "page": page, "page_size": page_size}
        return {**data, "total": total} if dialect.with_total else data

    def _delete_batch(self, call: _Call) -> None:
        job_ids = call.json_object().get("task_ids")
        if not isinstance(job_ids, list) or not job_ids:
            raise Refusal(INVALID, "task_ids must be a list that is not empty")
        if not all(isinstance(job_id, int) and not isinstance(job_id, bool) for job_id in job_ids):
            raise Refusal(INVALID, "task_ids must hold numbers")
        self.engine.delete_batch(job_ids)

    def _list_accounts(self, call: _Call) -> dict[str, Any]:
        page, page_size = self._page(call)
        accounts = _matching(self.engine.accounts, call)
        first = (page - 1) * page_size
        return {
            "accounts": accounts[first : first + page_size],
            "total": len(accounts),
            "page": page,
            "page_size": page_size,
        }

    def _page(self, call: _Call) -> tuple[int, int]:
        page = call.number("page")
        page_size = call.number("page_size")
        if page_size is not None and page_size > LARGEST_PAGE:
            if self.engine.options.large_page == "refuse":
                raise Refusal(INVALID, f"page_size must be at most {LARGEST_PAGE}")
            page_size = LARGEST_PAGE
        for name, value in (("page", page), ("page_size", page_size)):
            if value is not None and value < 1:
                raise Refusal(INVALID, f"{name} must be at least 1")
        return page or 1, page_size or PAGE_SIZE

    def _row(self, job: Job) -> dict[str, Any]:
        status: int | str = str(job.status) if self.dialect.string_status else job.status
        if self.dialect.row_fields == "minimal":
            return {"id": job.id, "status": status}
        settings = self._script_args(job)
        as_text = self.dialect.script_args == "text"
        return {
            "id": job.id,
            "serial": job.serial,
            "script_name": job.script_name,
            "script_args": json.dumps(settings, ensure_ascii=False) if as_text else settings,
            "status": status,
            # Not documented: what the start of a job is that has not begun; here, when it is due.
            "start_time": self._moment(job.due_at if job.status == PENDING else job.started_at),
            "end_time": self._moment(job.ended_at),
            "remark": job.remark,
            "source": job.source,
            "retry_count": job.retry_count,
        }

    def _script_args(self, job: Job) -> dict[str, Any]:
        settings = {"username": job.username, **job.script_config}
        style = self.dialect.target_in_args
        if job.target is not None and style != "as_sent":
            list_field, text_field = TARGET_FIELDS[job.script_name]
            settings.pop(list_field, None)
            settings.pop(text_field, None)
            if style == "single":
                settings[text_field] = job.target
            else:
                settings[list_field] = [job.target]
        return settings

    def _moment(self, second: float | None) -> str | None:
        if second is None:
            return None
        return self.engine.datetime_at(second).strftime("%Y-%m-%d %H:%M:%S")


class _Call:
    """The parts of a request; what is wrong with them is refused with 40001 when asked for."""

    def __init__(self, job_id: str, query: str, body: bytes) -> None:
        self._job_id, self._body = job_id, body
        self._query = parse_qs(query)

    @property
    def job_id(self) -> int:
        try:
            return _whole_number(self._job_id)
        except ValueError:
            raise Refusal(NOT_FOUND, f"task not found: {self._job_id}") from None

    def text(self, name: str) -> str | None:
        """A filter; empty means not given."""
        values = self._query.get(name)
        return values[-1] if values else None

    def number(self, name: str, allowed: Sequence[int] | None = None) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            number = _whole_number(text)
        except ValueError:
            raise Refusal(INVALID, f"{name} must be a number") from None
        if allowed is not None and number not in allowed:
            raise Refusal(INVALID, f"{name} must be one of {', '.join(map(str, allowed))}")
        return number

    def json_object(self) -> dict[str, Any]:
        parsed = _parsed(self._body)
        if not isinstance(parsed, dict):
            raise Refusal(INVALID, "the body must be a JSON object")
        return parsed


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(text)
    return int(text)


def _matching(accounts: list[dict[str, Any]], call: _Call) -> list[dict[str, Any]]:
    platform = call.text("platform")
    if platform not in (None, "tiktok", "instagram"):
        raise Refusal(INVALID, "platform must be tiktok or instagram")
    wanted = {
        "platform": platform,
        "device": call.text("device"),
        "logined": call.number("logined", (0, 1)),
        "status": call.number("status", (0, 1)),
    }
    tag = call.text("tag")
    return [
        account
        for account in accounts
        if all(value is None or account[name] == value for name, value in wanted.items())
        and (tag is None or tag in account["tags"])
    ]


def _html_page(status: int, title: str) -> Answer:
    page = f"<!DOCTYPE html>\n<html><body><h1>{status} {title}</h1></body></html>\n"
    return Answer(status, (_HTML,), page.encode())
