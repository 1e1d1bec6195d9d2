"""HTTP to TikMatrix's Local API: one method per endpoint, envelope in, model or error out.

Nothing here tries again and nothing here knows Prefect. Source of paths, parameters and codes:
TikMatrix docs, "Local API Overview", "Task Management API", "Accounts Status API". Tolerant where
those pages are silent: any HTTP status may carry the envelope, rows may come under several keys.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import ValidationError
from typing_extensions import Self

from tikmatrix_tasks.errors import (
    ApiError,
    HttpStatusError,
    InvalidRequest,
    NoAnswerError,
    NotSentError,
    OverloadedError,
    TikMatrixError,
    api_error,
)
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import (
    Account,
    AccountPage,
    CreatedJobs,
    Job,
    JobPage,
    JobStatus,
    License,
    Received,
    Stats,
)
from tikmatrix_tasks.redaction import WHOLE_WORDS_BELOW, redact, remember
from tikmatrix_tasks.scripts import private_texts

DEFAULT_BASE_URL = "http://localhost:50809/api/v1"  # 50809 is TikMatrix's default port
DEFAULT_TIMEOUT_SECONDS = 10.0
MAX_PAGE_SIZE = 100  # TikMatrix docs, "List Tasks"
API_PATH = "/api/v1"
ROW_KEYS = ("tasks", "list", "items", "rows", "records")
"""Under which key a page holds its rows is not documented: `tasks` by analogy with `accounts`."""

SecretReader = Callable[[str], Awaitable[str]]
"""Given the name of a secret, its value."""

Model = TypeVar("Model", bound=Received)
Row = TypeVar("Row", Job, Account)


def is_local(base_url: str) -> bool:
    """Whether the address is this machine's own."""
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def normalized_base_url(base_url: str) -> str:
    """The address in the form requests are built on: a scheme, a host, `/api/v1`, no slash after.

    Raises:
        InvalidRequest: the address cannot be TikMatrix's, with what it should look like.
    """
    text = base_url.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        httpx.URL(parts.geturl())
    except (ValueError, httpx.InvalidURL):  # a bracket that is not closed, a host that cannot be
        raise InvalidRequest(
            "base_url", f"cannot be read, must look like {DEFAULT_BASE_URL}"
        ) from None
    problem = None
    if parts.scheme not in ("http", "https"):
        problem = "must begin with http:// or https://"
    elif not parts.hostname:
        problem = "names no host"
    elif parts.username or parts.password:
        problem = "must hold no user name or password; use headers"
    elif parts.query or parts.fragment:
        problem = "must end with its path"
    path = parts.path.rstrip("/")
    if path in ("", "/api"):
        path = API_PATH
    if problem is None and not path.endswith(API_PATH):
        problem = f"must end in {API_PATH}"
    if problem is None:
        try:
            _ = parts.port
        except ValueError:
            problem = "has an impossible port"
    if problem is not None:
        raise InvalidRequest("base_url", f"{problem}, such as {DEFAULT_BASE_URL}")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


async def _no_secrets(name: str) -> str:
    raise InvalidRequest("read_secret", f"no way was given to read the secret {name!r}")


