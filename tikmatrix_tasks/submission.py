"""Creating jobs exactly once.

The API has no idempotency key, so a request is sent again only if the first certainly never
arrived. When it may have arrived and no answer tells, the submission stops.
"""

from __future__ import annotations

from datetime import datetime, timezone

from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import SubmissionInDoubt, TikMatrixError
from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import Batch
from tikmatrix_tasks.retries import is_in_doubt


async def submit(client: TikMatrixClient, request: JobRequest) -> Batch:
    """Create the jobs of one request.

    Raises:
        SubmissionInDoubt: the outcome is not known, or not what was asked for.
        TikMatrixError: TikMatrix refused, or was not reached; no job was created.
    """
    try:
        created = await client.create_jobs(request)
    except TikMatrixError as err:
        if is_in_doubt(err):
            raise SubmissionInDoubt(str(request), str(err)) from err
        raise
    expected = None if request.enable_multi_account else request.least_jobs
    if expected is not None and len(created.task_ids) > expected:
        raise SubmissionInDoubt(
            str(request),
            f"{expected} jobs were asked for and {len(created.task_ids)} created",
            created.task_ids,
        )
    return Batch(
        job_ids=created.task_ids,
        script_name=request.script.name,
        owners=request.owners,
        by_account=bool(request.usernames),
        expected_jobs=expected,
        expected_seconds=request.script.expected_seconds,
        start_time=request.start_time,
        created_at=datetime.now(timezone.utc),
    )
