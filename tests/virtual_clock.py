"""An event loop whose clock jumps: hours of waiting pass at once, and always the same way."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx

from tikmatrix_tasks import TikMatrixClient
from tikmatrix_tasks.simulator import Api, Dialect, Engine, Options

R = TypeVar("R")


class _NoWaiting(selectors.BaseSelector):
    """Moves the clock instead of waiting; the loop has no real file to wait for but its own."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.SelectSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled and nothing can happen any more")
        self._loop.clock += timeout
        return self._real.select(0)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = 0.0
        super().__init__(_NoWaiting(self))

    def time(self) -> float:
        return self.clock


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end on a loop of its own with a virtual clock."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_all(asyncio.all_tasks(loop)))
        loop.close()


async def _cancel_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class VirtualTikMatrix(httpx.AsyncBaseTransport):
    """The simulator's engine on the virtual clock, reached by the real client without a socket."""

    def __init__(
        self,
        options: Options | None = None,
        dialect: Dialect | None = None,
        engine: type[Engine] = Engine,
    ) -> None:
        self.engine = engine(options or Options(), asyncio.get_running_loop().time)
        self.api = Api(self.engine, dialect=dialect)
        self.closed_until = 0.0
        self.api.faults.on_refuse(self.close_for)

    def close_for(self, seconds: float) -> None:
        """Refuse connections for a while, as a program that is closed does."""
        self.closed_until = asyncio.get_running_loop().time() + seconds

    def client(self) -> TikMatrixClient:
        return TikMatrixClient(transport=self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if asyncio.get_running_loop().time() < self.closed_until:
            raise httpx.ConnectError("connection refused", request=request)
        answer = self.api.answer(
            request.method,
            request.url.path,
            request.url.query.decode(),
            await request.aread(),
        )
        await asyncio.sleep(answer.after_seconds)
        self.api.faults.refuse_if_due()
        if answer.silent or answer.missing_bytes:
            raise httpx.RemoteProtocolError("connection closed", request=request)
        return httpx.Response(answer.status, headers=list(answer.headers), content=answer.body)
