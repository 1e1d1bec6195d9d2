"""One event loop per process, on a thread of its own, that all talk with TikMatrix runs on.

Blocking and asynchronous callers share it: the logic is written once, as coroutines. A caller that
blocks does so in short pieces, because on Windows an interrupt arrives only between blocking calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

BLOCKED_SECONDS = 0.5
"""The longest piece that a caller blocks for."""
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_under_way: set[concurrent.futures.Future[Any]] = set()
_closed = False


def run_blocking(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end. An interrupt of the calling thread cancels it."""
    future = _start(coroutine)
    try:
        while not future.done():
            concurrent.futures.wait([future], timeout=BLOCKED_SECONDS)
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def run_awaiting(coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine that runs on the loop of this module. Cancelling the caller cancels it."""
    return await asyncio.wrap_future(_start(coroutine))


def close() -> None:
    """Cancel what is under way and refuse what comes: this process is about to end.

    Threads that block in `run_blocking` wake up with `concurrent.futures.CancelledError`.
    """
    global _closed
    with _lock:
        _closed = True
        under_way = list(_under_way)
    for future in under_way:
        future.cancel()


def _start(coroutine: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
    global _loop
    with _lock:
        if _closed:
            coroutine.close()
            raise concurrent.futures.CancelledError("the flow run was cancelled")
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="tikmatrix-background", daemon=True
            ).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, _loop)
        _under_way.add(future)
    future.add_done_callback(_under_way.discard)
    return future
