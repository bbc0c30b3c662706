# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ends of a connection, without a network between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable, Iterator

import peer_agent.host.fallback
import pytest
from peer_common import websocket_pipe
from peer_common.websocket_pipe import MAX_DATAGRAM, POLICY
from peer_relay_fallback.bridge import _Connection
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
        self.agent = Wire(peer_agent.host.fallback._Pipe("wss://relay:443/", self.device.getsockname()[1]))
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
        ends.relay.send(b"back")
        ends.relay.send(bytes(MAX_DATAGRAM))
        await ends.settle()
        assert ends.device.recv(9999) == b"back"
        assert ends.device.recv(9999) == bytes(MAX_DATAGRAM)

    _run(scene)


@pytest.mark.parametrize(
    ("answer", "proven"),
    [
        (b"\x01\0\0\0" + bytes(144), False),  # a challenge: asked for by whoever knows an index
        (b"\x02\0\0\0" + bytes(88), False),  # an answer to an initiation, which may be another's
        (b"\x03\0\0\0" + bytes(60), False),  # a cookie reply: asked for by anybody
        (b"\x04\0\0\0" + bytes(27), False),  # no message at all
        (b"f7prp" + bytes(28), False),
        (b"\x04\0\0\0" + bytes(28), True),  # on a session
    ],
)
def test_only_a_message_on_a_session_proves_a_device(answer: bytes, proven: bool):
    async def scene(ends: Ends) -> None:
        ends.relay.send(answer)
        await ends.settle()
        assert ends.device.recv(9999) == answer
        assert ends.bridge.pipe.proven.done() == proven
        assert bool(ends.bridge.pipe.proven_at) == proven

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
    monkeypatch.setattr(peer_agent.host.fallback, "_IDLE", 0.1)
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


def test_a_stranger_waits_for_its_turn_and_a_device_does_not():
    async def scene(ends: Ends) -> None:
        flood = (b"\x82\xa0" + bytes(4 + 32)) * 1000
        assert ends.bridge.read(flood) == 2048
        assert ends.bridge.paused
        await asyncio.sleep(0.005)
        assert ends.bridge.paused, "a millisecond for each frame"
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not ends.bridge.paused:
                break
        assert not ends.bridge.paused
        ends.relay.send(b"\x04\0\0\0" + bytes(28))
        await ends.settle()
        assert ends.bridge.read(flood[2048:]) == 16384
        assert not ends.bridge.paused

    _run(scene)


PING = b"\x89\xfd" + bytes(4) + b"p" * 125


def test_who_does_not_take_answers_to_its_pings_gets_none():
    async def scene(ends: Ends) -> None:
        ends.bridge.pipe.pause_writing()
        for _ in range(60):
            ends.bridge.pipe.data_received(PING)
        assert not ends.bridge.written
        assert not ends.bridge.closed
        ends.bridge.pipe.resume_writing()
        ends.bridge.pipe.data_received(PING)
        assert bytes(ends.bridge.written) == b"\x8a\x7d" + b"p" * 125

    _run(scene)


@pytest.mark.parametrize(
    ("frame", "masked"),
    [
        (PING, True),
        (b"\x8a\x80" + bytes(4), True),  # answers that nobody asked for
        (b"\x82\x80" + bytes(4), True),  # empty messages
        (b"\x82\x9f" + bytes(4 + 31), True),  # smaller than any datagram
        (b"\x02\x80" + bytes(4) + b"\x80\x80" + bytes(4), True),
        (b"\x89\x00", False),
        (b"\x82\x1f" + bytes(31), False),
    ],
)
def test_crumbs_are_counted(frame: bytes, masked: bool):
    """In either direction."""

    async def scene(ends: Ends) -> None:
        wire = ends.bridge if masked else ends.agent
        for _ in range(16):
            wire.pipe.data_received(frame)
        assert not wire.closed
        for _ in range(1000):
            wire.pipe.data_received(frame * 20)
        assert wire.pipe.ended.result() == "too many frames that are no datagrams"
        assert len(wire.written) < 20_000

    _run(scene)


