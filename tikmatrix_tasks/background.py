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


def run_blocking(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end. An interrupt of the calling thread cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _running_loop())
    try:
        while not future.done():
            concurrent.futures.wait([future], timeout=BLOCKED_SECONDS)
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def run_awaiting(coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine that runs on the loop of this module. Cancelling the caller cancels it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _running_loop()))


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="tikmatrix-background", daemon=True
            ).start()
        return _loop
