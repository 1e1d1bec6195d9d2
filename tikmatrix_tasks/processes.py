"""Processes that outlive the command that started them, and are ended by another one.

Their ids are kept in a file, and an id may since have gone to somebody else's process. So each has
a marker in its command line, and what has no such marker is not ours and is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

END_SECONDS = 30.0
"""How long a process may take to end by itself before it is killed."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Started:
    """A process of ours: its id, and what its command line holds that no other one's does."""

    name: str
    pid: int
    marker: str


def start(
    name: str, arguments: Sequence[str], marker: str, environment: Mapping[str, str], log: Path
) -> Started:
    """Start this interpreter on its own, with its output in a file."""
    alone: dict[str, object] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        alone = {"creationflags": flags}
    with log.open("ab") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]  # noqa: S603 (this interpreter)
            [sys.executable, "-m", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **alone,
        )
    return Started(name, process.pid, marker)


def runs(process: Started) -> bool:
    """Whether it runs, and is ours."""
    return process.marker in _command_line(process.pid)


def end(process: Started) -> bool:
    """End it and what it started. Returns whether there was something of ours to end."""
    if not runs(process):
        return False
    _signal(process.pid, "polite")
    deadline = time.monotonic() + END_SECONDS
    while runs(process) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    if runs(process):
        _signal(process.pid, "kill")
    while runs(process):
        time.sleep(_LOOK_SECONDS)
    return True


def write(path: Path, processes: Sequence[Started]) -> None:
    path.write_text(json.dumps([asdict(process) for process in processes]), encoding="utf-8")


def read(path: Path) -> list[Started]:
    """What the file keeps; nothing where it is missing or damaged."""
    try:
        return [Started(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _command_line(pid: int) -> str:
    """Of a process that runs; empty when there is none."""
    if sys.platform == "win32":
        look = f"(Get-CimInstance Win32_Process -Filter 'ProcessId={pid}').CommandLine"
        command = ["powershell", "-NoProfile", "-Command", look]
    else:
        command = ["ps", "-p", str(pid), "-ww", "-o", "stat=,command="]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (a number)
    ended_but_not_collected = done.stdout.startswith("Z")
    return "" if ended_but_not_collected else done.stdout


def _signal(pid: int, how: str) -> None:
    if sys.platform == "win32":
        # There is no polite way to end a process without a window; with all that it started.
        command = ["taskkill", "/PID", str(pid), "/T", "/F"]
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (a number)
    else:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM if how == "polite" else signal.SIGKILL)