def test_a_message_without_end_ends():
    async def scene(ends: Ends) -> None:
        ends.bridge.pipe.data_received(b"\x02\xfe\x04\x00" + bytes(4 + 1024))
        for _ in range(8):
            assert not ends.bridge.closed
            ends.bridge.pipe.data_received(b"\x00\xfe\x04\x00" + bytes(4 + 1024))
        ends.bridge.pipe.data_received(b"\x00\xfe\x04\x00" + bytes(4 + 1024))
        assert ends.bridge.closed
        assert (1009).to_bytes(2, "big") in ends.bridge.written

    _run(scene)


def test_what_is_read_from_udp_at_once_is_bounded():
    async def scene(ends: Ends) -> None:
        ends.bridge.pipe._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                ends.relay.send(bytes(MAX_DATAGRAM))
                sent += 1
        ends.bridge.pipe._forward(ends.bridge.pipe._udp)
        assert 0 < len(ends.bridge.written) < min(sent * MAX_DATAGRAM + 1000, 65536 + MAX_DATAGRAM + 1000)

    _run(scene)


@pytest.mark.usefixtures("quick")
def test_who_takes_nothing_is_given_up():
    async def scene(ends: Ends) -> None:
        ends.agent.pipe.pause_writing()
        until = asyncio.get_running_loop().time() + 2
        while not ends.agent.closed and asyncio.get_running_loop().time() < until:
            ends.agent.pipe.data_received(b"\x82\x20" + bytes(32))  # and yet goes on speaking
            await asyncio.sleep(0.02)
        assert ends.agent.pipe.ended.result().startswith("nothing of what was sent taken for")

    _run(scene)


def test_who_takes_no_end_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    """Whichever side closes, and for whatever reason: nothing waits for the other side to read."""
    monkeypatch.setattr(websocket_pipe, "_FAREWELL", 0.05)

    async def play(*parts: bytes) -> None:
        inner, outer = udp_pair()
        with inner, outer:
            wire = Wire(_Connection(None, lambda *_: inner), stuck=True)
            for part in parts:
                wire.pipe.data_received(part)
            assert wire.closed
            await asyncio.wait_for(wire.pipe.ended, 2)

    asyncio.run(play(b"A" * 9000))
    asyncio.run(play(b"no\r\n\r\n"))
    asyncio.run(play(WEBSOCKET + b"\r\n"))
    asyncio.run(play(WEBSOCKET + KEY, b"\x82\x02hi"))
    asyncio.run(play(WEBSOCKET + KEY, b"\x88\x80" + bytes(4)))
    asyncio.run(play(WEBSOCKET + KEY, PING * 100))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"A" * 9000,),
        (b"no\r\n\r\n",),
        (WEBSOCKET + b"\r\n",),
        (WEBSOCKET + KEY,),
        (WEBSOCKET + KEY, b"\x82\x02hi"),
        (WEBSOCKET + KEY, b"\x88\x80" + bytes(4)),
        (WEBSOCKET + KEY, PING * 100),
        (WEBSOCKET + KEY, b"\x82\xff\x7f" + b"\xff" * 7 + bytes(99)),
        (WEBSOCKET + KEY, b"\x02\xfe\x04\x00" + bytes(500)),
    ],
    ids=range(10),
)
def test_what_has_ended_is_let_go(parts: tuple[bytes, ...]):
    """At once: what waits for Python's collector has a quarter of a megabyte of TLS with it."""

    async def play() -> None:
        inner, outer = udp_pair()
        with inner, outer:
            wire = Wire(_Connection(None, lambda *_: inner))
            for part in parts:
                wire.pipe.data_received(part)
            await turn()
            wire.close()
            await turn()
            kept = weakref.ref(wire.pipe)
            del wire
            assert kept() is None

    gc.disable()
    try:
        asyncio.run(play())
    finally:
        gc.enable()


