# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ends of a connection, without a network between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import peer_agent.fallback
import pytest
from peer_relay_fallback.bridge import _Connection
from peer_relay_fallback.pipe import LARGEST, POLICY
from wire import Wire, exchange, turn, udp_pair

WEBSOCKET = (
    b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
)
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"


class Ends:
    """A device's end and the relay's, joined; `relay` and `device` are what is behind them."""

    def __init__(self, sockets: contextlib.ExitStack):
        inner, self.relay = udp_pair()
        sockets.enter_context(inner)
        sockets.enter_context(self.relay)
        # WireGuard's own port, as the device's end is told.
        self.device = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.device.setblocking(False)
        self.device.bind(("127.0.0.1", 0))
        self.bridge = Wire(_Connection(None, lambda *_: inner))
        self.agent = Wire(peer_agent.fallback._Pipe("wss://relay:443/", self.device.getsockname()[1]))
        self.agent.pipe.request()
        exchange(self.agent, self.bridge)

    async def settle(self) -> None:
        await turn()
        exchange(self.agent, self.bridge)
        await turn()

    def say(self, datagram: bytes) -> None:
        self.device.sendto(datagram, tuple(self.agent.pipe.endpoint))


def _run(scene: Callable[[Ends], Awaitable[None]]) -> None:
    async def play() -> None:
        with contextlib.ExitStack() as sockets:
            ends = Ends(sockets)
            await scene(ends)
            for wire in (ends.agent, ends.bridge):
                wire.close()

    asyncio.run(play())


def test_datagrams_go_both_ways():
    async def scene(ends: Ends) -> None:
        ends.say(b"there")
        await ends.settle()
        assert ends.relay.recv(9999) == b"there"
        assert not ends.bridge.pipe.answered.done()
        ends.relay.send(b"back")
        ends.relay.send(bytes(LARGEST))
        await ends.settle()
        assert ends.device.recv(9999) == b"back"
        assert ends.device.recv(9999) == bytes(LARGEST)
        assert ends.bridge.pipe.answered.done()

    _run(scene)


def test_other_programs_of_the_device_are_not_heard():
    async def scene(ends: Ends) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.sendto(b"let me in", tuple(ends.agent.pipe.endpoint))
            await ends.settle()
        with pytest.raises(BlockingIOError):
            ends.relay.recv(9999)

    _run(scene)


def test_the_reason_of_the_end_arrives():
    async def scene(ends: Ends) -> None:
        ends.bridge.pipe.end("the relay does not know you", POLICY)
        exchange(ends.agent, ends.bridge)
        ends.agent.close()
        assert ends.agent.pipe.ended.result() == "closed by the other side: 1008 the relay does not know you"
        assert ends.bridge.pipe.ended.result() == "the relay does not know you"

    _run(scene)


def test_a_slow_line_stops_the_reading_of_datagrams():
    async def scene(ends: Ends) -> None:
        ends.bridge.pipe.pause_writing()
        ends.relay.send(b"later")
        await ends.settle()
        with pytest.raises(BlockingIOError):
            ends.device.recv(9999)
        ends.bridge.pipe.resume_writing()
        await ends.settle()
        assert ends.device.recv(9999) == b"later"

    _run(scene)


def test_nobody_there_is_a_lost_datagram():
    async def scene(ends: Ends) -> None:
        ends.relay.close()
        ends.say(b"lost")
        await ends.settle()
        assert not ends.bridge.closed

    _run(scene)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peer_agent.fallback, "_IDLE", 0.1)
    yield


@pytest.mark.usefixtures("quick")
def test_an_idle_connection_is_kept_alive_and_a_dead_one_given_up():
    async def scene(ends: Ends) -> None:
        for _ in range(15):
            await asyncio.sleep(0.02)
            exchange(ends.agent, ends.bridge)
        assert not ends.agent.closed, "the relay's end answers pings"
        await asyncio.sleep(0.3)  # nothing is carried any more
        assert ends.agent.pipe.ended.result().startswith("nothing heard for")

    _run(scene)


async def _speak(*parts: bytes) -> Wire:
    inner, outer = udp_pair()
    with inner, outer:
        wire = Wire(_Connection(None, lambda *_: inner))
        for part in parts:
            if not wire.closed:
                wire.pipe.data_received(part)
        wire.close()
    return wire


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000,
        b"A" * 70000,
        WEBSOCKET + b"\r\n",
    ],
)
def test_who_speaks_something_else_is_not_let_in(request_: bytes):
    wire = asyncio.run(_speak(request_))
    assert not wire.pipe.opened.done()
    assert wire.closed
    assert b" 101 " not in wire.written


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\xfe\x24\x01" + bytes(4), 1009),  # longer than any datagram
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(4), 1009),
        (b"\x81\x82" + bytes(4) + b"hi", 1003),  # text
        (b"\x82\x02hi", 1002),  # not masked
        (b"\xf2\x82" + bytes(4) + b"hi", 1002),  # reserved bits
        (b"\x80\x82" + bytes(4) + b"hi", 1002),  # goes on with nothing
    ],
)
def test_what_no_datagram_can_be_is_refused(frame: bytes, code: int):
    wire = asyncio.run(_speak(WEBSOCKET + KEY, frame))
    assert wire.pipe.opened.done()
    assert code.to_bytes(2, "big") in wire.written


def test_messages_in_parts_are_put_together():
    async def scene(ends: Ends) -> None:
        for frame in (b"\x02\x82" + bytes(4) + b"ab", b"\x89\x80" + bytes(4), b"\x80\x81" + bytes(4) + b"c"):
            ends.bridge.pipe.data_received(frame)
        assert ends.relay.recv(9999) == b"abc"

    _run(scene)


def test_a_full_house_says_so():
    async def play() -> Wire:
        wire = Wire(_Connection(None, lambda *_: None))
        wire.pipe.data_received(WEBSOCKET + KEY)
        return wire

    wire = asyncio.run(play())
    assert wire.written.startswith(b"HTTP/1.1 503 ")
    assert wire.closed


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404 instead of a WebSocket"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "no WebSocket: "),
        (b"HTTP/1.1 2\r\n", "connection closed by the other side"),
    ],
)
def test_the_device_says_what_it_met(answer: bytes, reason: str):
    async def play() -> str:
        wire = Wire(peer_agent.fallback._Pipe("wss://relay/", 9))
        wire.pipe.request()
        wire.pipe.data_received(answer)
        wire.close()
        return wire.pipe.ended.result()

    assert asyncio.run(play()).startswith(reason)
