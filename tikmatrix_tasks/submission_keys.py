"""The explicit key under which Prefect keeps the batch of a submission.

Prefect's default key would collapse two intended equal submissions of one run into one, and would
change when this code changes. The key here is: the run, TikMatrix's address, the request's
fingerprint, and which of the run's equal requests it is (first, second, ...). A retried, resumed or
restarted run counts anew, comes to the same keys, and so finds its batches. The line of the call is
left out on purpose: an edit between a crash and its retry would move it and post twice.

Prefect gives a subflow a new run, and a task inside a task a new task run, when the outer one is
tried again. So requests count by the outermost flow run of the process, and a request in a task
that is tried again takes the place of the one it made before.

A request with a key of the caller's own, such as a row of a table, counts by that key alone.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import UUID

_KEPT_RUNS = 1000  # a process that runs more flow runs than this at once would repeat a key


@dataclass(frozen=True)
class Place:
    """Where a request is made: in which attempt of which flow run, and inside which task runs."""

    flow_run_id: UUID
    flow_attempt: int
    task_run_id: UUID
    callers: tuple[tuple[UUID, int], ...] = ()
    """The task runs around it, the outermost first, each with its attempt."""


@dataclass
class _Equal:
    """Equal requests of one attempt of a flow run: by whom each was made, in order."""

    made_by: list[tuple[UUID, ...]] = field(default_factory=list)
    number_of: dict[UUID, int] = field(default_factory=dict)
    calls: Counter[tuple[tuple[UUID, int], ...]] = field(default_factory=Counter)

    def number(self, place: Place) -> int:
        """Which of the equal requests this is, from 0; the same for a request made again."""
        if place.task_run_id not in self.number_of:
            self.number_of[place.task_run_id] = self._next(place.callers)
        return self.number_of[place.task_run_id]

    def _next(self, callers: tuple[tuple[UUID, int], ...]) -> int:
        again = [depth for depth, (_, attempt) in enumerate(callers, 1) if attempt > 1]
        depth = again[-1] if again else len(callers)
        by = tuple(task_run_id for task_run_id, _ in callers)
        before = [
            number
            for number, made_by in enumerate(self.made_by)
            if (made_by[:depth] if again else made_by) == by[:depth]
        ]
        call = self.calls[callers[:depth]]
        self.calls[callers[:depth]] += 1
        if call < len(before):
            return before[call]
        self.made_by.append(by)
        return len(self.made_by) - 1


_lock = threading.Lock()
_runs: OrderedDict[tuple[UUID, int], dict[str, _Equal]] = OrderedDict()


def once_submission_key(once_key: str) -> str:
    """The key of a request that is made once ever, whichever run makes it."""
    return f"tikmatrix-once-{sha256(once_key.encode()).hexdigest()[:32]}"


def submission_key(place: Place, *, base_url: str, fingerprint: str) -> str:
    """The key of a request."""
    request = sha256(f"{base_url} {fingerprint}".encode()).hexdigest()[:24]
    with _lock:
        run = _runs.setdefault((place.flow_run_id, place.flow_attempt), {})
        while len(_runs) > _KEPT_RUNS:
            _runs.popitem(last=False)
        number = run.setdefault(request, _Equal()).number(place)
    return f"tikmatrix-{place.flow_run_id}-{request}-{number + 1}"
