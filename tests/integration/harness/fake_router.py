# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router that answers as a test says: for answers that the real daemon never gives."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator

from harness.netns import Namespace

# What to send back for a datagram, and from where: None is the address that was asked, or another of the host's own.
Answers = list[tuple[bytes, tuple[str, int] | None]]
OnDatagram = Callable[[bytes], Answers]
OnRequest = Callable[[bytes, str], bytes | Iterator[bytes]]  # (request line, SOAP action) -> the whole response


def response(body: str, status: str = "200 OK", headers: str = "") -> bytes:
    content = body.encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content


class FakeRouter:
    """Sockets in a namespace and one thread for the datagrams, one more for each connection."""

    def __init__(self, namespace: Namespace):
        self._namespace = namespace
        self._selector = selectors.DefaultSelector()
        self._stopped = threading.Event()
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def on_udp(self, address: str, port: int, answer: OnDatagram) -> None:
        with self._namespace.inside():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
        self._selector.register(made, selectors.EVENT_READ, lambda: self._datagram(made, answer))

    def on_http(self, address: str, port: int, answer: OnRequest) -> None:
        with self._namespace.inside():
            made = socket.create_server((address, port))
        self._selector.register(made, selectors.EVENT_READ, lambda: self._connection(made, answer))

    def _run(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(0.05):
                key.data()

    def _datagram(self, asked: socket.socket, answer: OnDatagram) -> None:
        data, source = asked.recvfrom(2048)
        for reply, address in answer(data):
            if address is None:
                asked.sendto(reply, source)
                continue
            with self._namespace.inside(), socket.socket(asked.family, socket.SOCK_DGRAM) as other:
                other.bind(address)
                other.sendto(reply, source)

    def _connection(self, listener: socket.socket, answer: OnRequest) -> None:
        self.connections += 1
        threading.Thread(target=self._serve, args=(listener.accept()[0], answer), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket, answer: OnRequest) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            head = request.partition(b"\r\n\r\n")[0].decode(errors="replace")
            action = next((line for line in head.splitlines() if line.lower().startswith("soapaction:")), "")
            reply = answer(head.splitlines()[0].encode(), action)
            for part in [reply] if isinstance(reply, bytes) else reply:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            while connection.recv(65536):
                pass

    def __enter__(self) -> FakeRouter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
