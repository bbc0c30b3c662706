# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routers that say that a packet was too large (RFC 1191, RFC 8201): the kernel learns from them and announces nothing.

Anybody can send such a message. So it is only a hint that the path MTU, which the kernel has judged by itself, may be
another one now.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from typing import NamedTuple

from peer_relay import addresses

_SO_ATTACH_FILTER = 26
_AT_ONCE = 64  # messages of one socket between two looks at the others
_MAX_LENGTH = 128  # bytes that matter of a message: its header, and those of the packet that was too large
_ICMP_SIZE = 8

# Classic BPF (linux/filter.h)
_LOAD_IP_HEADER_SIZE, _LOAD_X, _LOAD_BYTE, _LOAD_HALF = 0xB1, 0x01, 0x50, 0x48
_JUMP_EQUAL, _RETURN = 0x15, 0x06


class _Version(NamedTuple):
    """The message, and where the packet inside it has what matters."""

    family: socket.AddressFamily
    icmp: int
    type_and_code: int
    protocol: int
    destination: int
    udp: int


_VERSIONS = (
    _Version(socket.AF_INET, socket.IPPROTO_ICMP, 0x0304, 9, 16, 20),
    _Version(socket.AF_INET6, socket.IPPROTO_ICMPV6, 0x0200, 6, 24, 40),
)


def _listen(version: _Version) -> socket.socket:
    """Return a socket that receives these messages about UDP packets without options, and nothing else."""
    # IPv4 raw sockets see the IP header, IPv6 ones do not. X: where ICMP begins.
    begin = (_LOAD_IP_HEADER_SIZE, 0, 0, 0) if version.family == socket.AF_INET else (_LOAD_X, 0, 0, 0)
    program = [
        begin,
        (_LOAD_HALF, 0, 0, 0),
        (_JUMP_EQUAL, 0, 3, version.type_and_code),
        (_LOAD_BYTE, 0, 0, _ICMP_SIZE + version.protocol),
        (_JUMP_EQUAL, 0, 1, socket.IPPROTO_UDP),
        (_RETURN, 0, 0, _MAX_LENGTH),
        (_RETURN, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    made = socket.socket(version.family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, version.icmp)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
    except OSError:
        made.close()
        raise
    return made


def _destination(version: _Version, message: bytes) -> bytes | None:
    """Return where the packet was to go, as an address with port; None when the message is cut off before that."""
    begin = (message[0] & 0xF) * 4 if version.family == socket.AF_INET else 0
    packet = message[begin + _ICMP_SIZE :]
    port = packet[version.udp + 2 : version.udp + 4]
    if len(port) < 2:
        return None
    return addresses.join(packet[version.destination : version.udp], int.from_bytes(port, "big"))


class TooBig:
    """What routers say of the UDP packets of this host."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self._sockets: list[tuple[_Version, socket.socket]] = []
            for version in _VERSIONS:
                try:
                    self._sockets.append((version, opened.enter_context(_listen(version))))
                except OSError as error:
                    if error.errno != errno.EAFNOSUPPORT:  # a host without IPv6
                        raise
            self._resources = opened.pop_all()

    def close(self) -> None:
        """Close the sockets."""
        self._resources.close()

    def filenos(self) -> list[int]:
        """Return the file descriptors, for polling."""
        return [sock.fileno() for _, sock in self._sockets]

    def destinations(self) -> set[bytes]:
        """Return where packets were too large for, as addresses with port; there may be more."""
        found: set[bytes] = set()
        for version, sock in self._sockets:
            with contextlib.suppress(OSError):  # nothing more there
                for _ in range(_AT_ONCE):
                    destination = _destination(version, sock.recv(_MAX_LENGTH))
                    if destination:
                        found.add(destination)
        return found
