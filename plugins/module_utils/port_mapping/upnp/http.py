# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request to a router: plain, to its own address, bounded in time and size, never redirected."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from urllib.parse import urljoin, urlsplit

from ..address import IPAddress, parse_address, same_host
from ..deadline import left
from ..mapping import Malformed, Unreachable
from .oddities import note

_MAX_BYTES = 300 * 1024  # headers included
_SECONDS = 5.0  # for the whole exchange, however slowly its bytes drip
_AFTERWARDS = 0.3  # seconds to wait for what may follow the announced length
_PIECE = 65536
_PATH = re.compile(r"/[!-~]*")  # what cannot end the request line
# The end of a description or of a SOAP message, which is all that is asked for.
_END = re.compile(rb"</(?:[A-Za-z][\w.-]{0,30}:)?(?:root|Envelope)[ \t\r\n]*>")
_MAX_END_LENGTH = 80


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


def url(address: str, host: str, base: str = "") -> Url:
    """Return where `address`, relative to `base` or absolute, is on `host`; refuse any other host.

    An IPv6 router has several addresses and names any of them, and some routers name themselves ::1 or 169.254.x.x: the
    host that answered is the one that is talked to.
    """
    try:
        parts = urlsplit(urljoin(base, address))
        name, port = parts.hostname or "", parts.port or 80
        named = parse_address(name.partition("%")[0])
    except ValueError as error:
        raise Malformed(f"the router {host} names a URL that is none or has no address: {address[:200]!r}") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "http" or not _PATH.fullmatch(path):
        raise Malformed(f"the router {host} names a URL that is not plain http: {address[:200]!r}")
    if _is_nobody_else(named) and not same_host(name, host):
        note("names itself by an address that is none in the network")
    elif not same_host(name, host) and not (named.version == 6 and ":" in host):
        raise Malformed(f"the router {host} sends us to another host, which is never followed: {address[:200]!r}")
    return Url(host, port, path)


def _is_nobody_else(address: IPAddress) -> bool:
    return address.is_loopback or address.is_link_local or address.is_unspecified


class _Bounded(io.RawIOBase):
    """The stream of a socket that ends in time and size."""

    def __init__(self, sock: socket.socket, host: str, deadline: float):
        self._sock = sock
        self._host = host
        self.deadline = deadline
        self._left = _MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise Malformed(f"the router {self._host} answers with more than {_MAX_BYTES} bytes")
        self._sock.settimeout(_left(self.deadline))
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
    seconds = left(_SECONDS)
    deadline = time.monotonic() + seconds
    fields = {"Host": where.authority, "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = f"{method} {where.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    try:
        with socket.create_connection((where.host, where.port), seconds, (source, 0)) as sock:
            sock.settimeout(_left(deadline))
            sock.sendall(head.encode("ascii") + b"\r\n" + body)  # in one piece: some routers read only once
            return _receive(_Bounded(sock, where.host, deadline))
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


def _receive(raw: _Bounded) -> tuple[int, bytes]:
    """Read an answer; it ends with its document, whatever the router says of its length."""
    stream: io.BufferedReader = io.BufferedReader(raw)
    # Of a socket, it wants no more than the file.
    response = http.client.HTTPResponse(cast("socket.socket", SimpleNamespace(makefile=lambda *_: stream)))
    response.begin()
    body = bytearray()
    for piece in _chunks(stream) if response.chunked else _pieces(stream, response.length):
        body += piece
        if _END.search(body, max(0, len(body) - len(piece) - _MAX_END_LENGTH)):
            break
    else:
        if response.length is not None and not response.chunked:
            body += _beyond(raw, stream)
    end = _END.search(body)
    if end and body[end.end() :].strip():
        note("sends something after the end of its documents")
    return response.status, bytes(body[: end.end()] if end else body)


def _pieces(stream: io.BufferedReader, length: int | None) -> Iterator[bytes]:
    """Yield what arrives, up to the announced length; without one, until the router closes the connection."""
    while length is None or length > 0:
        piece = stream.read1(_PIECE if length is None else min(_PIECE, length))
        if not piece:
            return
        length = None if length is None else length - len(piece)
        yield piece


def _chunks(stream: io.BufferedReader) -> Iterator[bytes]:
    """Yield the content of chunks as it arrives (RFC 9112, section 7.1)."""
    while size := _chunk_size(stream.readline(_PIECE)):
        for piece in _pieces(stream, size):
            size -= len(piece)
            yield piece
        if size:
            raise http.client.IncompleteRead(b"", size)
        stream.readline(_PIECE)
    while stream.readline(_PIECE).strip():  # trailers
        pass


def _chunk_size(line: bytes) -> int:
    said = line.partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", said):
        raise ValueError(f"{said[:20]!r} is no size of a chunk")
    return int(said, 16)


def _beyond(raw: _Bounded, stream: io.BufferedReader) -> bytes:
    """Return the rest of a document whose announced length is too short, which follows at once; else nothing."""
    rest = bytearray()
    raw.deadline = min(raw.deadline, time.monotonic() + _AFTERWARDS)
    with contextlib.suppress(OSError):  # nothing follows: the length was right, and what came is no document
        for piece in _pieces(stream, None):
            rest += piece
            if _END.search(rest):
                note("announces a length that is too short")
                return bytes(rest)
    return b""
