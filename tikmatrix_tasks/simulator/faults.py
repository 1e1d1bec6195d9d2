"""Faults: what can go wrong between a client and TikMatrix, to be ordered in advance.

Each method of `Faults` queues one kind of fault for an endpoint, or for "*", any endpoint. The
next `times` calls meet it, after `after` calls have passed by. Where several faults fit a call,
the oldest that is ready takes it. Seconds are real seconds: they happen on the network.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tikmatrix_tasks.simulator.endpoints import ENDPOINTS

When = Literal["before", "after"]
Reply = Literal[
    "own", "nothing", "internal_error", "html_502", "overloaded", "truncated_json", "short_body"
]


@dataclass(frozen=True)
class Kind:
    """What a fault does: whether the work is done all the same, and what comes back."""

    work: bool
    reply: Reply
    meaning: str
    seconds: float | None = None
    """Where the kind takes seconds: how many if none are given."""
    status: int = 200


KINDS: dict[str, Kind] = {
    "lose_reply": Kind(True, "nothing", "does the work, then closes without a byte"),
    "drop": Kind(False, "nothing", "closes without doing the work"),
    "hang_before": Kind(False, "nothing", "does nothing, holds the call, then closes", 30.0),
    "hang_after": Kind(True, "nothing", "does the work, holds the call, then closes", 30.0),
    "internal_error_before": Kind(False, "internal_error", "50001, nothing done"),
    "internal_error_after": Kind(True, "internal_error", "50001, though the work is done"),
    "html_502_before": Kind(False, "html_502", "an HTML page with 502, nothing done"),
    "html_502_after": Kind(True, "html_502", "an HTML page with 502, though the work is done"),
    "truncated_json": Kind(True, "truncated_json", "a whole HTTP answer around half the JSON"),
    "short_body": Kind(True, "short_body", "fewer bytes than Content-Length says"),
    "slow": Kind(True, "own", "does the work, answers late", 1.0),
    "overloaded_429": Kind(False, "overloaded", "429 with Retry-After", 1.0, 429),
    "overloaded_503": Kind(False, "overloaded", "503 with Retry-After", 1.0, 503),
}
REFUSE = "refuse"
_REFUSE_SECONDS = 1.0
_NAMES = (REFUSE, *KINDS)


@dataclass
class Fault:
    endpoint: str
    kind: str
    seconds: float = 0.0
    times: int = 1
    after: int = 0

    @property
    def does(self) -> Kind:
        return KINDS[self.kind]


class Faults:
    """The queue of faults. One method per kind; may be called from any thread."""

    def __init__(self) -> None:
        self._queue: list[Fault] = []
        self._lock = threading.Lock()
        self._on_refuse: Callable[[float], None] | None = None

    def lose_reply(self, endpoint: str, *, times: int = 1, after: int = 0) -> None:
        """The work is done, the connection closes without a byte: in doubt."""
        self.add(Fault(endpoint, "lose_reply", times=times, after=after))

    def drop(self, endpoint: str, *, times: int = 1, after: int = 0) -> None:
        """The connection closes and nothing is done. A client cannot tell it from `lose_reply`."""
        self.add(Fault(endpoint, "drop", times=times, after=after))

    def hang(
        self,
        endpoint: str,
        seconds: float = 30.0,
        *,
        when: When = "after",
        times: int = 1,
        after: int = 0,
    ) -> None:
        """Hold the call and close it without a byte, before or after the work is done."""
        self.add(Fault(endpoint, f"hang_{when}", seconds, times, after))

    def internal_error(
        self, endpoint: str, *, when: When = "before", times: int = 1, after: int = 0
    ) -> None:
        """50001, before or after the work is done."""
        self.add(Fault(endpoint, f"internal_error_{when}", times=times, after=after))

    def html_502(
        self, endpoint: str, *, when: When = "before", times: int = 1, after: int = 0
    ) -> None:
        """A gateway's HTML page, before or after the work is done."""
        self.add(Fault(endpoint, f"html_502_{when}", times=times, after=after))

    def truncated_json(self, endpoint: str, *, times: int = 1, after: int = 0) -> None:
        """The work is done; HTTP is in order, the JSON ends in the middle."""
        self.add(Fault(endpoint, "truncated_json", times=times, after=after))

    def short_body(self, endpoint: str, *, times: int = 1, after: int = 0) -> None:
        """The work is done; the connection closes before Content-Length bytes have come."""
        self.add(Fault(endpoint, "short_body", times=times, after=after))

    def slow(self, endpoint: str, seconds: float = 1.0, *, times: int = 1, after: int = 0) -> None:
        """The work is done at once, the answer comes late."""
        self.add(Fault(endpoint, "slow", seconds, times, after))

    def overloaded(
        self,
        endpoint: str,
        retry_after_seconds: float = 1.0,
        *,
        status: Literal[429, 503] = 503,
        times: int = 1,
        after: int = 0,
    ) -> None:
        """429 or 503 with Retry-After, nothing done."""
        self.add(Fault(endpoint, f"overloaded_{status}", retry_after_seconds, times, after))

    def refuse(self, endpoint: str = "*", seconds: float = _REFUSE_SECONDS, after: int = 0) -> None:
        """Close the port for a while: connections are refused, open ones end.

        At once, or once `after` calls to the endpoint have been answered. A port cannot refuse one
        endpoint's calls only, so `after` is needed where an endpoint is named.
        """
        self.add(Fault(endpoint, REFUSE, seconds, after=after))

    def add(self, fault: Fault) -> None:
        """Queue a fault, for instance one from `parse_fault`."""
        _check(fault)
        with self._lock:
            self._queue.append(fault)
        self.refuse_if_due()

    def clear(self) -> None:
        """Forget what has not happened yet."""
        with self._lock:
            self._queue.clear()

    @property
    def left(self) -> int:
        """How many of the queued faults have not been used up."""
        return len(self._queue)

    def take(self, endpoint: str) -> Fault | None:
        """The fault this call meets. Counts the call for the faults that let it pass."""
        with self._lock:
            fitting = [fault for fault in self._queue if fault.endpoint in ("*", endpoint)]
            ready = [fault for fault in fitting if fault.after == 0 and fault.kind != REFUSE]
            for fault in fitting:
                fault.after = max(0, fault.after - 1)
            if not ready:
                return None
            ready[0].times -= 1
            if ready[0].times == 0:
                self._queue.remove(ready[0])
            return ready[0]

    def on_refuse(self, close_port: Callable[[float], None] | None) -> None:
        """Who closes the port when `refuse` is due; until someone does, it stays queued."""
        self._on_refuse = close_port
        self.refuse_if_due()

    def refuse_if_due(self) -> None:
        """Called after every answer."""
        if self._on_refuse is None:
            return
        with self._lock:
            due = [fault for fault in self._queue if fault.kind == REFUSE and fault.after == 0]
            for fault in due:
                self._queue.remove(fault)
        if due:
            self._on_refuse(max(fault.seconds for fault in due))


