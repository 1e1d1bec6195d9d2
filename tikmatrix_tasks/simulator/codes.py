"""The codes of the API's envelope, and the exception that carries one to the answer.

Source: TikMatrix docs, "Local API Overview", table of codes.
"""

from __future__ import annotations

SUCCESS = 0
INVALID = 40001
SCRIPT_NAME_MISSING = 40002
SCRIPT_NOT_SUPPORTED = 40003
PLAN_WITHOUT_API = 40301
NOT_FOUND = 40401
INTERNAL_ERROR = 50001

# Not documented: the HTTP status of a code, in a TikMatrix that does not say 200 to everything.
HTTP_STATUS = {
    SUCCESS: 200,
    INVALID: 400,
    SCRIPT_NAME_MISSING: 400,
    SCRIPT_NOT_SUPPORTED: 400,
    PLAN_WITHOUT_API: 403,
    NOT_FOUND: 404,
    INTERNAL_ERROR: 500,
}


class Refusal(Exception):
    """The simulated TikMatrix says no, with a documented code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"
