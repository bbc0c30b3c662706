# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers may send to the relay's fallback, and what a device may be answered."""

from __future__ import annotations

import asyncio
import functools
import socket
from urllib.parse import urlsplit

from peer_agent.host.fallback import Refused, _Pipe, _tunnel
from peer_common.websocket_pipe import MAX_DATAGRAM, Pipe
from peer_relay_fallback.bridge import _Connection
from peer_relay_fallback.gate import forwarded
from wire import Wire, udp_pair

from targets.target import Target

_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\n" + _UPGRADE + b"Version: 13\r\nSec-WebSocket-Key: " + _KEY.encode() + b"\r\n\r\n"
)
RESPONSE = b"HTTP/1.1 101 Yes\r\n" + _UPGRADE + b"Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
MASKED = b"\x82\x82" + bytes(4) + b"hi"
FRAMES = [
    MASKED,
    b"\x02\x81" + bytes(4) + b"a\x80\x81" + bytes(4) + b"b",
    b"\x89\x80" + bytes(4),
    b"\x88\x82" + bytes(6),
]
ANSWERS = [b"\x82\x02hi", b"\x89\x00", b"\x8a\x00", b"\x88\x02\x03\xe8", b"\x02\x01a\x80\x01b"]
WORDS = [
    b"\r\n",
    b": ",
    b"\x82",
    b"\x88",
    b"\xfe\xff\xff",
    b"\xff" * 9,
    b"X-Forwarded-For: 192.0.2.1",
    b"HTTP/1.1 404 No",
]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The process's own: what a loop waits on is shared with a process that is forked."""
    return asyncio.new_event_loop()


def _carry(pipe: Pipe, data: bytes, outer: socket.socket) -> None:
    """Feed the bytes in two parts; a connection that was closed hears no more."""
    wire = Wire(pipe)
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        if not wire.closed:
            pipe.data_received(part)
    while True:
        try:
            assert 0 < len(outer.recv(65536)) <= MAX_DATAGRAM
        except BlockingIOError:
            break
    wire.close()
    assert pipe.ended.done()


def fallback_bridge(data: bytes) -> None:
    async def play() -> None:
        inner, outer = udp_pair()
        with inner, outer:
            _carry(_Connection(None, lambda _, headers: _admit(headers, inner)), data, outer)

    _loop().run_until_complete(play())


def _admit(headers: object, udp: socket.socket) -> socket.socket:
    forwarded(",".join(headers.get_all("X-Forwarded-For")))
    return udp


def fallback_device(data: bytes) -> None:
    async def play() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wireguard:
            wireguard.bind(("127.0.0.1", 0))
            pipe = _Pipe("wss://relay/", wireguard.getsockname()[1])
            pipe.websocket.key = _KEY
            _carry(pipe, data, wireguard)

    _loop().run_until_complete(play())


def fallback_proxy(data: bytes) -> None:
    async def play() -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            there.send(data[:4096])
            there.shutdown(socket.SHUT_WR)
            await _tunnel(here, urlsplit("http://user:password@proxy:3128"), "relay", 443)

    _loop().run_until_complete(play())


TARGETS = {
    "fallback_bridge": Target(
        fallback_bridge,
        (),
        [REQUEST + b"".join(FRAMES), *(REQUEST + frame for frame in FRAMES)],
        WORDS,
    ),
    "fallback_device": Target(
        fallback_device,
        (),
        [RESPONSE + frame for frame in ANSWERS],
        WORDS,
    ),
    "fallback_proxy": Target(
        fallback_proxy,
        (Refused,),
        [b"HTTP/1.1 200 OK\r\nVia: a\r\n\r\n", b"HTTP/1.0 403 No\r\n\r\n"],
        WORDS,
    ),
}