def _check(fault: Fault) -> None:
    if fault.endpoint not in ("*", *ENDPOINTS):
        raise ValueError(
            f"no endpoint is called {fault.endpoint!r}; there are: {', '.join(('*', *ENDPOINTS))}"
        )
    if fault.kind not in _NAMES:
        raise ValueError(f"no fault is called {fault.kind!r}; there are: {', '.join(_NAMES)}")
    if not 0 <= fault.seconds < float("inf"):
        raise ValueError(f"seconds of a fault: {fault.seconds} is not a time")
    if fault.times < 1 or fault.after < 0:
        raise ValueError("a fault happens at least once (times), after 0 calls or more (after)")
    if fault.kind == REFUSE and fault.endpoint != "*" and fault.after == 0:
        raise ValueError(
            "refuse closes the port for every endpoint: name '*', or say after how many calls"
        )
    if fault.kind == REFUSE and fault.times != 1:
        raise ValueError("refuse happens once: say for how many seconds instead")


_TEXT = re.compile(
    r"(?P<endpoint>[^=]+)=(?P<kind>\w+)"
    r"(?:\((?P<seconds>\d+(?:\.\d+)?)\))?(?:\*(?P<times>\d+))?(?: +after +(?P<after>\d+))?"
)
_WITHOUT_WHEN = {
    "hang": "hang_after",
    "internal_error": "internal_error_before",
    "html_502": "html_502_before",
    "overloaded": "overloaded_503",
}
FAULT_SYNTAX = "ENDPOINT=KIND[(SECONDS)][*TIMES][ after CALLS]"


def parse_fault(text: str) -> Fault:
    """Read a fault as the command line writes it, e.g. `GET /task=slow(2.5)*3 after 1`.

    Kinds with a before and an after may leave that out and mean what their method means.
    Raises ValueError, saying what is wrong.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"a fault reads {FAULT_SYNTAX}, not {text!r}")
    name = _WITHOUT_WHEN.get(found["kind"], found["kind"])
    usual = _REFUSE_SECONDS if name == REFUSE else KINDS[name].seconds if name in KINDS else None
    if found["seconds"] is not None and usual is None and name in KINDS:
        raise ValueError(f"{name} takes no seconds: {text!r}")
    seconds = usual if found["seconds"] is None else float(found["seconds"])
    fault = Fault(
        endpoint=found["endpoint"].strip(),
        kind=name,
        seconds=seconds or 0.0,
        times=int(found["times"] or 1),
        after=int(found["after"] or 0),
    )
    _check(fault)
    return fault
