# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device whose UDP is blocked reaches the others over TLS; strangers, limits, other certificates, reverse proxies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import blake2s
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness import fallback_flood
from harness.fallback import URL, Blocked, Bridge, Certificate, have
from harness.netns import Namespace
from harness.processes import wait_until
from harness.service import ADDRESSES, Relay
from harness.topology import RELAY_V4, STRANGER_NETWORK, Lab
from harness.traffic import Iperf, Stream
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

Figure = Callable[..., None]
_DOCS = Path(__file__).parents[2] / "docs" / "fallback.md"
_STRANGER_SECONDS = 3


@pytest.fixture
def blocked(lab: Lab, relay: Relay) -> Iterator[Blocked]:
    made = Blocked(lab, relay, "--stranger-seconds", str(_STRANGER_SECONDS))
    made.bridge.start()
    yield made
    made.bridge.stop()


def _plain_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture
def stranger(lab: Lab) -> Iterator[Stranger]:
    with contextlib.closing(asyncio.new_event_loop()) as loop, contextlib.ExitStack() as sockets:
        yield Stranger(lab.stranger(), sockets, loop)


class Stranger:
    """Whoever finds the port."""

    def __init__(self, host: Namespace, sockets: contextlib.ExitStack, loop: asyncio.AbstractEventLoop):
        self.host = host
        self._sockets = sockets
        self._loop = loop

    def connect(self) -> socket.socket:
        with self.host.inside():
            return self._sockets.enter_context(socket.create_connection((RELAY_V4[0], 443), 10))

    def websocket(self, url: str = URL) -> WebSocket:
        # Not the library's blocking client: its two threads disturb each other's TLS.
        options = {"ssl": _plain_tls(), "compression": None, "ping_interval": None}

        async def open_it() -> ClientConnection:
            return await connect(url, sock=self.connect(), **options)

        made = WebSocket(self._loop, self._loop.run_until_complete(open_it()))
        self._sockets.callback(made.close)
        return made


