"""The endpoints by the names that faults, the request log and the tests use."""

from __future__ import annotations

import re

PREFIX = "/api/v1"

ENDPOINTS = (
    "GET /license/check",
    "POST /task",
    "GET /task",
    "GET /task/{id}",
    "DELETE /task/{id}",
    "DELETE /task/batch",
    "POST /task/{id}/stop",
    "POST /task/{id}/retry",
    "POST /task/retry-all",
    "GET /task/stats",
    "GET /accounts",
)

_BY_ID = [
    (name, re.compile(re.escape(name).replace(r"\{id\}", "([^/]+)")))
    for name in ENDPOINTS
    if "{id}" in name
]


def find_endpoint(method: str, path: str) -> tuple[str, str] | None:
    """The endpoint's name and the job id in the path, or "" where it has none."""
    if not path.startswith(PREFIX):
        return None
    call = f"{method} {path.removeprefix(PREFIX)}"
    if call in ENDPOINTS:
        return call, ""
    for name, pattern in _BY_ID:
        found = pattern.fullmatch(call)
        if found:
            return name, found[1]
    return None
