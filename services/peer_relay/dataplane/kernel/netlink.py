# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages of the family `route`: requests, answers, attributes."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, REPLACE, EXCLUSIVE, CREATE, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_ERROR, _DONE = 2, 3
_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_BUFFER = 1 << 16


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload).ljust(-(-len(payload) // 4) * 4 + 4, b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by kind; stops where the data is not whole."""
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= size <= len(data) - offset:
            break
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + size]
        offset += -(-size // 4) * 4
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return (kind, sequence number, payload) of each message in a datagram; stops where the data is not whole."""
    offset = 0
    while offset + _HEAD.size <= len(data):
        size, kind, _, sequence, _ = _HEAD.unpack_from(data, offset)
        if not _HEAD.size <= size <= len(data) - offset:
            break
        yield kind, sequence, data[offset + _HEAD.size : offset + size]
        offset += -(-size // 4) * 4


class Connection:
    """Asks the kernel, and waits for its answer (which it gives before `send` returns)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(5)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        """Send a request and return the answers' payloads; raise OSError when the kernel refuses."""
        self._sequence += 1
        flags |= REQUEST if flags & DUMP == DUMP else REQUEST | ACK
        self._socket.send(_HEAD.pack(_HEAD.size + len(payload), kind, flags, self._sequence, 0) + payload)
        answers: list[bytes] = []
        while True:
            for answer, sequence, content in messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue  # of a request that was given up
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers
                if answer == _DONE:
                    return answers
                answers.append(content)
