"""What was asked of the simulator, for tests to count and look at."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KEPT = 10_000


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    endpoint: str | None
    """Its name in `ENDPOINTS`; None for a path the API does not have."""
    body: Any
    """The parsed JSON, None if there was none."""
    code: int | None
    """The code of the answer's envelope, None where no envelope was sent."""
    fault: str | None
    """The kind of fault the call met."""


class RequestLog:
    """The last 10,000 requests in order of arrival, and how many there were of each endpoint."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=KEPT)
        self._counts: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Request]:
        with self._lock:
            return iter(list(self._requests))

    def __len__(self) -> int:
        """All requests since the start or `clear`, also those no longer kept."""
        return sum(self._counts.values())

    def count(self, endpoint: str | None) -> int:
        return self._counts[endpoint]

    def bodies(self, endpoint: str) -> list[Any]:
        """The bodies sent to one endpoint."""
        return [request.body for request in self if request.endpoint == endpoint]

    def add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)
            self._counts[request.endpoint] += 1

    def clear(self) -> None:
        with self._lock:
            self._requests.clear()
            self._counts.clear()
