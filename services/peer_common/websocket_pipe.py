# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One WebSocket on one side, one UDP socket on the other: each binary message is a datagram.

The WebSocket itself is that of the library's layer without I/O, so that a datagram costs no task and no queue. Of it
only what every version from 9.1 (Ubuntu 22.04) to the newest has in common is used, which the tests hold to.

The other side may be anybody, on either end, and the library's own limits differ by its version. So the limits are set
here, before it sees a byte and after it has written one:

- It gets the HTTP header when that is complete and not before: `_MAX_HEADER` bytes, `_MAX_LINES` lines.
- It gets `_READ` bytes at a time, so that neither its lists nor its time grow with what the other side sends at once.
- A message has `MAX_DATAGRAM` bytes at the most, in however many parts. `_MAX_PETTY` frames may be smaller than any
  datagram of WireGuard's between two checks: pings, empty messages, crumbs.
- Nothing more is written while the other side does not take what was: datagrams wait in the UDP socket's buffer, where
  the kernel drops what does not fit, as any slow line does; answers to pings are left out, as RFC 6455, 5.5.3 permits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Any

from websockets.frames import Opcode

try:
    from websockets.client import ClientProtocol
    from websockets.server import ServerProtocol
except ImportError:  # before version 11
    from websockets.client import ClientConnection as ClientProtocol
    from websockets.server import ServerConnection as ServerProtocol

__all__ = [
    "GOING_AWAY",
    "MAX_DATAGRAM",
    "POLICY",
    "ClientProtocol",
    "Pipe",
    "ServerProtocol",
    "forget_where",
    "printable",
]

logging.getLogger("websockets").setLevel(logging.CRITICAL)  # what others send is no error of ours

MAX_DATAGRAM = 9216  # bytes: jumbo frames; what is larger is no datagram of a device's
_MAX_HEADER, _MAX_LINES = 8192, 100  # bytes and lines of HTTP, of which an agent's request has 6 and a proxy adds some
_READ = 16384  # bytes that are read before other connections get their turn: one record of TLS
_BATCH, _BATCH_BYTES = 64, 65536  # datagrams, and their bytes, likewise
_MIN_DATAGRAM = 32  # bytes of the smallest datagram of WireGuard's
_MAX_PETTY = 64  # smaller frames between two checks; the other end needs one
_BACKLOG = 16384  # bytes that may wait in this process, and twice that, unsent, in the kernel: more is only delay
_LIFELESS = 15_000  # milliseconds that sent bytes may stay without acknowledgement
_FAREWELL = 1.0  # seconds for what is still to be sent when the connection is closed
_MAX_REASON_LENGTH = 200  # characters
_CHECKS = 4  # within one idle interval
_TCP_NOTSENT_LOWAT, _TCP_USER_TIMEOUT = 25, 18

GOING_AWAY, POLICY, _UNSUPPORTED, _TOO_BIG = 1001, 1008, 1003, 1009  # RFC 6455, 7.4.1


