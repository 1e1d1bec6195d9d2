"""What other code builds on: the public names, and imports that point one way."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tikmatrix_tasks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tikmatrix_tasks"

# From the top down; a room imports only from rooms below it.
ROOMS = (
    "__init__",
    "cli",
    "demo",
    "evening",
    "check",
    "history_command",
    "history_report",
    "run_history",
    "figures",
    "post_table",
    "unfollow_later",
    "each_job",
    "limits",
    "automations",
    "script_flow",
    "guards",
    "housekeeping",
    "health",
    "tasks",
    "twins",
    "cancellation",
    "feed",
    "events",
    "observability",
    "board",
    "summary",
    "timeline",
    "drawing",
    "parameters",
    "parameter_errors",
    "records",
    "ledger",
    "file_lock",
    "phone_limits",
    "runs",
    "submission_keys",
    "background",
    "local_server",
    "processes",
    "block",
    "settings",
    "waiting",
    "watcher",
    "tracker",
    "cadence",
    "busy",
    "job_actions",
    "rows",
    "submission",
    "intent",
    "history",
    "client",
    "job_request",
    "scripts",
    "redaction",
    "job_table",
    "jobs",
    "retries",
    "errors",
)
KNOW_PREFECT = ROOMS[: ROOMS.index("settings") + 1]


def imports_of(path: Path) -> set[str]:
    """What a module imports when it runs; names for annotations only do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def rooms_in(names: set[str]) -> set[str]:
    inside = {name.removeprefix("tikmatrix_tasks.") for name in names if "tikmatrix_tasks." in name}
    return {name.split(".")[0] for name in inside}


def test_every_module_has_its_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    names = imports_of(PACKAGE / f"{room}.py")
    below = set(ROOMS[ROOMS.index(room) + 1 :]) | {"simulator"}
    assert rooms_in(names) <= below
    if room not in KNOW_PREFECT:
        assert not [name for name in names if name.split(".")[0] == "prefect"]


def test_the_simulator_uses_nothing_else_of_the_package() -> None:
    """A mistake in the client must not hide behind the same mistake in the simulator."""
    for path in (PACKAGE / "simulator").glob("*.py"):
        assert rooms_in(imports_of(path)) <= {"simulator"}


@pytest.mark.parametrize("path", sorted((ROOT / "flows").glob("*.py")), ids=lambda path: path.name)
def test_flows_use_public_names_only(path: Path) -> None:
    assert rooms_in(imports_of(path)) <= {*tikmatrix_tasks.__all__, "parameters"}


def test_public_names_are_there_and_say_what_they_are() -> None:
    promised = {
        *("TikMatrix", "TikMatrixClient", "Job", "JobStatus", "Batch", "Report"),
        *("Post", "Follow", "Unfollow", "AccountWarmup", "Comment", "CustomScript", "ChatGPT"),
        *("check_license", "get_stats", "list_jobs", "list_accounts"),
        *("submit_jobs", "wait_for_jobs", "run_script", "stop_jobs", "retry_jobs", "delete_jobs"),
    }
    assert promised <= set(tikmatrix_tasks.__all__)
    for name in tikmatrix_tasks.__all__:
        assert inspect.getdoc(getattr(tikmatrix_tasks, name)), name