class WebSocket:
    """A stranger's connection, which lives while one of these waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: ClientConnection):
        self._loop = loop
        self._connection = connection

    def send(self, message: bytes | str | list[bytes]) -> None:
        self._loop.run_until_complete(self._connection.send(message))

    def recv(self, seconds: float) -> bytes | str:
        return self._loop.run_until_complete(asyncio.wait_for(self._connection.recv(), seconds))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())


def test_a_device_without_udp_reaches_the_others(blocked: Blocked, figure: Figure) -> None:
    with Stream(blocked.ann, blocked.bob) as stream:
        stream.wait_flowing()
        blocked.block()
        cut = time.monotonic()
        carrier = blocked.carry()
        carrier.wait_said("up 127.0.0.1:")
        blocked.ann.host.run("ping", "-c", "1", "-W", "5", ADDRESSES[0])
        stream.wait_flowing(15)
        figure("fallback: from its start to traffic", f"{stream.back_after(cut):.2f} s", "< 5 s")
        assert stream.back_after(cut) < 5
        assert blocked.relay.endpoint("ann").startswith("127.")
        settled = time.monotonic()
        time.sleep(5)
        until = time.monotonic() - 1
        lost = sum(1 for direction in stream.directions for sent in direction.lost(until) if sent > settled)
        delays = sorted(at - stream.there.sent[n] for n, at in list(stream.there.received.items())[-200:])
        figure("fallback: lost of 400 packets, median delay", f"{lost}, {delays[100] * 1e3:.1f} ms", "0")
        assert lost == 0
        blocked.bridge.stop()
        carrier.wait_said("ended: closed by the other side: 1001")
        time.sleep(1)
        blocked.bridge.start()
        restarted = time.monotonic()
        carrier.wait_said("up 127.0.0.1:", 2)
        stream.wait_flowing(15)
        took = stream.back_after(restarted)
        figure("fallback: traffic after the bridge is back", f"{took:.2f} s", "< 5 s")
        assert took < 5


def test_throughput(blocked: Blocked, figure: Figure) -> None:
    carrier = blocked.carried()
    for sender, receiver, way in ((blocked.ann, blocked.bob, "up"), (blocked.bob, blocked.ann, "down")):
        best = None
        for megabits in (10, 20, 40, 80):
            before = carrier.cpu()
            sent, lost, rate = Iperf(sender, receiver, megabits, 4).result()
            used = (carrier.cpu() - before) / 4
            if lost / sent < 0.01:
                best = f"{rate:.0f} Mbit/s, {lost / sent:.2%} lost, {used:.0%} of a core in the agent"
        assert best, "10 Mbit/s at least"
        figure(f"fallback: UDP {way}stream with less than 1 % loss", best)


def test_backpressure_drops_and_does_not_grow(blocked: Blocked, figure: Figure) -> None:
    """A line of 2 Mbit/s and 20 Mbit/s for it: what does not fit is lost, memory and delay stay bounded."""
    blocked.carried()
    with Stream(blocked.ann, blocked.bob, rate=20) as stream:
        stream.wait_flowing(15)
        line = ["rate", "2mbit", "burst", "16kb", "latency", "50ms"]
        blocked.site.router.run("tc", "qdisc", "add", "dev", "lan0", "root", "tbf", *line)
        memory = blocked.bridge.memory()
        sent, lost, rate = Iperf(blocked.bob, blocked.ann, 20, 10).result()
        grown = blocked.bridge.memory() - memory
        worst = max(at - stream.back.sent[number] for number, at in list(stream.back.received.items())[-100:])
        figure("fallback: 20 Mbit/s over 2 Mbit/s", f"{rate:.1f} Mbit/s, {lost / sent:.0%} lost")
        figure("fallback: memory grown by, worst delay", f"{grown / 2**20:.1f} MiB, {worst:.1f} s", "< 4 MiB, < 4 s")
        assert rate > 1
        assert grown < 4 * 2**20
        assert worst < 4


def test_strangers_are_sent_away(blocked: Blocked, stranger: Stranger, figure: Figure) -> None:
    blocked.carried()
    with Stream(blocked.ann, blocked.bob) as stream:
        stream.wait_flowing(15)
        silent, noisy, websocket = stranger.connect(), stranger.connect(), stranger.websocket()
        noisy.sendall(os.urandom(3000))
        with contextlib.suppress(ConnectionError):
            assert noisy.recv(100)[:1] in (b"", b"\x15"), "closed, or a TLS alert"
        began = time.monotonic()
        websocket.send(os.urandom(148))
        with pytest.raises(ConnectionClosed, match="the relay does not know you"):
            websocket.recv(10)
        took = time.monotonic() - began
        figure("fallback: stranger sent away after", f"{took:.1f} s", f"{_STRANGER_SECONDS} s (15 s outside of tests)")
        assert _STRANGER_SECONDS - 0.5 < took < _STRANGER_SECONDS + 2
        assert silent.recv(1) == b"", "no TLS handshake: closed"
    assert stream.lost() <= stream.sent() / 100
    assert "Traceback" not in blocked.bridge.text()


def test_a_cookie_reply_is_no_proof(blocked: Blocked, stranger: Stranger) -> None:
    """Who knows the relay's public key can have it answer, and is still nobody."""
    mac1_key = blake2s(b"mac1----" + base64.b64decode(blocked.relay.public_key)).digest()
    websocket = stranger.websocket()
    began = time.monotonic()
    for _ in range(300):
        message = b"\x01\0\0\0" + os.urandom(112)
        websocket.send(message + blake2s(message, key=mac1_key, digest_size=16).digest() + bytes(16))
    answers = set()
    with pytest.raises(ConnectionClosed, match="the relay does not know you"):
        while True:
            answer = websocket.recv(10)
            answers.add((answer[0], len(answer)))
    assert answers == {(3, 64)}
    assert time.monotonic() - began < _STRANGER_SECONDS + 3
    assert ": a device has come" not in blocked.bridge.text()


def test_oversize_and_text_are_refused(blocked: Blocked, stranger: Stranger) -> None:
    for message, code in ((bytes(9217), "1009"), ([bytes(5000), bytes(5000)], "1009"), ("hello", "1003")):
        websocket = stranger.websocket()
        websocket.send(message)
        with pytest.raises(ConnectionClosed, match=code):
            websocket.recv(5)


def test_limits(lab: Lab, relay: Relay, stranger: Stranger) -> None:
    made = Blocked(lab, relay, "--connections", "5", "--connections-per-address", "4")
    made.bridge.start()
    held = [stranger.websocket() for _ in range(4)]
    with pytest.raises((OSError, EOFError)):
        stranger.websocket()
    made.carried()  # another address
    held.pop().close()

    def is_room() -> bool:
        with contextlib.suppress(OSError, EOFError):
            return bool(stranger.websocket())
        return False

    wait_until("there is room again", is_room, 5)
    made.bridge.stop()


