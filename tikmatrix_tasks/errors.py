"""What can go wrong, one class per thing a caller can do about it.

TikMatrixError
├── InvalidRequest          refused here, before anything was sent: correct the named field
├── NotSentError            nothing listens at the address: start TikMatrix, then try again
├── NoAnswerError           sent, but no readable answer: ask again, unless it creates something
├── OverloadedError         HTTP 429 or 503: wait as long as it says
├── HttpStatusError         another HTTP status without TikMatrix's envelope: wrong address or proxy
├── ApiError                TikMatrix answered with a code other than 0
│   ├── BadRequestError     40001, 40002: correct the request
│   ├── ScriptNotSupported  40003: this script cannot be run through the API
│   ├── PlanError           40301: the plan has no API access
│   ├── NotFoundError       40401: no such job (any more)
│   └── InternalError       50001 and any unknown 5xxxx: its own trouble
├── SubmissionInDoubt       jobs may or may not exist: look before sending again
├── UnsortedJobs            the job list is in no order and too long to be read whole
├── JobsNotIdentified       the rows do not tell which phone or account a job belongs to
├── UnknownJobStatus        a job shows a status that nobody documented
├── PhonesBusy              other work kept phones until the deadline; nothing was sent
└── EndedBadly              a wait ended without every job completed; carries the report
    ├── JobsFailed          every job has ended, some of them failed or are gone
    ├── WaitTimedOut        the deadline passed first
    └── TikMatrixUnreachable  no answer for longer than the outage budget

Messages name the call, the code and TikMatrix's own words; they never hold a request's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # errors stand below jobs: the name is needed for annotations only
    from tikmatrix_tasks.jobs import Report


class TikMatrixError(Exception):
    """Everything this package raises on its own account."""


class InvalidRequest(TikMatrixError, ValueError):
    """Refused before anything was sent. `field` names the parameter to correct."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)  # exceptions pickle by their args
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class NotSentError(TikMatrixError):
    """The connection could not be opened, so the request never reached TikMatrix."""

    def __init__(self, call: str, address: str, reason: str) -> None:
        super().__init__(call, address, reason)
        self.call, self.address, self.reason = call, address, reason

    def __str__(self) -> str:
        return (
            f"{self.call}: no connection to {self.address} ({self.reason}); is TikMatrix running, "
            "and is this the address of its Local API?"
        )


class NoAnswerError(TikMatrixError):
    """The request was sent and no readable answer came back: it may have been carried out."""

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(call, reason)
        self.call, self.reason = call, reason

    def __str__(self) -> str:
        return f"{self.call}: no readable answer ({self.reason})"


class OverloadedError(TikMatrixError):
    """HTTP 429 or 503. `retry_after_seconds` is what the answer asked for, or None."""

    def __init__(self, call: str, http_status: int, retry_after_seconds: float | None) -> None:
        super().__init__(call, http_status, retry_after_seconds)
        self.call, self.http_status = call, http_status
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        asked = self.retry_after_seconds
        return f"{self.call}: HTTP {self.http_status}" + (
            f", to be tried again after {asked:g} s" if asked is not None else ""
        )


class HttpStatusError(TikMatrixError):
    """An HTTP status of 300 to 499 without TikMatrix's envelope: something else answered."""

    def __init__(self, call: str, http_status: int) -> None:
        super().__init__(call, http_status)
        self.call, self.http_status = call, http_status

    def __str__(self) -> str:
        return (
            f"{self.call}: HTTP {self.http_status} without TikMatrix's envelope; this TikMatrix is "
            "older than the call, the base URL is not its Local API, or a proxy answered"
        )


class ApiError(TikMatrixError):
    """TikMatrix answered with a code other than 0. `code` is theirs, unchanged."""

    def __init__(self, call: str, code: int, message: str) -> None:
        super().__init__(call, code, message)
        self.call, self.code, self.message = call, code, message

    def __str__(self) -> str:
        return f"{self.call}: {self.message} (code {self.code})"


class BadRequestError(ApiError):
    """40001 or 40002: TikMatrix refuses the parameters. Trying again cannot help."""


