# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request to a router: plain, to its own address, bounded in time and size, never redirected."""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from .address import parse_address
from .mapping import Malformed, Unreachable

_MOST_BYTES = 300 * 1024  # headers included
_SECONDS = 5.0  # for the whole exchange, however slowly its bytes drip
_PATH = re.compile(r"/[!-~]*")  # what cannot end the request line


class Url(NamedTuple):
    """Where on the router."""

    host: str  # an address, with its zone when it is link-local
    port: int
    path: str

    def __str__(self) -> str:
        return f"http://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        address = self.host.partition("%")[0]  # a zone means nothing to the other side
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


def same_host(one: str, other: str) -> bool:
    """Tell whether two texts are the same address, zones aside."""
    try:
        return parse_address(one.partition("%")[0]) == parse_address(other.partition("%")[0])
    except ValueError:
        return False


def url(address: str, host: str, base: str = "") -> Url:
    """Return where `address`, relative to `base` or absolute, is on `host`; refuse any other host.

    An IPv6 router has several addresses and names any of them: the host that answered is the one that is talked to.
    """
    try:
        parts = urlsplit(urljoin(base, address))
        name, port = parts.hostname or "", parts.port or 80
        is_ipv6 = parse_address(name.partition("%")[0]).version == 6
    except ValueError as error:
        raise Malformed(f"the router {host} names a URL that is none or has no address: {address[:200]!r}") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "http" or not _PATH.fullmatch(path):
        raise Malformed(f"the router {host} names a URL that is not plain http: {address[:200]!r}")
    if not same_host(name, host) and not (is_ipv6 and ":" in host):
        raise Malformed(f"the router {host} sends us to another host, which is never followed: {address[:200]!r}")
    return Url(host, port, path)


class _Bounded(io.RawIOBase):
    """The stream of a socket that ends in time and size."""

    def __init__(self, sock: socket.socket, host: str, deadline: float):
        self._sock = sock
        self._host = host
        self._deadline = deadline
        self._left = _MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if self._left <= 0:
            raise Malformed(f"the router {self._host} answers with more than {_MOST_BYTES} bytes")
        self._sock.settimeout(_left(self._deadline))
        count = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def exchange(where: Url, source: str, method: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """Send one request from the own address `source` and return the status and the body of the answer."""
    deadline = time.monotonic() + _SECONDS
    fields = {"Host": where.authority, "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = f"{method} {where.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    try:
        with socket.create_connection((where.host, where.port), _SECONDS, (source, 0)) as sock:
            sock.settimeout(_left(deadline))
            sock.sendall(head.encode("ascii") + b"\r\n" + body)  # in one piece: some routers read only once
            return _receive(io.BufferedReader(_Bounded(sock, where.host, deadline)))
    except (http.client.HTTPException, ValueError) as error:
        raise Malformed(f"the router {where.host} answers {where} with broken HTTP: {error!r}") from error
    except OSError as error:
        raise Unreachable(f"the router {where.host} does not answer {where}: {error}") from error


def fetch(where: Url, source: str) -> bytes:
    """Return the document at a URL."""
    status, body = exchange(where, source, "GET", {})
    if status != 200:
        raise Malformed(f"the router {where.host} answers {where} with the HTTP status {status}")
    return body


def _receive(stream: io.BufferedReader) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(SimpleNamespace(makefile=lambda *_: stream))
    response.begin()
    # Reading with a size: without one, an announced length is allocated before it is read.
    body = response.read(_MOST_BYTES)
    return response.status, body
