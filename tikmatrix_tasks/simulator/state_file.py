"""The simulator's jobs on disk, so that they outlive the program as TikMatrix's do.

The whole state is written each time, fine for some ten thousand jobs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class StateFileError(ValueError):
    """The state file cannot be used. It is left as it is."""


def read_state(path: Path) -> dict[str, Any] | None:
    """What was written last, None if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as err:
        raise damaged(path, "it is not text") from err
    try:
        state = json.loads(text)
    except ValueError as err:
        raise damaged(path, str(err)) from err
    if not isinstance(state, dict):
        raise damaged(path, "it does not hold an object")
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a reader finds the old state or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(state), encoding="utf-8")
    for wait_seconds in (0.02, 0.05, 0.1, 0.2):
        try:
            new.replace(path)
        except PermissionError:  # Windows, while someone else (a virus scanner) reads the file
            time.sleep(wait_seconds)
        else:
            return
    new.replace(path)


def damaged(path: Path, why: str) -> StateFileError:
    return StateFileError(
        f"state file {path} is damaged ({why}): move it away to start without jobs"
    )