def test_what_comes_after_the_end_is_not_kept():
    async def scene(ends: Ends) -> None:
        ends.bridge.stuck, library = True, ends.bridge.pipe.websocket
        ends.bridge.pipe.end("enough")
        for _ in range(100):
            ends.bridge.pipe.data_received(bytes(16384))
        assert not library.reader.buffer
        ends.bridge.abort()

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


@pytest.mark.parametrize(
    "line", [b"A" * 16384, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000, b"\n" * 16384, b"\r" * 16384]
)
def test_a_header_without_end_is_not_kept(line: bytes):
    """Nor does the library get any of it: before its version 11 it would keep all."""

    async def play(wire: Wire) -> None:
        library = wire.pipe.websocket
        wire.pipe.data_received(line[:50])
        assert not wire.closed
        assert not library.reader.buffer
        for _ in range(100):
            wire.pipe.data_received(line)
        assert wire.closed
        assert not library.reader.buffer
        assert len(wire.pipe._header or b"") <= 2 * 16384
        assert wire.pipe.ended.result() == "an HTTP header of more than 8192 bytes or 100 lines"

    async def both() -> None:
        await play(Wire(_Connection(None, lambda *_: None)))
        await play(Wire(peer_agent.host.fallback._Pipe("wss://relay/", 9)))

    asyncio.run(both())


def test_a_complete_header_may_be_too_long_as_well():
    for line in (b"X: " + b"y" * 8192 + b"\r\n", b"X: y\r\n" * 101):
        wire = asyncio.run(_speak(WEBSOCKET + line + KEY))
        assert wire.closed
        assert not wire.pipe.opened.done()


def test_a_header_may_come_byte_by_byte_and_frames_with_it():
    request = WEBSOCKET + b"X-Forwarded-For: 192.0.2.1\r\n" * 20 + KEY
    for parts in ([bytes([byte]) for byte in request], [request + b"\x88\x82" + bytes(4) + (1000).to_bytes(2, "big")]):
        wire = asyncio.run(_speak(*parts))
        assert wire.pipe.opened.done()
        assert wire.written.startswith(b"HTTP/1.1 101 ")


def test_compression_is_not_agreed_upon():
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    wire = asyncio.run(_speak(WEBSOCKET + offer + KEY))
    assert wire.written.startswith(b"HTTP/1.1 101 ")
    assert b"xtensions" not in wire.written


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
        (b"HTTP/1.1 200 Fine\r\nContent-Length: 99999999\r\n\r\n" + bytes(9000), "HTTP 200 instead of a WebSocket"),
        (b"HTTP/1.1 200 Fine\r\n\r\n" + bytes(9000), "HTTP 200 instead of a WebSocket"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "HTTP 100 instead of a WebSocket"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no WebSocket: the answer is not HTTP"),
        (b"HTTP/1.1 101 Yes\r\nConnection: Upgrade, \x9b2J\r\nUpgrade: \x9b2J\r\n\r\n", "no WebSocket: "),
    ],
)
def test_the_device_says_what_it_met(answer: bytes, reason: str):
    async def play() -> str:
        wire = Wire(peer_agent.host.fallback._Pipe("wss://relay/", 9))
        library = wire.pipe.websocket
        wire.pipe.request()
        wire.pipe.data_received(answer)
        assert not library.reader.buffer
        wire.close()
        return wire.pipe.ended.result()

    found = asyncio.run(play())
    assert found.startswith(reason)
    assert found.isprintable()


def test_what_the_other_side_says_is_one_printable_line():
    async def scene(ends: Ends) -> None:
        reason = "\x1b[2Jgone\nSep 1 sshd: accepted \u202e".encode()
        ends.agent.pipe.data_received(bytes((0x88, 2 + len(reason))) + (4000).to_bytes(2, "big") + reason)
        ends.agent.close()
        found = ends.agent.pipe.ended.result()
        assert found == "closed by the other side: 4000 ?[2Jgone?Sep 1 sshd: accepted ?"

    _run(scene)
