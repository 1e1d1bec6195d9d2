"""The explicit key under which Prefect keeps the batch of a submission.

Prefect's default key would collapse two intended equal submissions of one run into one, and would
change when this code changes. The key here is: the flow run, TikMatrix's address, the request's
fingerprint, and which of the run's equal requests it is (first, second, ...). A retried, resumed or
restarted run counts anew, comes to the same keys, and so finds its batches. The line of the call is
left out on purpose: an edit between a crash and its retry would move it and post twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256
from uuid import UUID

_KEPT_RUNS = 1000  # a process that runs more flow runs than this at once would repeat a key
_lock = threading.Lock()
_equal_requests: OrderedDict[tuple[UUID, int], dict[str, list[UUID]]] = OrderedDict()


def submission_key(
    *, flow_run_id: UUID, attempt: int, task_run_id: UUID, base_url: str, fingerprint: str
) -> str:
    """The key of a request; `attempt` is the flow run's run count.

    A retry of the same task run keeps its place among the equal requests.
    """
    request = sha256(f"{base_url} {fingerprint}".encode()).hexdigest()[:24]
    with _lock:
        requests = _equal_requests.setdefault((flow_run_id, attempt), {})
        while len(_equal_requests) > _KEPT_RUNS:
            _equal_requests.popitem(last=False)
        task_runs = requests.setdefault(request, [])
        if task_run_id not in task_runs:
            task_runs.append(task_run_id)
        return f"tikmatrix-{flow_run_id}-{request}-{task_runs.index(task_run_id) + 1}"
