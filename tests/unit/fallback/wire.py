# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for a TCP connection: keeps what is written, and has no sockets."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

from peer_common.websocket_pipe import Pipe


class Wire:
    """The transport of one pipe. What it writes waits in `written`. One that is stuck has always more to send."""

    def __init__(self, pipe: Pipe, stuck: bool = False):
        self.pipe = pipe
        self.stuck = stuck
        self.written = bytearray()
        self.closed = self.paused = False
        pipe.connection_made(self)

    def get_extra_info(self, name: str) -> object:
        return SimpleNamespace(setsockopt=lambda *_: None) if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def read(self, data: bytes) -> int:
        """Hand over as much as the pipe takes at once, as a socket does; return how much that is."""
        room = self.pipe.get_buffer(-1)
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        self.pipe.buffer_updated(taken)
        return taken

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.stuck:
                self.pipe.connection_lost(None)

    def abort(self) -> None:
        if self.stuck or not self.closed:
            self.closed, self.stuck = True, False
            self.pipe.connection_lost(None)

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


def exchange(one: Wire, other: Wire) -> None:
    """Carry what both have written until neither has anything left to say."""
    while one.written or other.written:
        for here, there in ((one, other), (other, one)):
            data = here.take()
            if data and not there.closed:
                there.pipe.data_received(data)


def udp_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


async def turn() -> None:
    """Let the loop see what is readable."""
    for _ in range(3):
        await asyncio.sleep(0)