def test_strangers_make_room_for_a_device(lab: Lab, relay: Relay) -> None:
    """All places are taken by strangers who come again and again; a device still gets in, and then stays."""
    made = Blocked(lab, relay, "--connections", "20")
    made.bridge.start()
    sources = [str(ip_network(STRANGER_NETWORK)[1 + number // 12]) for number in range(24)]
    kind = "a connection, and nothing"
    words = [sys.executable, str(Path(fallback_flood.__file__)), kind, RELAY_V4[0], "12", *sources]
    lab.start(lab.stranger().spawn(*words, log="flood"))
    wait_until("all places are taken", lambda: made.bridge.descriptors() > 24, 5)
    carrier = made.carried()
    with Stream(made.ann, made.bob) as stream:
        stream.wait_flowing(15)
        time.sleep(5)
    assert carrier.text().count("up 127.0.0.1:") == 1
    assert stream.lost() == 0
    made.bridge.stop()


def test_another_certificate_is_refused(blocked: Blocked) -> None:
    carrier = blocked.carried()
    blocked.bridge.stop()
    blocked.bridge.certificate = other = Certificate(blocked.lab.folder, "other")
    blocked.bridge.start()
    carrier.wait_said(f"the certificate is not the pinned one: its SHA-256 is {other.fingerprint}")
    assert carrier.text().count("up 127.0.0.1:") == 1
    carrier.stop()
    blocked.carry(fingerprint="").wait_said("is refused: self-signed certificate")


_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 443 ssl http2;
    ssl_certificate {certificate.file};
    ssl_certificate_key {certificate.key};
    location / {{ return 200 "the web site"; }}
{snippet}
  }}
}}
"""
_CADDY = """
{{
  admin off
  auto_https off
  default_sni peer-relay
  storage file_system {folder}/caddy
}}
https://{host} {{
  tls {certificate.file} {certificate.key}
{snippet}
  handle {{
    respond "the web site"
  }}
}}
"""


def _documented(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", _DOCS.read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("server", ["nginx", "caddy"])
def test_beside_a_web_server(lab: Lab, relay: Relay, stranger: Stranger, figure: Figure, server: str) -> None:
    if not have(server):
        pytest.skip(f"{server} is not installed")
    made = Blocked(lab, relay)
    options = ("--connections-per-address", "1")
    made.bridge = Bridge(lab.relay_host, None, *options, listen="127.0.0.1:40443")
    made.bridge.start()
    folder = lab.folder / server
    folder.mkdir()
    values = {"folder": folder, "certificate": made.certificate, "host": RELAY_V4[0], "snippet": _documented(server)}
    settings = folder / "settings"
    settings.write_text((_NGINX if server == "nginx" else _CADDY).format(**values))
    words = (
        ["nginx", "-c", str(settings)]
        if server == "nginx"
        else ["caddy", "run", "--adapter", "caddyfile", "--config", str(settings)]
    )
    web = lab.start(lab.relay_host.spawn(*words, log=server, environment={**os.environ, "HOME": str(folder)}))
    wait_until(f"{server} listens", lambda: ":443 " in lab.relay_host.run("ss", "-ltn") or not web.running, 10)
    with Stream(made.ann, made.bob) as stream:
        stream.wait_flowing()
        made.block()
        cut = time.monotonic()
        made.carry(f"wss://{RELAY_V4[0]}/peer-relay").wait_said("up 127.0.0.1:")
        made.ann.host.run("ping", "-c", "1", "-W", "5", ADDRESSES[0])
        stream.wait_flowing(15)
    figure(f"fallback: behind {server}, to traffic", f"{stream.back_after(cut):.2f} s", "< 5 s")
    _, _, rate = Iperf(made.bob, made.ann, 20, 4).result()
    figure(f"fallback: behind {server}, of 20 Mbit/s", f"{rate:.1f} Mbit/s")
    assert rate > 15
    # The limit goes by whom the web server speaks for, and the site itself is still there.
    assert f"{made.site.wan_v4}: a device has come" in made.bridge.text()
    assert stranger.websocket(f"wss://{RELAY_V4[0]}/peer-relay")
    with pytest.raises(InvalidStatus, match="503"):
        stranger.websocket(f"wss://{RELAY_V4[0]}/peer-relay")
    page = _plain_tls().wrap_socket(stranger.connect(), server_hostname=RELAY_V4[0])
    with page:
        page.sendall(f"GET / HTTP/1.1\r\nHost: {RELAY_V4[0]}\r\nConnection: close\r\n\r\n".encode())
        assert b"the web site" in b"".join(iter(lambda: page.recv(4096), b""))
    made.bridge.stop()