class ScriptNotSupported(ApiError):
    """40003: this TikMatrix does not run that script through its API."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()}. This TikMatrix does not run the script through its API (yet): "
            "update TikMatrix, or run the script on its screen"
        )


class PlanError(ApiError):
    """40301: the plan has no API access; Pro, Team and Business have. Trying again cannot help."""


class NotFoundError(ApiError):
    """40401: there is no such job; somebody may have deleted it."""


class InternalError(ApiError):
    """50001, or another 5xxxx: TikMatrix failed by itself; the call may have been carried out."""


_CLASS_OF_CODE: dict[int, type[ApiError]] = {
    40001: BadRequestError,
    40002: BadRequestError,
    40003: ScriptNotSupported,
    40301: PlanError,
    40401: NotFoundError,
    50001: InternalError,
}


def api_error(call: str, code: int, message: str) -> ApiError:
    """The error that stands for an envelope's code; an unknown 5xxxx counts as internal."""
    unknown = InternalError if 50000 <= code <= 59999 else ApiError
    return _CLASS_OF_CODE.get(code, unknown)(call, code, message)


class SubmissionInDoubt(TikMatrixError):
    """A submission whose outcome is not known. Nothing is sent again.

    `job_ids` are jobs known to exist because of it, `doubt` is what was seen.
    """

    def __init__(self, submission: str, doubt: str, job_ids: tuple[int, ...] = ()) -> None:
        super().__init__(submission, doubt, job_ids)
        self.submission, self.doubt, self.job_ids = submission, doubt, job_ids

    def __str__(self) -> str:
        known = f" Known jobs: {', '.join(map(str, self.job_ids))}." if self.job_ids else ""
        return (
            f"{self.submission}: {self.doubt}. The jobs may exist, so nothing is sent again.{known}"
            " Look at TikMatrix's task list: if the jobs are there, wait for them by their ids; "
            "if they are not, start a new run."
        )


class JobsNotIdentified(TikMatrixError):
    """TikMatrix's rows do not tell which phone or account each job belongs to."""

    def __init__(self, job_ids: tuple[int, ...], missing: str) -> None:
        super().__init__(job_ids, missing)
        self.job_ids, self.missing = job_ids, missing

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.job_ids))
        return f"jobs {ids}: {self.missing}. The jobs exist and go on; they were not sent again."


class UnsortedJobs(TikMatrixError):
    """The job list is in no order and longer than `pages`, so its newest job is not known."""

    def __init__(self, pages: int) -> None:
        super().__init__(pages)
        self.pages = pages

    def __str__(self) -> str:
        return f"the job list is unsorted and longer than {self.pages} pages"


class UnknownJobStatus(TikMatrixError):
    """A job's row shows a status other than 0 to 3."""

    def __init__(self, job_id: int, status: int) -> None:
        super().__init__(job_id, status)
        self.job_id, self.status = job_id, status

    def __str__(self) -> str:
        return (
            f"job {self.job_id} shows status {self.status}; the documented ones are 0 pending, "
            "1 running, 2 completed, 3 failed. Look at the job in TikMatrix."
        )


class PhonesBusy(TikMatrixError):
    """Phones (or accounts) still had other work when the time was up. Nothing was sent."""

    def __init__(self, owners: tuple[str, ...], timeout_seconds: float) -> None:
        super().__init__(owners, timeout_seconds)
        self.owners, self.timeout_seconds = owners, timeout_seconds

    def __str__(self) -> str:
        return (
            f"{', '.join(self.owners)} still busy with other work after {self.timeout_seconds:g} s;"
            " nothing was sent"
        )


class EndedBadly(TikMatrixError):
    """A wait ended without every job completed. `report` says what became of each."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message, report)
        self.message, self.report = message, report

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:  # Prefect logs the repr; the whole report would drown the log
        return f"{type(self).__name__}({self.message!r})"


class JobsFailed(EndedBadly):
    """Every job has ended and not all completed."""


class WaitTimedOut(EndedBadly):
    """The deadline of a wait passed before every job had ended."""


class TikMatrixUnreachable(EndedBadly):
    """TikMatrix gave no answer for longer than the outage budget. Its jobs may go on."""
