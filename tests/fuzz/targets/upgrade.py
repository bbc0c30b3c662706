# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Well-formed and hostile: upgrade requests, answers and frames by grammar, at both ends and in the bridge's loop."""

from __future__ import annotations

import asyncio
import functools
import socket

from peer_agent.host.fallback import _Pipe
from peer_common.websocket_pipe import MAX_DATAGRAM, Pipe
from peer_relay_fallback import bridge as service
from peer_relay_fallback.bridge import Bridge, Limits, _Connection
from wire import Wire, udp_pair

from targets.choices import Choices
from targets.fallback import _admit, _loop
from targets.target import Target

_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_ACCEPT = b"ICX+Yqv66kxgM0FcWaLWlFLwTAI="
_METHODS = [b"GET", b"GET", b"get", b"POST", b"CONNECT", b"", b"GET\t", b"G" * 300, b"\x00"]
_PATHS = [
    b"/",
    b"/peer-relay",
    b"*",
    b"",
    b"//",
    b"/%",
    b"/%00",
    b"/" + b"a" * 5000,
    b"http://[::1",
    b"/\xff",
    b"/ /",
    b"/?#",
]
_PROTOCOLS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"", b"HTTP/9999999999.1"]
_STATUSES = [
    b"101 Yes",
    b"101 Yes",
    b"101",
    b"101 ",
    b"200 Fine",
    b"404 No",
    b"301 There",
    b"1e1 Yes",
    b"-101 No",
    b"101 \x1b[2J",
]
_ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\x00\r\n"]
_NAMES = [
    b"Host",
    b"Upgrade",
    b"Connection",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Extensions",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Accept",
    b"Origin",
    b"X-Forwarded-For",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Expect",
    b"upgrade",
    b"",
    b"X Y",
    b"\xff",
    b"X" * 300,
    b"Cookie",
    b"Authorization",
]
_VALUES = [
    b"websocket",
    b"Upgrade",
    b"13",
    _KEY.encode(),
    _ACCEPT,
    b"relay",
    b"192.0.2.1",
    b"",
    b"h2c",
    b"keep-alive, Upgrade",
    b"websocket, websocket",
    b'websocket/13, "',
    b"Upgrade,,,,Upgrade",
    b"," * 500,
    b"8",
    b"13, 13",
    b"-13",
    b"\xc2\xb2",
    b"AAAA",
    b"=" * 24,
    b"A" * 21 + b"\xff==",
    b"permessage-deflate; client_max_window_bits",
    b'permessage-deflate; x="',
    b"permessage-deflate; server_max_window_bits=99999999999999",
    b"a;" * 300,
    b"99999999999999999999",
    b"-1",
    b"chunked",
    b"100-continue",
    b"null",
    b"2001:db8::1%x",
    b"::ffff:192.0.2.1",
    b"192.0.2.1, unknown",
    b"\x1b[2J",
    b"a" * 5000,
    b"ch\xe4t, ch\xe4t",
    b"evil\x00",
    b"[fe80::1%eth0]:80",
    b"1.2.3.4:5, 6",
    b"fe80::1%" + b"a" * 400,
]
_GOOD = [
    b"Host: relay",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + _KEY.encode(),
    b"Sec-WebSocket-Accept: " + _ACCEPT,
]
_SIZES = [0, 1, 31, 32, 125, 126, 127, 1472, MAX_DATAGRAM, MAX_DATAGRAM + 1, 65535]
_LENGTHS = [None, None, None, 0, 125, 126, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
_CONTENTS = [
    b"\x04\x00\x00\x00",
    b"\x01\x00\x00\x00",
    b"\x03\xe8",
    b"\x03\xf2",
    b"\x00\x00",
    b"\xff\xff",
    b"\xc3",
    b"a",
]


def _header(choices: Choices, first: bytes) -> bytes:
    """A head that is whole but for a few lines, which are other ones, twice there, or missing."""
    lines = list(_GOOD)
    for _ in choices.some(6):
        line = choices.of(_NAMES) + choices.of([b": ", b":", b" : ", b"", b":\t"]) + choices.of(_VALUES)
        at = choices.number(len(lines) + 1)
        lines[at : at + choices.number(3)] = [line] * choices.of([1, 1, 2, 40, 130])
    return first + b"\r\n" + b"".join(line + choices.of(_ENDS) for line in lines) + b"\r\n"


def _frames(choices: Choices, mask: bool) -> bytes:
    """Frames of all kinds, some with a length that is not theirs or in a form that is too long."""
    data = bytearray()
    while choices.left and len(data) < 40_000:
        size = choices.of(_SIZES)
        said = choices.of(_LENGTHS)
        length = size if said is None else said
        first = choices.of([0x82, 0x82, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0x81, 0x01, 0x09, 0x83, 0x8F, 0xC2, 0xF2])
        form = choices.of([0, 0, 0, 126, 127])
        if form == 127 or length > 65535:
            head = bytes([127]) + length.to_bytes(8, "big")
        elif form == 126 or length > 125:
            head = bytes([126]) + length.to_bytes(2, "big")
        else:
            head = bytes([length])
        masked = mask != (choices.number(64) == 63)
        content = (choices.of(_CONTENTS) + bytes(size))[:size]
        frame = bytes([first, head[0] | (0x80 if masked else 0)]) + head[1:] + (bytes(4) if masked else b"") + content
        data += frame * choices.of([1, 1, 1, 2, 70])
    return bytes(data)


def request(choices: Choices) -> bytes:
    first = b" ".join((choices.of(_METHODS), choices.of(_PATHS), choices.of(_PROTOCOLS)))
    return _header(choices, first) + _frames(choices, mask=True)


def response(choices: Choices) -> bytes:
    first = choices.of([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"", b"ICY "]) + choices.of(_STATUSES)
    return _header(choices, first) + _frames(choices, mask=False)


def _play(pipe: Pipe, choices: Choices, data: bytes, outer: socket.socket) -> None:
    """Feed it; whatever comes, what is kept and what is answered stays small."""
    wire = Wire(pipe, stuck=bool(choices.number(2)))
    for part in choices.parts(data):
        for at in range(0, len(part), 16384):
            pipe.data_received(part[at : at + 16384])
        assert pipe.websocket is None or len(pipe.websocket.reader.buffer) <= MAX_DATAGRAM + 16384 + 14
        assert len(pipe._header or b"") <= 8192 + 16384
        assert len(wire.written) <= 70 * 129 + 16384 + 1024
        while True:
            try:
                assert 0 < len(outer.recv(65536)) <= MAX_DATAGRAM
            except BlockingIOError:
                break
    wire.abort()
    assert pipe.ended.result().isprintable()


def fallback_request(data: bytes) -> None:
    async def play() -> None:
        choices = Choices(data)
        inner, outer = udp_pair()
        with inner, outer:
            pipe = _Connection(None, lambda _, headers: _admit(headers, inner))
            _play(pipe, choices, request(choices), outer)

    _loop().run_until_complete(play())


def fallback_response(data: bytes) -> None:
    async def play() -> None:
        choices = Choices(data)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wireguard:
            wireguard.bind(("127.0.0.1", 0))
            pipe = _Pipe("wss://relay/", wireguard.getsockname()[1])
            pipe.websocket.key = _KEY
            _play(pipe, choices, response(choices), wireguard)

    _loop().run_until_complete(play())


class _Service:
    """The bridge, with its own sockets, before a relay that answers whatever comes with whatever kind of message."""

    def __init__(self) -> None:
        service._OPEN_SECONDS = 0.5
        self.relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.relay.bind(("127.0.0.1", 0))
        self.bridge = Bridge(self.relay.getsockname(), None, Limits(4, 4, 0.05, 0.1))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.listener.setblocking(False)
        self.serving = _loop().create_task(self.bridge.serve([self.listener]))

    def answer(self, choices: Choices) -> None:
        while True:
            try:
                _, source = self.relay.recvfrom(65536)
            except BlockingIOError:
                return
            self.relay.sendto(bytes([choices.of([4, 3, 2, 1])]) + bytes(choices.of([63, 31, 91, 1471])), source)

    async def client(self, choices: Choices) -> None:
        """Connect, speak, read or not, and leave in one way or another."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await loop.sock_connect(sock, self.listener.getsockname())
            reads = choices.number(2)
            try:
                for part in choices.parts(request(choices)):
                    await asyncio.wait_for(loop.sock_sendall(sock, part), 0.2)
                    await asyncio.sleep(0)
                    self.answer(choices)
                    if reads:
                        await asyncio.wait_for(loop.sock_recv(sock, 65536), 0.02)
            except (OSError, asyncio.TimeoutError):
                pass
            if choices.number(2):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset


@functools.cache
def _service() -> _Service:
    return _Service()


def fallback_loop(data: bytes) -> None:
    async def play() -> None:
        choices = Choices(data)
        running = _service()
        await asyncio.gather(*(running.client(choices) for _ in range(1 + choices.number(6))))
        until = asyncio.get_running_loop().time() + 8
        while running.bridge._tasks and asyncio.get_running_loop().time() < until:
            running.answer(choices)
            await asyncio.sleep(0.005)
        assert not running.serving.done(), "the service has ended"
        assert not running.bridge._tasks, "a connection is still there"
        assert not len(running.bridge._gate), "a place is still taken"
        assert not running.bridge._strangers
        assert not running.bridge._pipes
        assert not running.bridge.devices

    _loop().run_until_complete(play())


_SEEDS = [bytes(range(start, start + 60)) for start in range(0, 190, 10)] + [bytes(20), bytes(range(40)) * 10]
TARGETS = {
    "fallback_request": Target(fallback_request, (), _SEEDS),
    "fallback_response": Target(fallback_response, (), _SEEDS),
    "fallback_loop": Target(fallback_loop, (), _SEEDS),
}
