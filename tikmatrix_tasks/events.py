"""Telling other deployments, by a Prefect event, which phones a script has ended on.

One shape for every script. The event is `tikmatrix.<script>.completed` or `.failed`, such as
`tikmatrix.account_warmup.completed`; its resource is what the flow run did, its related resources
are the phones or accounts, and its payload names them, ready to be the parameters of another run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID, uuid5

from prefect.events import emit_event
from prefect.runtime import flow_run

from tikmatrix_tasks.background import run_blocking
from tikmatrix_tasks.jobs import JobReport, Outcome, Report
from tikmatrix_tasks.ledger import note_once
from tikmatrix_tasks.observability import count_of
from tikmatrix_tasks.runs import outermost_run

NOT_COMPLETED = (Outcome.FAILED, Outcome.GONE, Outcome.NOT_CREATED)
"""What is announced as failed; what is open or unknown may still complete and is not announced."""
MOST_RELATED = 50
"""How many phones an event relates to; Prefect refuses events with more than 100 resources."""


def announce_ended(report: Report, script_name: str, *, by_account: bool = False) -> None:
    """Emit an event for the phones that a script completed on, and one for those it failed on.

    With `by_account` the owners in the report are accounts. A phone counts as completed when each
    of its jobs is, and as failed when all have ended and some did not complete. A flow run
    announces a job once: tried again, it announces only what ended since. So whoever starts work on
    the event does not start it twice. Outside a flow run, nothing is emitted.
    """
    run = outermost_run()
    if run is None:
        return
    for word, jobs_of in _ended(report, script_name).items():
        marks = {
            owner: f"{script_name} {word} {owner} {[job.job_id for job in jobs]}"
            for owner, jobs in jobs_of.items()
        }
        # Noted before it is told: whoever dies in between tells nothing, rather than twice.
        new = run_blocking(note_once(run.id, "announced", list(marks.values())))
        owners = [owner for owner, mark in marks.items() if mark in new]
        if owners:
            _emit(run.id, flow_run.flow_name or run.name, script_name, word, owners, by_account)


def _ended(report: Report, script_name: str) -> dict[str, dict[str, list[JobReport]]]:
    """`completed` and `failed`, each with its phones or accounts and their jobs."""
    jobs_of: dict[str | None, list[JobReport]] = defaultdict(list)
    for job in report.jobs:
        if job.script_name == script_name:
            jobs_of[job.owner].append(job)
    ended: dict[str, dict[str, list[JobReport]]] = {"completed": {}, "failed": {}}
    # A job that does not tell whose it is may be anybody's.
    anybodys_bad = any(job.outcome is not Outcome.COMPLETED for job in jobs_of.pop(None, ()))
    for owner, jobs in jobs_of.items():
        if owner is None:
            continue
        bad = [job for job in jobs if job.outcome is not Outcome.COMPLETED]
        if not bad and not anybodys_bad:
            ended["completed"][owner] = jobs
        elif bad and all(job.outcome in NOT_COMPLETED for job in bad):
            ended["failed"][owner] = jobs
    return ended


def _emit(
    flow_run_id: UUID,
    flow_name: str,
    script_name: str,
    word: str,
    owners: Sequence[str],
    by_account: bool,
) -> None:
    role = "account" if by_account else "phone"
    emit_event(
        f"tikmatrix.{script_name}.{word}",
        resource={
            "prefect.resource.id": f"tikmatrix.{script_name}.{flow_run_id}",
            "prefect.resource.name": f"{script_name} on {count_of(len(owners), role)}",
            "tikmatrix.script": script_name,
            "tikmatrix.flow": flow_name,
        },
        related=[
            {
                "prefect.resource.id": f"tikmatrix.{role}.{owner}",
                "prefect.resource.role": role,
                "prefect.resource.name": owner,
            }
            for owner in owners[:MOST_RELATED]
        ],
        payload={
            "serials": None if by_account else list(owners),
            "usernames": list(owners) if by_account else None,
        },
        # Prefect's server drops an event whose id it has seen within the last half hour.
        id=uuid5(flow_run_id, f"{script_name} {word} {sorted(owners)}"),
    )
