"""The simulator on a port of this machine: `Simulator`."""

from __future__ import annotations

import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tikmatrix_tasks.simulator.api import Answer, Api
from tikmatrix_tasks.simulator.endpoints import PREFIX
from tikmatrix_tasks.simulator.engine import Engine
from tikmatrix_tasks.simulator.faults import Faults
from tikmatrix_tasks.simulator.jobs import Job
from tikmatrix_tasks.simulator.options import Dialect, Options
from tikmatrix_tasks.simulator.request_log import Request, RequestLog
from tikmatrix_tasks.simulator.state_file import damaged, read_state, write_state

HOST = "127.0.0.1"

_KEEP_STATE_EVERY_SECONDS = 0.5
_LARGEST_BODY = 32 * 1024 * 1024


class Simulator:
    """A TikMatrix without phones, for as long as the `with` block lasts.

    `close` and `start` are the program being closed and opened: jobs stay, runs wait. With a
    `state_file` they also outlive this process: it is read on the first start, and written before
    a call that changes something is answered, soon after anything else changes, and on `close`.

    Raises:
        OSError: the port is in use, or the state file's folder is not there.
        StateFileError: the state file is damaged.
    """

    def __init__(
        self,
        options: Options | None = None,
        dialect: Dialect | None = None,
        *,
        port: int = 0,
        state_file: Path | None = None,
        on_request: Callable[[Request], None] | None = None,
    ) -> None:
        self.options = options or Options()
        self.port = port
        """0 until the first start means any free port; the same from then on."""
        self.state_file = state_file
        if state_file is not None and not state_file.parent.is_dir():
            raise FileNotFoundError(f"state file: there is no folder {state_file.parent}")
        self.engine = self._new_engine()
        self.faults = Faults()
        self.api = Api(self.engine, self.faults, dialect, on_request)
        self._closing = threading.Event()
        self._closing.set()
        self._listener: _Listener | None = None
        self._reopening: threading.Timer | None = None
        self._port_lock = threading.RLock()
        self._state_lock = threading.Lock()
        self._saved_changes = self.engine.changes

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}{PREFIX}"

    @property
    def jobs(self) -> list[Job]:
        """All jobs as they are now, oldest first, without those of `engine.add_history`."""
        return self.engine.jobs

    @property
    def requests(self) -> RequestLog:
        return self.api.requests

    def start(self) -> Simulator:
        """Open the program. Does nothing if it is open."""
        if not self._closing.is_set():
            return self
        with self._port_lock:
            self._listen()
            self._closing = threading.Event()
        self.engine.resume(datetime.now())
        self.faults.on_refuse(self._refuse)
        if self.state_file is not None:
            self._save()
            threading.Thread(target=self._keep_state, args=(self._closing,), daemon=True).start()
        return self

    def close(self) -> None:
        """Close the program: calls that hang end, connections too, phones stand still."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.faults.on_refuse(None)
        with self._port_lock:
            if self._reopening is not None:
                self._reopening.cancel()
                self._reopening = None
            self._stop_listening()
        self.engine.pause()
        self._save()

    def serve_forever(self) -> None:
        """Stay open until `close` or Ctrl-C."""
        try:
            self.start()
            while not self._closing.wait(0.25):  # Windows sees Ctrl-C only between waits
                pass
        except KeyboardInterrupt:
            pass
        finally:
            self.close()

    def _new_engine(self) -> Engine:
        opened_at = time.monotonic()
        speed = self.options.speed

        def clock() -> float:
            return (time.monotonic() - opened_at) * speed

        state = read_state(self.state_file) if self.state_file else None
        if state is None or self.state_file is None:
            engine = Engine(self.options, clock, datetime.now())
        else:
            try:
                engine = Engine.from_state(state, self.options, clock)
            except ValueError as err:
                raise damaged(self.state_file, str(err)) from err
        engine.pause()
        return engine

    # The port

    def _listen(self) -> None:
        try:
            listener = _Listener((HOST, self.port), self)
        except OSError as err:
            raise OSError(
                err.errno,
                f"cannot listen on port {self.port} of {HOST} ({err.strerror}): is it in use by"
                " TikMatrix or another simulator?",
            ) from err
        self.port = listener.server_address[1]
        self._listener = listener
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener.end_connections()
            self._listener = None

    def _refuse(self, seconds: float) -> None:
        with self._port_lock:
            if self._closing.is_set():
                return
            self._stop_listening()
            self._listen_again_in(seconds)

    def _listen_again_in(self, seconds: float) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = threading.Timer(seconds, self._listen_again)
        self._reopening.daemon = True
        self._reopening.start()

    def _listen_again(self) -> None:
        with self._port_lock:
            if self._closing.is_set() or self._listener is not None:
                return
            try:
                self._listen()
            except OSError:  # someone took the port meanwhile
                self._listen_again_in(0.2)

    # One request

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Used by the connections: do the work, keep the state, hold the call if a fault says so.

        A call that is held ends without an answer when the simulator closes.
        """
        url = urlsplit(target)
        answer = self.api.answer(method, url.path, url.query, body)
        if method != "GET":
            self._save()
        if answer.after_seconds > 0:
            self._closing.wait(answer.after_seconds)
        return answer

    # The state file

    def _keep_state(self, closing: threading.Event) -> None:
        while not closing.wait(_KEEP_STATE_EVERY_SECONDS):
            self.engine.advance()
            self._save()

    def _save(self) -> None:
        if self.state_file is None:
            return
        with self._state_lock:
            changes = self.engine.changes
            if changes != self._saved_changes:
                write_state(self.state_file, self.engine.to_state())
                self._saved_changes = changes


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One thread per connection; can end all of them. `shutdown` frees the port within 20 ms."""

    daemon_threads = True
    request_queue_size = 128
    # Elsewhere it lets a port be taken again right away; on Windows, be taken by two at once.
    allow_reuse_address = os.name == "posix"

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(address, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):  # the client was quicker
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "TikMatrixSimulator"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together

    def handle_any(self) -> None:
        body = self._read_body()
        if body is None:
            return
        simulator = self.server.simulator
        self._send(simulator.answer(self.command, self.path, body))
        simulator.faults.refuse_if_due()

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit():
            self.send_error(411)
        elif int(length) > _LARGEST_BODY:
            self.send_error(413)
        else:
            return self.rfile.read(int(length))
        return None

    def _send(self, answer: Answer) -> None:
        self.close_connection = self.close_connection or answer.silent or answer.missing_bytes > 0
        if answer.silent:
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + answer.missing_bytes))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are reported through `on_request`, without what they hold."""
