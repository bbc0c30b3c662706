# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP for status, metrics and health, on a Unix socket and, where asked for, on a TCP port.

Requests run in threads of their own; the document comes from a function that the service gives.
"""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any

from peer_relay import metrics

_TIMEOUT = 5.0  # seconds that a client may take
_MAX_CLIENTS = 16


class _Handler(BaseHTTPRequestHandler):
    server_version = "peer-relay"
    sys_version = ""
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path not in ("/status", "/metrics", "/healthz"):
            self._answer(404, "text/plain", b"known are /status, /metrics and /healthz\n")
            return
        try:
            status = self.server.document()
            if path == "/status":
                self._answer(200, "application/json", json.dumps(status).encode())
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition(status))
            elif status["healthy"]:
                self._answer(200, "text/plain", b"ok\n")
            else:
                self._answer(503, "text/plain", "".join(f"{problem}\n" for problem in status["problems"]).encode())
        except (TimeoutError, ImportError) as error:
            self._answer(503, "text/plain", f"{error}\n".encode())

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local" if isinstance(self.client_address, str | bytes) else str(self.client_address[0])

    def log_message(self, *_words: Any) -> None:
        """Requests are no events that a person wants in the journal."""


class _Threads(ThreadingMixIn):
    daemon_threads = True
    document: Callable[[], dict[str, Any]]
    _slots: threading.BoundedSemaphore

    def process_request(self, request: Any, client_address: Any) -> None:
        # More clients than that are not people: they are closed unheard.
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is not the relay's error."""


class _UnixServer(_Threads, UnixStreamServer):
    pass


class _TcpServer(_Threads, TCPServer):
    allow_reuse_address = True


def _start(server: _Threads, document: Callable[[], dict[str, Any]]) -> None:
    server.document = document
    server._slots = threading.BoundedSemaphore(_MAX_CLIENTS)
    threading.Thread(target=_serve, args=(server,), name="status", daemon=True).start()


def _serve(server: _Threads) -> None:
    """Accept until the listening socket is shut down, which ends this at once (serve_forever would take its time)."""
    while True:
        try:
            request, address = server.get_request()
        except OSError:
            return
        server.process_request(request, address)


class StatusServer:
    """The listeners for status; `close` ends them."""

    def __init__(self, unix: Path, tcp: tuple[str, int] | None, document: Callable[[], dict[str, Any]]):
        """Listen; raise OSError with the address in `filename`."""
        self._unix = unix
        self._servers: list[_UnixServer | _TcpServer] = []
        try:
            _remove_stale(unix)
            server = _UnixServer(str(unix), _Handler)
            # The group of the socket's directory may ask; the rest of the host may not.
            unix.chmod(0o660)
            self._servers.append(server)
            if tcp:
                kind = type("_", (_TcpServer,), {"address_family": socket.AF_INET6}) if ":" in tcp[0] else _TcpServer
                self._servers.append(kind(tcp, _Handler))
        except OSError as error:
            failed = str(unix) if not self._servers else f"metrics_listen {tcp}"
            self.close()
            raise OSError(error.errno, error.strerror, failed) from error
        for server in self._servers:
            _start(server, document)

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
