# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay that was taken over, or somebody on the path: answers a device's end of the fallback with floods.

python hostile_bridge.py KIND CERTIFICATE KEY
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable

_PORT = 443
_BLOCK = 65536
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    return bytes([first]) + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + payload


def _many(frame: bytes) -> bytes:
    return frame * (_BLOCK // len(frame) + 1)


def _accept(request: bytes) -> bytes:
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    digest = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    upgrade = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return upgrade + b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n"


def _begun(data: bytes) -> Callable[[bytes], tuple[bytes, bytes]]:
    return lambda request: (_accept(request), data)


# What is answered once, and then over and over.
KINDS: dict[str, Callable[[bytes], tuple[bytes, bytes]]] = {
    "a header line without end": lambda _: (b"HTTP/1.1 101 Yes\r\nX: ", b"A" * _BLOCK),
    "header lines without end": lambda _: (b"HTTP/1.1 101 Yes\r\n", _many(b"X: y\r\n")),
    "a body without end": lambda _: (b"HTTP/1.1 200 Fine\r\n\r\n", bytes(_BLOCK)),
    "a long body": lambda _: (b"HTTP/1.1 404 No\r\nContent-Length: 99999999999\r\n\r\n", bytes(_BLOCK)),
    "pings": _begun(_many(_frame(0x89, bytes(125)))),
    "crumbs": _begun(_many(_frame(0x82, b"x"))),
    "fragments without end": _begun(_frame(0x02, bytes(1000)) + _many(_frame(0x00, bytes(1000)))),
    "a message of 2^63 bytes": _begun(b"\x82\x7f\x7f" + b"\xff" * 7 + bytes(_BLOCK)),
    "datagrams of 9216 bytes": _begun(_many(_frame(0x82, bytes(9216)))),
}


def _serve(raw: socket.socket, context: ssl.SSLContext, kind: str) -> None:
    """Nothing is read but the request."""
    with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as line:
        line.settimeout(10)
        first, again = KINDS[kind](line.recv(4096))
        line.sendall(first)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            line.sendall(again)


def main(kind: str, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("", _PORT)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, context, kind), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
