# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One WebSocket on one side, one UDP socket on the other: each binary message is a datagram.

The WebSocket itself is that of the library's layer without I/O, so that a datagram costs no task and no queue. Nothing
grows: while the connection is slower than the datagrams, they wait in the UDP socket's buffer, where the kernel drops
what does not fit, as any slow line does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Any

from websockets.frames import OP_BINARY, OP_CONT, OP_TEXT

try:
    from websockets.client import ClientProtocol
    from websockets.server import ServerProtocol
except ImportError:  # before version 11
    from websockets.client import ClientConnection as ClientProtocol
    from websockets.server import ServerConnection as ServerProtocol

__all__ = ["GOING_AWAY", "LARGEST", "POLICY", "ClientProtocol", "Pipe", "ServerProtocol"]

logging.getLogger("websockets").setLevel(logging.CRITICAL)  # what others send is no error of ours

LARGEST = 9216  # bytes: jumbo frames; what is larger is no datagram of a device's
_BATCH = 64  # datagrams before other connections get their turn
_BACKLOG = 16384  # bytes that may wait in this process, and twice that, unsent, in the kernel: more is only delay
_LIFELESS = 15_000  # milliseconds that sent bytes may stay without acknowledgement
_TICKS = 4  # looks at the time within one idle interval
_TCP_NOTSENT_LOWAT, _TCP_USER_TIMEOUT = 25, 18

GOING_AWAY, POLICY, _UNSUPPORTED = 1001, 1008, 1003  # RFC 6455, 7.4.1


class Pipe(asyncio.Protocol):
    """A WebSocket, joined to a UDP socket when `open` gives it one. `ended` holds the reason in the end.

    Within the idle interval something goes both ways, for proxies that close what is idle; a connection on which
    nothing is heard for two of them is given up.
    """

    def __init__(self, websocket: Any, idle: float):
        self.websocket = websocket
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.answered: asyncio.Future[None] = self.loop.create_future()  # the UDP side has said something
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self.last_datagram = 0.0  # when the UDP side last did
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._udp: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._said = self.loop.time()
        self._fragments = b""
        self._reason = ""

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_BACKLOG)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, 2 * _BACKLOG)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _LIFELESS)
        self.begin()

    def begin(self) -> None:
        """The connection stands: nothing to do for the side that is asked."""

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        # Version 9 raises what later ones keep.
        with contextlib.suppress(Exception):
            self.websocket.receive_data(data)
        try:
            for event in self.websocket.events_received():
                if not hasattr(event, "opcode"):
                    self.handshake(event)
                elif self._udp:  # or it came along with a handshake that failed
                    self._frame(event)
        except Exception as error:  # malformed handshakes make the library stumble in many ways
            self.end(f"malformed: {error!r:.100}")
        self._flush()

    def handshake(self, event: Any) -> None:
        """Take the HTTP request or response."""
        raise NotImplementedError

    def open(self, udp: socket.socket) -> None:
        """The WebSocket stands: let datagrams pass. The socket is connected, and from now on the pipe's."""
        self._udp = udp
        self.opened.set_result(None)
        self.loop.add_reader(udp, self._forward)
        self._timer = self.loop.call_later(self._idle / _TICKS, self._tick)

    def connection_lost(self, error: Exception | None) -> None:
        if self._udp:
            self._timer.cancel()
            self.loop.remove_reader(self._udp)
            self._udp.close()
        with contextlib.suppress(Exception):  # the reason of a close is told after the end only
            self.websocket.receive_eof()
        if not self.ended.done():
            self.ended.set_result(self._reason or self._why(error))

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
        if self._transport.is_closing():
            return
        if self._udp:
            with contextlib.suppress(Exception):  # it has been closed by the other side
                self.websocket.send_close(code, reason[:120])
            self._flush()
        self._transport.close()
        # What the other side does not take any more must not keep the connection.
        self.loop.call_later(1, self._transport.abort)

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def _frame(self, frame: Any) -> None:
        if frame.opcode is OP_TEXT:
            self.end("text, where datagrams belong", _UNSUPPORTED)
        elif frame.opcode is OP_BINARY or frame.opcode is OP_CONT:
            # Proxies may divide messages. The library bounds their sum.
            datagram, self._fragments = self._fragments + frame.data, b""
            if not frame.fin:
                self._fragments = datagram
            elif datagram:
                # Full, or nobody there at the moment: lost, as datagrams may be.
                with contextlib.suppress(OSError):
                    self._udp.send(datagram)

    def _forward(self) -> None:
        for _ in range(_BATCH):
            try:
                datagram = self._udp.recv(LARGEST + 1)
            except BlockingIOError:
                break
            except OSError:  # an earlier datagram met nobody
                continue
            self.last_datagram = self.loop.time()
            if not self.answered.done():
                self.answered.set_result(None)
            if len(datagram) <= LARGEST:
                with contextlib.suppress(Exception):  # the WebSocket is closing
                    self.websocket.send_binary(datagram)
        self._flush()

    def _flush(self) -> None:
        writes = self.websocket.data_to_send()
        data = b"".join(writes)
        if data and not self._transport.is_closing():
            self._said = self.loop.time()
            self._transport.write(data)
        if b"" in writes:  # the library's mark of the end
            self._transport.close()

    def pause_writing(self) -> None:
        if self._udp:
            self.loop.remove_reader(self._udp)

    def resume_writing(self) -> None:
        if self._udp and not self._transport.is_closing():
            self.loop.add_reader(self._udp, self._forward)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._idle / _TICKS, self._tick)
        now = self.loop.time()
        if now - self._heard > 2 * self._idle:
            self.end(f"nothing heard for {now - self._heard:.0f} s")
        elif now - min(self._heard, self._said) >= self._idle * (1 - 1 / _TICKS):
            with contextlib.suppress(Exception):
                self.websocket.send_ping(b"")
            self._flush()
