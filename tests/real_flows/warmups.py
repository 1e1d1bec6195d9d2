"""Flows of a user's own that a real worker runs: each warms phones up, in another way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from prefect import flow
from prefect.filesystems import LocalFileSystem

from tikmatrix_tasks import (
    AccountWarmup,
    arun_script,
    run_script,
    stop_jobs_on_cancel,
    submit_jobs,
    wait_for_jobs,
)

STORAGE = "freezing-storage/real-crashes"


class FreezingStorage(LocalFileSystem):
    """Result storage that never gets to write a batch while the file `FREEZE_FILE` exists."""

    _block_type_name = "Freezing storage"
    _block_type_slug = "freezing-storage"

    async def awrite_path(self, path: str, content: bytes) -> str:
        name = Path(path).name
        is_batch = name.startswith("tikmatrix-") and not name.endswith(("-intent", "-submissions"))
        while is_batch and _is_frozen():  # noqa: ASYNC110 (the file is another process's)
            await asyncio.sleep(0.05)
        return await super().awrite_path(path, content)


def _is_frozen() -> bool:
    """And tell the test, by the file `.reached`, that the point was reached."""
    freeze = Path(os.environ["FREEZE_FILE"])
    frozen = freeze.exists()
    if frozen:
        freeze.with_suffix(".reached").touch()
    return frozen


@flow(result_storage=STORAGE)
def submit_then_wait(serials: list[str]) -> None:
    wait_for_jobs(submit_jobs(AccountWarmup(), serials=serials))


@flow(result_storage=STORAGE)
def run_a_script(serials: list[str]) -> None:
    """Its `submit_jobs` is nested in another task, whose result Prefect keeps after the wait."""
    run_script(AccountWarmup(), serials=serials)


@stop_jobs_on_cancel
@flow
def own_flow(serials: list[str]) -> None:
    run_script(AccountWarmup(), serials=serials)


@stop_jobs_on_cancel
@flow
async def own_async_flow(serials: list[str]) -> None:
    await arun_script(AccountWarmup(), serials=serials)