def printable(text: str) -> str:
    """Return what somebody else says as one line that no terminal and no journal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_REASON_LENGTH])


def forget_where(error: BaseException | None) -> None:
    """Let go of the frames that an exception, and what it comes from, was raised in."""
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class Pipe(asyncio.BufferedProtocol):
    """A WebSocket, joined to a UDP socket when `open` gives it one. `ended` holds the reason in the end, printable.

    Within the idle interval something goes both ways, for proxies that close what is idle; a connection on which
    nothing is heard, or nothing is taken, for two of them is given up.
    """

    def __init__(self, websocket: Any, idle: float):
        self.websocket = websocket
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._udp: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._heard = self._said = self.loop.time()
        self._full_since: float | None = None  # when the other side stopped taking what is sent
        self._room = memoryview(bytearray(_READ))  # asyncio's TLS fills slices of it
        self._header = bytearray()
        self._greeted = False  # the library has the header
        self._petty = 0
        self._fragments = b""
        self._reason = ""

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_BACKLOG)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, 2 * _BACKLOG)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _LIFELESS)
        self.begin()

    @property
    def _closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def begin(self) -> None:
        """The connection stands: nothing to do for the side that is asked."""

    def get_buffer(self, _hint: int) -> memoryview:
        return self._room

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self._room[:count]))

    def data_received(self, data: bytes) -> None:
        """Take some bytes of the other side's. What comes after the end is not read."""
        self._heard = self.loop.time()
        if not self._greeted and not self._closing:
            header, data = self._complete(data)
            if header:
                self.greeted(header)
                self._feed(header)
                if not self.opened.done():  # some versions wait for more of what has no end
                    self.end("no WebSocket: the HTTP header is none of one")
        if data:
            self._feed(data)

    def _complete(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the HTTP header, once it is complete, and what came after it."""
        self._header += data
        header, end, rest = bytes(self._header).partition(b"\r\n\r\n")
        if len(header) > _MAX_HEADER or header.count(b"\n") > _MAX_LINES:
            self.end(f"an HTTP header of more than {_MAX_HEADER} bytes or {_MAX_LINES} lines")
        elif end:
            self._header, self._greeted = bytearray(), True
            return header + end, rest
        return b"", b""

    def _feed(self, data: bytes) -> None:
        if self._closing:
            return
        # Version 9 raises what later ones keep.
        with contextlib.suppress(Exception):
            self.websocket.receive_data(data)
        try:
            for event in self.websocket.events_received():
                if self._closing:
                    break
                if not hasattr(event, "opcode"):
                    self.handshake(event)
                elif self._udp:  # or it came along with a handshake that failed
                    self._frame(event, self._udp)
        except Exception as error:  # malformed handshakes make the library stumble in many ways
            self.end(f"malformed: {error!r:.100}")
        self._flush()

    def greeted(self, header: bytes) -> None:
        """Look at the other side's HTTP header before the library does; `end` refuses it."""

    def handshake(self, event: Any) -> None:
        """Take the HTTP request or response."""
        raise NotImplementedError

    def open(self, udp: socket.socket) -> None:
        """The WebSocket stands: let datagrams pass. The socket is connected, and from now on the pipe's."""
        self._udp = udp
        self.opened.set_result(None)
        self.loop.add_reader(udp, self._forward, udp)
        self._timer = self.loop.call_later(self._idle / _CHECKS, self._check_idle)

    def connection_lost(self, error: Exception | None) -> None:
        for timer in filter(None, (self._timer, self._farewell)):
            timer.cancel()  # or it keeps the connection's buffers until it is due
        if self._udp:
            self.loop.remove_reader(self._udp)
            self._udp.close()
        with contextlib.suppress(Exception):  # the reason of a close is told after the end only
            self.websocket.receive_eof()
        if not self.ended.done():
            self.ended.set_result(printable(self._reason or self._why(error)))
        # TLS keeps its protocol, and the library its exceptions with all that was under way when they were raised. In a
        # circle, these and a quarter of a megabyte of TLS would wait for Python's collector.
        for kept in filter(None, (getattr(self.websocket, name, None) for name in ("parser_exc", "handshake_exc"))):
            forget_where(kept)
        self.websocket = self._transport = None

    def _why(self, error: Exception | None) -> str:
        code = getattr(self.websocket, "close_code", None)
        if code not in (None, 1006):
            reason = getattr(self.websocket, "close_reason", None)
            return f"closed by the other side: {code} {reason or ''}".rstrip()
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or error}"
        return f"connection lost: {error}" if error else "connection closed by the other side"

    def end(self, reason: str, code: int = GOING_AWAY) -> None:
        """Close the connection for a reason."""
        self._reason = self._reason or reason
        if self._closing:
            return
        if self._udp:
            with contextlib.suppress(Exception):  # it has been closed by the other side
                self.websocket.send_close(code, reason[:120])
            self._flush()
        self._close()

    def abort(self) -> None:
        """End the connection now, whatever is still to be sent."""
        if self._transport:
            self._transport.abort()

    def _close(self) -> None:
        transport = self._transport
        if transport and not transport.is_closing():
            # What the other side does not take any more must not keep the connection.
            self._farewell = self.loop.call_later(_FAREWELL, transport.abort)
            transport.close()

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def _frame(self, frame: Any, udp: socket.socket) -> None:
        # Control frames have the last opcodes.
        self._petty += frame.opcode >= Opcode.CLOSE or len(frame.data) < _MIN_DATAGRAM
        if self._petty > _MAX_PETTY:
            self.end("too many frames that are no datagrams", POLICY)
        elif frame.opcode is Opcode.TEXT:
            self.end("text, where datagrams belong", _UNSUPPORTED)
        elif frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
            # Proxies may divide messages.
            datagram, self._fragments = self._fragments + frame.data, b""
            if len(datagram) > MAX_DATAGRAM:
                self.end("more than any datagram has", _TOO_BIG)
            elif not frame.fin:
                self._fragments = datagram
            elif datagram:
                # Full, or nobody there at the moment: lost, as datagrams may be.
                with contextlib.suppress(OSError):
                    udp.send(datagram)

    def passed(self, datagram: bytes) -> None:
        """A datagram of the UDP side's goes to the other side."""

    def _forward(self, udp: socket.socket) -> None:
        size = 0
        for _ in range(_BATCH):
            if size >= _BATCH_BYTES:
                break
            try:
                datagram = udp.recv(MAX_DATAGRAM + 1)
            except BlockingIOError:
                break
            except OSError:  # an earlier datagram met nobody
                continue
            size += len(datagram)
            self.passed(datagram)
            if len(datagram) <= MAX_DATAGRAM:
                with contextlib.suppress(Exception):  # the WebSocket is closing
                    self.websocket.send_binary(datagram)
        self._flush()

    def _flush(self) -> None:
        if self.websocket is None:
            return
        writes = self.websocket.data_to_send()
        data = b"".join(writes)
        transport = self._transport
        if data and self._full_since is None and transport and not transport.is_closing():
            self._said = self.loop.time()
            transport.write(data)
        if b"" in writes:  # the library's mark of the end
            self._close()

    def pause_writing(self) -> None:
        self._full_since = self.loop.time()
        if self._udp:
            self.loop.remove_reader(self._udp)

    def resume_writing(self) -> None:
        self._full_since = None
        if self._udp and not self._closing:
            self.loop.add_reader(self._udp, self._forward, self._udp)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        self._timer = self.loop.call_later(self._idle / _CHECKS, self._check_idle)
        now = self.loop.time()
        self._petty = 0
        if now - self._heard > 2 * self._idle:
            self.end(f"nothing heard for {now - self._heard:.0f} s")
        elif self._full_since is not None and now - self._full_since > 2 * self._idle:
            self.end(f"nothing of what was sent taken for {now - self._full_since:.0f} s")
        elif now - min(self._heard, self._said) >= self._idle * (1 - 1 / _CHECKS):
            with contextlib.suppress(Exception):
                self.websocket.send_ping(b"")
            self._flush()
