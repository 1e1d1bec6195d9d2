"""A Prefect server of our own on loopback, for the demo and the tests: started, used, ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

_lock = threading.Lock()
_named_ports: set[int] = set()  # whoever was told one may not have opened it yet

START_SECONDS = 180.0  # it starts in about 8 s; on a very busy machine 85 s were seen


def quiet_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment without the user's own Prefect settings, and with its home in `home`."""
    kept = {name: value for name, value in environment.items() if not name.startswith("PREFECT_")}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # it would report to the internet
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "NO_PROXY": "127.0.0.1,localhost",  # what is on this machine is not to go through a proxy
        "no_proxy": "127.0.0.1,localhost",
    }


@contextmanager
def prefect_server(environment: Mapping[str, str], home: Path) -> Iterator[str]:
    """Serve Prefect's API and UI on a free port, and yield the address without `/api`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603 (this interpreter, fixed arguments)
            [sys.executable, "-m", *server_arguments(port)],
            env={**environment, "PREFECT_UI_API_URL": f"{address}/api"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until_healthy(address, log, lambda: server.poll() is None)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def server_arguments(port: int) -> list[str]:
    """What follows `python -m` to serve Prefect.

    It is uvicorn itself, not `prefect server start`: ending that on Windows leaves uvicorn behind.
    """
    return [
        *("uvicorn", "--factory", "--log-level", "error", "--host", "127.0.0.1"),
        *("--port", str(port), "prefect.server.api.server:create_app"),
    ]


def until_healthy(address: str, log: Path, runs: Callable[[], bool]) -> None:
    """Wait until Prefect's server at an address answers, as long as it runs.

    Raises:
        RuntimeError: it did not start, with the end of its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and runs():
        try:
            answer = httpx.get(f"{address}/api/health", timeout=2, trust_env=False)
        except httpx.HTTPError:
            time.sleep(0.2)
            continue
        if answer.status_code == 200:
            return
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise RuntimeError(f"Prefect's server did not start; its log ends with:\n{last}")


def free_port() -> int:
    """A port of 127.0.0.1 that was free just now, and that this process has not named before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        with _lock:
            if port not in _named_ports:
                _named_ports.add(port)
                return port
