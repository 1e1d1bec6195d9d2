"""Keeping what a flow run submitted in Prefect's result storage, at the moment it is known.

Prefect writes a task's result when its outermost transaction commits. Inside another task that is
after the wait, and a process killed meanwhile would have forgotten its jobs; so it is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.results import ResultStore, get_result_store
from prefect.serializers import JSONSerializer
from pydantic import BaseModel

from tikmatrix_tasks.intent import Intent
from tikmatrix_tasks.jobs import Batch

_unsent: set[str] = set()
_index_lock = asyncio.Lock()  # all submissions of a process run on one loop


class Submitted(BaseModel):
    """A submission of a flow run: where to, and what is known of it."""

    key: str
    base_url: str
    block_name: str | None = None
    intent: Intent | None = None
    batch: Batch | None = None


class RunLedger:
    """The intent and the batch of one submission of a flow run, under its key."""

    def __init__(self, flow_run_id: UUID, submitted: Submitted) -> None:
        self._store = get_result_store()
        self._index_key = _index_key(flow_run_id)
        self._submitted = submitted

    @property
    def unsent(self) -> set[str]:
        return _unsent

    async def read_intent(self) -> Intent | None:
        kept = await _read(self._store, f"{self._submitted.key}-intent")
        return None if kept is None else Intent.model_validate(kept)

    async def write_intent(self, intent: Intent) -> None:
        async with _index_lock:
            entries = await _read(self._store, self._index_key) or []
            entry = self._submitted.model_dump(mode="json", exclude={"intent", "batch"})
            if entry not in entries:
                await self._store.awrite([*entries, entry], key=self._index_key)
        key = f"{self._submitted.key}-intent"
        await self._store.awrite(intent.model_dump(mode="json"), key=key)

    async def write_batch(self, batch: Batch) -> None:
        """Under the very key that Prefect looks for, so that a repeated task run is Cached."""
        await self._store.awrite(batch, key=self._submitted.key)


async def keep(key: str, value: Any) -> None:
    """Write the current task run's result under its own key, before Prefect does."""
    await get_result_store().awrite(value, key=key)


async def claim(flow_run_id: UUID, submitted: Submitted) -> None:
    """Let a flow run answer for a batch that others created: cancelled, it stops these jobs too."""
    store = _store(get_result_store())
    async with _index_lock:
        entries = await _read(store, _index_key(flow_run_id)) or []
        entry = submitted.model_dump(mode="json", exclude={"intent", "batch"})
        if entry not in entries:
            await store.awrite([*entries, entry], key=_index_key(flow_run_id))
    await store.awrite(submitted.batch, key=submitted.key)


async def note_once(flow_run_id: UUID, name: str, things: Sequence[str]) -> list[str]:
    """Note things under a flow run, and return those that it had not noted before."""
    store, key = _store(get_result_store()), f"tikmatrix-{flow_run_id}-{name}"
    async with _index_lock:
        noted = await _read(store, key) or []
        new = [thing for thing in things if thing not in noted]
        if new:
            await store.awrite([*noted, *new], key=key)
    return new


async def submitted_by(flow_run_id: UUID, flow: Flow[..., Any] | None) -> list[Submitted]:
    """All that a flow run is known to have submitted, or to have been about to submit."""
    store = get_result_store()
    if flow is not None:
        store = await store.aupdate_for_flow(flow)
    store = _store(store)
    submissions = []
    for entry in await _read(store, _index_key(flow_run_id)) or []:
        submitted = Submitted.model_validate(entry)
        intent = await _read(store, f"{submitted.key}-intent")
        batch = await _read(store, submitted.key)
        submissions.append(
            submitted.model_copy(
                update={
                    "intent": None if intent is None else Intent.model_validate(intent),
                    "batch": batch,
                }
            )
        )
    return submissions


def _index_key(flow_run_id: UUID) -> str:
    return f"tikmatrix-{flow_run_id}-submissions"


def _store(store: ResultStore) -> ResultStore:
    """The same storage, read anew each time: another process may have written meanwhile.

    A flow's store looks for metadata in a place of its own; here they stand with the result, as
    with a task's.
    """
    return ResultStore(
        result_storage=store.result_storage,
        serializer=JSONSerializer(),
        cache_result_in_memory=False,
    )


async def _read(store: ResultStore, key: str) -> Any:
    if not await store.aexists(key):
        return None
    return (await store.aread(key)).result