class TikMatrixClient:
    """An asynchronous client of one TikMatrix, usable without Prefect.

    ```python
    async with TikMatrixClient("http://localhost:50809/api/v1") as client:
        print(await client.check_license())
    ```

    Every method may raise `NotSentError`, `NoAnswerError`, `OverloadedError`, `HttpStatusError` or
    an `ApiError`; `errors` says what each means, `retries` which are worth another try.
    `timeout_seconds` bounds connecting, and each wait for a piece of an answer; twice that bounds
    the whole call. Proxies named in the environment are not used: TikMatrix is on this machine or
    on its network.

    TikMatrix's own words, in errors and rows, come out redacted: they may repeat captions,
    comments, paths, keys and header values. `redact=False` leaves them as they are.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        headers: Mapping[str, str] | None = None,
        verify_tls: bool = True,
        read_secret: SecretReader = _no_secrets,
        redact: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = normalized_base_url(base_url)
        self.requests_sent = 0
        """How many requests this client has begun, whatever came of them."""
        self._read_secret = read_secret
        self._redacts = redact
        remember(_header_texts(headers or {}))
        self._timeout_seconds = timeout_seconds
        self._options: dict[str, Any] = {
            "timeout": httpx.Timeout(timeout_seconds),
            "headers": _checked_headers(headers),
            # An SSL context takes tens of milliseconds to build; plain HTTP needs none.
            "verify": verify_tls and self.base_url.startswith("https"),
            "transport": transport,
            "trust_env": False,
        }
        self._http = httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def check_license(self) -> License:
        """The plan TikMatrix runs under. `PlanError` (40301) on a plan without API access."""
        return await self._get(License, "GET /license/check")

    async def create_jobs(self, request: JobRequest) -> CreatedJobs:
        """Create jobs. Sending the same request twice creates them twice: there is no key.

        It goes over a connection of its own. On one kept alive from before, a TikMatrix that has
        since closed it would leave in doubt a request that was never read.
        """
        call = "POST /task"
        secrets = {name: await self._read_secret(name) for name in request.script.secret_names}
        remember(secrets.values())
        body = request.to_api(secrets)
        async with httpx.AsyncClient(**self._options) as http:
            answer = await self._send(call, "POST", "/task", json=body, http=http)
        return _read(CreatedJobs, call, answer)

    async def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        serial: str | None = None,
        script_name: str | None = None,
        source: str | None = None,
        page: int = 1,
        page_size: int = 20,
    ) -> JobPage:
        """One page of jobs, `page` from 1, `page_size` at most 100. Their order is not documented.

        `source` is `ui` or `api`.
        """
        call = "GET /task"
        _check_page(page, page_size)
        answer = await self._send(
            call,
            "GET",
            "/task",
            params={
                "status": None if status is None else int(status),
                "serial": serial,
                "script_name": script_name,
                "source": source,
                "page": page,
                "page_size": page_size,
            },
        )
        rows, total = answer, None
        if isinstance(answer, dict):
            total = answer.get("total")
            rows = next((answer[key] for key in ROW_KEYS if key in answer), None)
            if rows is None and total == 0:
                rows = []
        if not isinstance(rows, list):
            raise NoAnswerError(call, f"no rows under {', '.join(ROW_KEYS)}")
        jobs = [self._shown(job) for row in rows if (job := _row_or_none(row)) is not None]
        unreadable = len(rows) - len(jobs)
        if rows and not jobs:
            raise NoAnswerError(call, "no row has a readable id and status")
        page_of_jobs = {"jobs": jobs, "total": total, "unreadable_rows": unreadable}
        return _read(JobPage, call, page_of_jobs)

    async def iter_jobs(
        self,
        *,
        status: JobStatus | None = None,
        serial: str | None = None,
        script_name: str | None = None,
        source: str | None = None,
        page_size: int = MAX_PAGE_SIZE,
    ) -> AsyncIterator[Job]:
        """Every job that matches, each once, page by page.

        Rows may shift between pages while they are read, so a job can be missed; whoever looks
        for a certain job asks for it by id.
        """

        async def page_of_jobs(page: int) -> tuple[Sequence[Job], int | None]:
            answer = await self.list_jobs(
                status=status,
                serial=serial,
                script_name=script_name,
                source=source,
                page=page,
                page_size=page_size,
            )
            return answer.jobs, answer.total

        async for job in _every(page_of_jobs, page_size):
            yield job

    async def get_job(self, job_id: int) -> Job:
        """One job. `NotFoundError` (40401) when it is gone."""
        job = await self._get(Job, "GET /task/{id}", path=f"/task/{int(job_id)}")
        if job.id != int(job_id):
            raise NoAnswerError("GET /task/{id}", f"job {job.id} was shown for job {job_id}")
        return job

    async def delete_job(self, job_id: int) -> None:
        """Delete a job; a running one is stopped first. `NotFoundError` when it is gone already."""
        await self._send("DELETE /task/{id}", "DELETE", f"/task/{int(job_id)}")

    async def delete_jobs(self, job_ids: Sequence[int]) -> None:
        """Delete several jobs in one call; running ones are stopped first."""
        body = {"task_ids": [int(job_id) for job_id in job_ids]}
        await self._send("DELETE /task/batch", "DELETE", "/task/batch", json=body)

    async def stop_job(self, job_id: int) -> None:
        """Stop a running job. Which status it shows afterwards is not documented."""
        await self._send("POST /task/{id}/stop", "POST", f"/task/{int(job_id)}/stop")

    async def retry_job(self, job_id: int) -> None:
        """Run a failed job again, under the same id."""
        await self._send("POST /task/{id}/retry", "POST", f"/task/{int(job_id)}/retry")

    async def retry_all_jobs(self) -> None:
        """Run *every* failed job again, other people's included. No task or flow calls this."""
        await self._send("POST /task/retry-all", "POST", "/task/retry-all")

    async def get_stats(self) -> Stats:
        """How many jobs TikMatrix keeps, by status."""
        return await self._get(Stats, "GET /task/stats")

    async def list_accounts(
        self,
        *,
        platform: str | None = None,
        device: str | None = None,
        logined: bool | None = None,
        disabled: bool | None = None,
        tag: str | None = None,
        page: int = 1,
        page_size: int = 20,
    ) -> AccountPage:
        """One page of accounts, `page` from 1, `page_size` at most 100.

        `platform` is `tiktok` or `instagram`, `device` a phone's serial. An older TikMatrix has no
        such endpoint: `HttpStatusError` or `NotFoundError`.
        """
        _check_page(page, page_size)
        params = {
            "platform": platform,
            "device": device,
            "logined": None if logined is None else int(logined),
            "status": None if disabled is None else int(disabled),
            "tag": tag,
            "page": page,
            "page_size": page_size,
        }
        page_of_accounts = await self._get(AccountPage, "GET /accounts", params=params)
        accounts = tuple(self._shown(account) for account in page_of_accounts.accounts)
        return page_of_accounts.model_copy(update={"accounts": accounts})

    async def iter_accounts(
        self,
        *,
        platform: str | None = None,
        device: str | None = None,
        logined: bool | None = None,
        disabled: bool | None = None,
        tag: str | None = None,
        page_size: int = MAX_PAGE_SIZE,
    ) -> AsyncIterator[Account]:
        """Every account that matches, page by page."""

        async def page_of_accounts(page: int) -> tuple[Sequence[Account], int | None]:
            answer = await self.list_accounts(
                platform=platform,
                device=device,
                logined=logined,
                disabled=disabled,
                tag=tag,
                page=page,
                page_size=page_size,
            )
            return answer.accounts, answer.total

        async for account in _every(page_of_accounts, page_size):
            yield account

    async def _get(
        self,
        model: type[Model],
        call: str,
        *,
        path: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Model:
        path = path or call.removeprefix("GET ")
        return self._shown(_read(model, call, await self._send(call, "GET", path, params=params)))

    def _shown(self, received: Model) -> Model:
        """What was received, with TikMatrix's own words redacted."""
        private = private_texts(getattr(received, "script_args", None) or {})
        words = {name: getattr(received, name) for name in received.own_words}
        told = {name: self._redact(text, private) for name, text in words.items() if text}
        return received.model_copy(update=told) if told else received

    def _redact(self, text: str, also: Sequence[str] = ()) -> str:
        return redact(text, also) if self._redacts else text

    def _reason(self, err: Exception) -> tuple[str, Exception | None]:
        """What went wrong, and what may be shown as its cause: not what had to be redacted."""
        text = str(err) or type(err).__name__
        reason = self._redact(text)
        return reason, err if reason == text else None

    async def _send(
        self,
        call: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        http: httpx.AsyncClient | None = None,
    ) -> Any:
        """Send one request and return the envelope's `data`."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        self.requests_sent += 1
        try:
            response = await asyncio.wait_for(
                (http or self._http).request(
                    method, f"{self.base_url}{path}", params=given, json=json
                ),
                2 * self._timeout_seconds,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as err:
            reason, cause = self._reason(err)
            raise NotSentError(call, self.base_url, reason) from cause
        except httpx.HTTPError as err:
            reason, cause = self._reason(err)
            raise NoAnswerError(call, reason) from cause
        except asyncio.TimeoutError as err:  # not the builtin one before Python 3.11
            limit = 2 * self._timeout_seconds
            raise NoAnswerError(call, f"not whole after {limit:g} s") from err
        try:
            return _data(call, response)
        except ApiError as err:
            raise api_error(call, err.code, self._redact(err.message)) from None


async def _every(
    read_page: Callable[[int], Awaitable[tuple[Sequence[Row], int | None]]], page_size: int
) -> AsyncIterator[Row]:
    """The rows of all pages, each id once."""
    seen: set[int | None] = set()
    read = 0
    page = 1
    while True:
        rows, total = await read_page(page)
        new = [row for row in rows if row.id is None or row.id not in seen]
        for row in new:
            yield row
        seen.update(row.id for row in new)
        read += len(rows)
        all_read = len(rows) < page_size if total is None else read >= total
        if all_read or not new:  # a server that ignores `page` sends the first one again
            return
        page += 1


def _data(call: str, response: httpx.Response) -> Any:
    """What the envelope holds, or the error it stands for, whatever the HTTP status."""
    try:
        envelope = response.json()
        code = int(envelope["code"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise _no_envelope(call, response) from None
    if code == 0:
        return envelope.get("data")
    if response.status_code in (429, 503):
        raise _overloaded(call, response)
    raise api_error(call, code, str(envelope.get("message") or "no message"))


def _no_envelope(call: str, response: httpx.Response) -> TikMatrixError:
    status = response.status_code
    if status in (429, 503):
        return _overloaded(call, response)
    if 300 <= status <= 499:
        return HttpStatusError(call, status)
    return NoAnswerError(call, f"HTTP {status} without TikMatrix's envelope")


def _overloaded(call: str, response: httpx.Response) -> OverloadedError:
    try:
        asked = float(response.headers["Retry-After"])
    except (KeyError, ValueError):  # absent, or a date: the usual delays serve
        return OverloadedError(call, response.status_code, None)
    usable = math.isfinite(asked) and asked >= 0
    return OverloadedError(call, response.status_code, asked if usable else None)


def _read(model: type[Model], call: str, data: object) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as err:
        field = ".".join(map(str, err.errors()[0]["loc"])) or "data"
        raise NoAnswerError(call, f"{field} is missing or not as documented") from None


def _row_or_none(row: object) -> Job | None:
    try:
        return Job.model_validate(row)
    except ValidationError:
        return None


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Refuse what HTTP cannot carry, without repeating it: header values are often secret."""
    for name, value in (headers or {}).items():
        text = f"{name}{value}"
        if not (name and text.isascii() and text.isprintable() and value == value.strip()):
            raise InvalidRequest("headers", "a name or value holds a character HTTP cannot carry")
    return dict(headers or {})


def _header_texts(headers: Mapping[str, str]) -> Iterator[str]:
    """The values, and of `Bearer abc...` the token alone."""
    for value in headers.values():
        yield value
        yield from (part for part in value.split() if len(part) >= WHOLE_WORDS_BELOW)


def _check_page(page: int, page_size: int) -> None:
    if page < 1:
        raise InvalidRequest("page", f"is {page}; pages count from 1")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"is {page_size}; must be 1 to {MAX_PAGE_SIZE}")
