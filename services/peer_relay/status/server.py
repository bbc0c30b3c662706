# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP for status, metrics and health, on a Unix socket and, where asked for, on a TCP port.

Requests run in threads of their own; what they tell comes from functions that the service gives. Whoever connects can
hold a thread for a while, and never keep others out: a newcomer takes the place of who has been there longest.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any

from peer_relay.status.snapshots import Snapshot

log = logging.getLogger("peer_relay")

_SILENCE = 5.0  # seconds that a client may take to send or to take something
_DEADLINE = 30.0  # seconds that a connection may last, however busy it is
_MAX_CLIENTS = 16
_MAX_THREADS = 32  # with those whose clients have lost their place, and which wait for the loop
_MAX_CLIENTS_OF_ONE = 4  # of one address, at the TCP port
_MAX_REQUEST = 16384  # bytes with all headers
_PIECE = 1 << 16
_LOOK = 1.0  # seconds between two looks at connections that have lasted too long

Ask = Callable[[], Snapshot]


class _Request(io.BufferedIOBase):
    """What a client sends, and no more than a request may have: then it seems to end."""

    def __init__(self, stream: Any):
        self._stream, self._left = stream, _MAX_REQUEST

    def readline(self, size: int | None = -1) -> bytes:
        line = self._stream.readline(self._left if size is None or size < 0 else min(size, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "peer-relay"
    sys_version = ""
    timeout = _SILENCE

    def setup(self) -> None:
        super().setup()
        self.rfile = _Request(self.rfile)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        try:
            if path == "/status":
                self._answer(200, "application/json", self.server.status().json())
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", self.server.status().metrics())
            elif path == "/healthz":
                health = self.server.health().document
                if health["healthy"]:
                    self._answer(200, "text/plain", b"ok\n")
                else:
                    self._answer(503, "text/plain", "".join(f"{text}\n" for text in health["problems"]).encode())
            else:
                self._answer(404, "text/plain", b"known are /status, /metrics and /healthz\n")
        except (TimeoutError, ImportError) as error:
            self._answer(503, "text/plain", f"{error}\n".encode())

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), _PIECE):  # each may take its time, not all of them together
            self.wfile.write(body[start : start + _PIECE])

    def address_string(self) -> str:
        return "local" if isinstance(self.client_address, str | bytes) else str(self.client_address[0])

    def log_message(self, *_words: Any) -> None:
        """Requests are no events that a person wants in the journal."""


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    status: Ask
    health: Ask
    max_of_one_host = _MAX_CLIENTS

    def begin(self, status: Ask, health: Ask) -> None:
        """Serve in a thread until the listening socket is shut down."""
        self.status, self.health = status, health
        self._clients: dict[socket.socket, tuple[Any, float]] = {}  # their host and until when, the oldest first
        self._lock = threading.Lock()
        self._rooms = threading.BoundedSemaphore(_MAX_THREADS)
        self._told: set[str] = set()
        self.socket.settimeout(_LOOK)
        threading.Thread(target=self._serve, name="status", daemon=True).start()

    def _serve(self) -> None:
        """Accept until the listening socket is shut down, which ends this at once (serve_forever takes its time)."""
        while True:
            try:
                request, address = self.get_request()
            except TimeoutError:
                self._end_overdue()
                continue
            except OSError:
                return
            self._end_overdue()
            self.process_request(request, address)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        with self._lock:
            for request, (_, until) in list(self._clients.items()):
                if now < until:
                    return
                self._hang_up(request)

    def _hang_up(self, request: socket.socket) -> None:
        """End a connection; its thread notices."""
        self._clients.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._rooms.acquire(blocking=False):
            super().shutdown_request(request)
            return
        host = client_address[0] if isinstance(client_address, tuple) else None
        with self._lock:
            others = [other for other, (known, _) in self._clients.items() if known == host]
            if len(others) >= self.max_of_one_host:
                self._hang_up(others[0])
            elif len(self._clients) >= _MAX_CLIENTS:
                self._hang_up(next(iter(self._clients)))
            self._clients[request] = host, time.monotonic() + _DEADLINE
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._rooms.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._rooms.release()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is not the relay's error; anything else is told once."""
        error = sys.exc_info()[1]
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, OSError) and text not in self._told and len(self._told) < _MAX_CLIENTS:
            self._told.add(text)
            log.exception("a request for the status failed")


class _UnixServer(_Server, UnixStreamServer):
    pass


class _TcpServer(_Server):
    allow_reuse_address = True
    max_of_one_host = _MAX_CLIENTS_OF_ONE


class _Tcp6Server(_TcpServer):
    address_family = socket.AF_INET6


class StatusServer:
    """The listeners for status; `close` ends them."""

    def __init__(self, unix: Path, tcp: tuple[str, int] | None, status: Ask, health: Ask):
        """Listen; raise OSError with the address in `filename`."""
        self._unix = unix
        self._servers: list[_Server] = []
        try:
            _remove_stale(unix)
            local = _UnixServer(str(unix), _Handler)
            # The group of the socket's directory may ask; the rest of the host may not.
            unix.chmod(0o660)
            self._servers.append(local)
            if tcp:
                self._servers.append((_Tcp6Server if ":" in tcp[0] else _TcpServer)(tcp, _Handler))
        except OSError as error:
            failed = str(unix) if not self._servers else f"metrics_listen {tcp}"
            self.close()
            raise OSError(error.errno, error.strerror, failed) from error
        for server in self._servers:
            server.begin(status, health)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.socket.shutdown(socket.SHUT_RDWR)
            server.server_close()
        if self._servers:
            self._unix.unlink(missing_ok=True)


def _remove_stale(unix: Path) -> None:
    """Remove the socket of a service that was killed, but not that of one that still answers."""
    try:
        if not stat.S_ISSOCK(unix.stat().st_mode):
            raise FileExistsError(17, "is in the way and is not a socket", str(unix))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(unix))
        except OSError:
            unix.unlink(missing_ok=True)
            return
    raise FileExistsError(98, "another relay answers on it: stop it first", str(unix))
