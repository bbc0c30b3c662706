# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stranger who floods the relay's fallback with what is well-formed as far as it goes, from a process of its own.

python fallback_flood.py KIND ADDRESS SECONDS SOURCE...    prints (connections made, MB sent) as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator

_PORT = 443
_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
_BLOCK = 65536  # bytes that are sent at once


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


def _many(frame: bytes) -> bytes:
    return frame * (_BLOCK // len(frame) + 1)


class _Line:
    """One connection. Nothing is ever read but the answer to the handshake."""

    def __init__(self, address: str, source: str):
        self.sent = 0
        self._raw = socket.create_connection((address, _PORT), 5, (source, 0))
        self._tls: ssl.SSLSocket | None = None

    def tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_socket(self._raw)

    def websocket(self) -> None:
        self.tls()
        self.send(_REQUEST + b"\r\n")
        self._tls.recv(4096)

    def send(self, data: bytes) -> None:
        (self._tls or self._raw).sendall(data)
        self.sent += len(data)

    def close(self) -> None:
        (self._tls or self._raw).close()


Play = Callable[[_Line], Iterator[bytes]]


def _ever(data: bytes, pause: float = 0) -> Iterator[bytes]:
    while True:
        yield data
        time.sleep(pause)


def _tcp_only(line: _Line) -> Iterator[bytes]:
    yield from _ever(b"", 0.2)


def _tls_without_end(line: _Line) -> Iterator[bytes]:
    yield b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"  # a hello of 16 kB, and then some
    yield from _ever(bytes(100), 0.05)


def _noise(line: _Line) -> Iterator[bytes]:
    yield from _ever(os.urandom(_BLOCK))


def _connections(line: _Line) -> Iterator[bytes]:
    line.tls()
    yield b""


def _header_line(line: _Line) -> Iterator[bytes]:
    line.tls()
    yield b"GET / HTTP/1.1\r\nX: "
    yield from _ever(b"A" * _BLOCK)


def _header_lines(line: _Line) -> Iterator[bytes]:
    line.tls()
    yield _REQUEST
    yield from _ever(_many(b"X: y\r\n"))


def _header_slowly(line: _Line) -> Iterator[bytes]:
    line.tls()
    yield _REQUEST + b"X: "
    yield from _ever(b"A", 0.05)


def _frames(data: bytes, pause: float = 0) -> Play:
    def play(line: _Line) -> Iterator[bytes]:
        line.websocket()
        yield from _ever(data, pause)

    return play


def _fragments(line: _Line) -> Iterator[bytes]:
    line.websocket()
    yield _frame(0x02, bytes(1000))
    yield from _ever(_many(_frame(0x00, bytes(1000))))


def _half_a_frame(line: _Line) -> Iterator[bytes]:
    line.websocket()
    yield _frame(0x82, bytes(9216))[:-1]
    yield from _ever(b"", 0.2)


KINDS: dict[str, Play] = {
    "a connection, and nothing": _tcp_only,
    "TLS without end": _tls_without_end,
    "noise instead of TLS": _noise,
    "connections": _connections,
    "a header line without end": _header_line,
    "header lines without end": _header_lines,
    "a header, byte by byte": _header_slowly,
    "pings, answers not read": _frames(_many(_frame(0x89, bytes(125)))),
    "pings, few at a time": _frames(_frame(0x89, bytes(125)), 0.1),
    "empty messages": _frames(_many(_frame(0x82, b""))),
    "crumbs": _frames(_many(_frame(0x82, b"x"))),
    "a message of 2^63 bytes": _frames(b"\x82\xff\x7f" + b"\xff" * 7 + bytes(_BLOCK)),
    "fragments without end": _fragments,
    "pings between fragments": _frames(_many(_frame(0x02, b"x") + _frame(0x89, b"x") + _frame(0x00, b"x"))),
    "half a message": _half_a_frame,
    "datagrams of 9216 bytes": _frames(_many(_frame(0x82, b"\x04" + bytes(9215)))),
    "datagrams of 32 bytes": _frames(_many(_frame(0x82, b"\x04" + bytes(31)))),
}


def _flood(play: Play, address: str, source: str, until: float, counts: list[int]) -> None:
    """Play it again and again."""
    while time.monotonic() < until:
        line = None
        with contextlib.suppress(OSError):
            line = _Line(address, source)
            line._raw.settimeout(1)
            for data in play(line):
                line.send(data)
                if time.monotonic() > until:
                    break
        if line is None:
            time.sleep(0.02)  # refused: too many from this address
        else:
            counts[0] += 1
            counts[1] += line.sent
            line.close()


def main(kind: str, address: str, seconds: str, *sources: str) -> None:
    until = time.monotonic() + float(seconds)
    counts = [[0, 0] for _ in sources]
    threads = [
        threading.Thread(target=_flood, args=(KINDS[kind], address, source, until, count))
        for source, count in zip(sources, counts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps((sum(count[0] for count in counts), round(sum(count[1] for count in counts) / 1e6, 1))))


if __name__ == "__main__":
    main(*sys.argv[1:])
