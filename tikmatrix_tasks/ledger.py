"""Keeping what was submitted in Prefect's result storage, at the moment it is known.

Prefect writes a task's result when its outermost transaction commits. Inside another task that is
after the wait, and a process killed meanwhile would have forgotten its jobs; so it is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.results import ResultStore, get_result_store
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from pydantic import BaseModel

from tikmatrix_tasks.file_lock import file_lock
from tikmatrix_tasks.intent import Intent
from tikmatrix_tasks.jobs import Batch

_unsent: set[str] = set()
_index_lock = asyncio.Lock()  # all submissions of a process run on one loop


class Submitted(BaseModel):
    """A submission of a flow run: where to, and what is known of it."""

    key: str
    base_url: str
    block_name: str | None = None
    attached: bool = False
    """An earlier run submitted it, and this one waits for its jobs."""
    intent: Intent | None = None
    batch: Batch | None = None


class RunLedger:
    """The intent and the batch of one submission, under its key.

    A flow run's submissions are listed under its id; outside a flow run there is no list.
    """

    def __init__(self, flow_run_id: UUID | None, submitted: Submitted) -> None:
        self._store = _store(get_result_store())
        self._flow_run_id = flow_run_id
        self._submitted = submitted

    @property
    def unsent(self) -> set[str]:
        return _unsent

    async def read_intent(self) -> Intent | None:
        kept = await _read(self._store, f"{self._submitted.key}-intent")
        return None if kept is None else Intent.model_validate(kept)

    async def write_intent(self, intent: Intent) -> None:
        if self._flow_run_id is not None:
            await _add_to_index(self._store, self._flow_run_id, [self._submitted])
        key = f"{self._submitted.key}-intent"
        await self._store.awrite(intent.model_dump(mode="json"), key=key)

    async def forget_intent(self) -> None:
        await self._store.awrite(None, key=f"{self._submitted.key}-intent")

    async def read_batch(self) -> Batch | None:
        kept = await _read(self._store, self._submitted.key)
        return None if kept is None else Batch.model_validate(kept)

    async def write_batch(self, batch: Batch) -> None:
        """Under the very key that Prefect looks for, so that a repeated task run is Cached."""
        await self._store.awrite(batch, key=self._submitted.key)

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Keep other processes of this machine from submitting under the same key."""
        return alone(self._submitted.key[-2:])


class Kept:
    """What earlier runs left behind, and what this one leaves to later ones."""

    def __init__(self) -> None:
        self._store = _store(get_result_store())

    async def read(self, key: str) -> Any:
        return await _read(self._store, key)

    async def write(self, key: str, value: Any) -> None:
        await self._store.awrite(value, key=key)

    async def batch(self, key: str) -> Batch | None:
        """What was submitted under a key, by whichever run."""
        kept = await _read(self._store, key)
        return None if kept is None else Batch.model_validate(kept)

    async def intent(self, key: str) -> Intent | None:
        """What was asked for under a key, or is about to be."""
        kept = await _read(self._store, f"{key}-intent")
        return None if kept is None else Intent.model_validate(kept)

    async def listed(self, flow_run_id: UUID) -> list[Submitted]:
        """What a flow run submitted, without its intents and batches."""
        entries = await _read(self._store, _index_key(flow_run_id)) or []
        return [Submitted.model_validate(entry) for entry in entries]

    async def attach(self, flow_run_id: UUID, submissions: list[Submitted]) -> None:
        """Let a run that is cancelled stop these, too."""
        await _add_to_index(self._store, flow_run_id, submissions)


def alone(name: str) -> AbstractAsyncContextManager[None]:
    """Be the only process of this machine that does something which goes by this name."""
    return file_lock(PREFECT_LOCAL_STORAGE_PATH.value() / "tikmatrix-locks" / name)


async def keep(key: str, value: Any) -> None:
    """Write the current task run's result under its own key, before Prefect does."""
    await get_result_store().awrite(value, key=key)


async def claim(flow_run_id: UUID, submitted: Submitted) -> None:
    """Let a flow run answer for a batch that others created: cancelled, it stops these jobs too."""
    store = _store(get_result_store())
    await store.awrite(submitted.batch, key=submitted.key)
    await _add_to_index(store, flow_run_id, [submitted])


async def note_once(flow_run_id: UUID, name: str, things: Sequence[str]) -> list[str]:
    """Note things under a flow run, and return those that it had not noted before."""
    store, key = _store(get_result_store()), f"tikmatrix-{flow_run_id}-{name}"
    async with _index_lock:
        noted = await _read(store, key) or []
        new = [thing for thing in things if thing not in noted]
        if new:
            await store.awrite([*noted, *new], key=key)
    return new


async def noted(flow_run_id: UUID, name: str) -> list[str]:
    """What was noted under a flow run."""
    return await _read(_store(get_result_store()), f"tikmatrix-{flow_run_id}-{name}") or []


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


async def _add_to_index(
    store: ResultStore, flow_run_id: UUID, submissions: list[Submitted]
) -> None:
    async with _index_lock:
        entries = await _read(store, _index_key(flow_run_id)) or []
        known = {entry["key"] for entry in entries}
        new = [
            submitted.model_dump(mode="json", exclude={"intent", "batch"})
            for submitted in submissions
            if submitted.key not in known
        ]
        if new:
            await store.awrite([*entries, *new], key=_index_key(flow_run_id))


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
