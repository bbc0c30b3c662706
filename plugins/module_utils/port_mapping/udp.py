# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request, one answer, by UDP."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

from .deadline import left
from .mapping import Malformed, MappingError, Unreachable

T = TypeVar("T")

_MAX_DATAGRAM = 1500  # octets of a datagram that is looked at; no protocol here has longer ones
# RFC 6886's, for all: three seconds, as in RFC 6887, are long for a router that is one cable away.
_FIRST_WAIT = 0.25
_MAX_STRANGE = 1000  # datagrams that are no answer


def exchange(
    address: str, port: int, request: bytes, read: Callable[[bytes], T], *, patience: float, source: str = ""
) -> T:
    """Send the request until it is answered, for at most `patience` seconds; return what `read` makes of the answer.

    Datagrams for which `read` raises Malformed are passed over: anybody can send one. The socket is connected, so that
    the kernel drops all that do not come from this very address and port.
    """
    problem: MappingError = Unreachable(f"{address} does not answer on UDP port {port}")
    with _connected(address, port, source) as sock:
        strange = 0
        deadline, wait = time.monotonic() + left(patience), _FIRST_WAIT
        while (now := time.monotonic()) < deadline and strange < _MAX_STRANGE:
            try:
                sock.send(request)
                resend, wait = min(now + wait, deadline), wait * 2
                while (rest := resend - time.monotonic()) > 0 and strange < _MAX_STRANGE:
                    sock.settimeout(rest)
                    datagram = sock.recv(_MAX_DATAGRAM)
                    try:
                        return read(datagram)
                    except Malformed as error:
                        strange += 1
                        problem = Malformed(f"{address}: {error}")
                    except Unreachable as error:
                        raise Unreachable(f"{address} {error}") from error
            except TimeoutError:
                continue
            except ConnectionRefusedError as error:
                raise Unreachable(f"{address}: nothing listens on UDP port {port}") from error
            except OSError as error:
                raise Unreachable(f"{address}: UDP port {port}: {error.strerror}") from error
    raise problem


def _connected(address: str, port: int, source: str) -> socket.socket:
    try:
        # Also takes the zone of a link-local address, as in fe80::1%eth0.
        family, kind, _protocol, _name, target = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        sock = socket.socket(family, kind)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect(target)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise Unreachable(f"{address}: {error.strerror}") from error
    return sock
