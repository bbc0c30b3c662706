# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the relay's fallback: proxies, and the reports to the agent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from peer_agent.host import fallback
from peer_agent.host.fallback import Fallback, _proxy


class Server:
    """Accepts one connection, answers what it hears once, and closes."""

    def __init__(self, answer: bytes):
        self.heard = b""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.heard = connection.recv(4096)
            connection.sendall(self._answer)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                self.heard += connection.recv(4096)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()


def _reason(url: str, pin: str = "") -> str:
    reports: queue.Queue[tuple[object, object]] = queue.Queue()
    Fallback(url, pin, 0, 9, lambda endpoint, failure: reports.put((endpoint, failure)))
    endpoint, failure = reports.get(timeout=10)
    assert endpoint is None
    return str(failure)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("https_proxy", "http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield


def test_a_proxy_of_the_environment_is_asked_to_connect(monkeypatch: pytest.MonkeyPatch):
    with Server(b"HTTP/1.1 200 Connection established\r\n\r\n") as server:
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{server.port}")
        _reason("wss://relay.example:8443/")
    request, _, after = server.heard.partition(b"\r\n\r\n")
    assert request.startswith(b"CONNECT relay.example:8443 HTTP/1.1\r\nHost: relay.example:8443")
    assert b"Basic " + base64.b64encode(b"me:p@ss") in request
    assert after.startswith(b"\x16\x03"), "then TLS, with the relay"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "says HTTP/1.1 407 Proxy Authentication Required"),
        (b"220 mail.example ESMTP", "does not answer as one"),
        (b"x" * 9000, "does not answer as one"),
    ],
    ids=["refusal", "no proxy", "endless"],
)
def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str):
    with Server(answer) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
        assert f"the proxy 127.0.0.1 {reason}" in _reason("wss://relay.example/")


def test_a_host_that_needs_no_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert _proxy(urlsplit("wss://relay.example/")).netloc == "proxy.example:3128"
    monkeypatch.setenv("no_proxy", "relay.example")
    assert _proxy(urlsplit("wss://relay.example/")) is None


def test_a_url_without_a_host_is_named(monkeypatch: pytest.MonkeyPatch):
    assert _reason("wss://:443/") == "wss://:443/: fallback_url names no host: write one before the port"
    monkeypatch.setenv("https_proxy", "http://:3128")
    assert "the environment's proxy names no host" in _reason("wss://relay.example/")


def test_nobody_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "Connect call failed" in _reason(f"wss://127.0.0.1:{port}/")


def test_closing_reports_nothing():
    reports: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = Fallback(f"wss://127.0.0.1:{silent.getsockname()[1]}/", "", 0, 9, lambda *report: reports.append(report))
        made.close()
        made._thread.join(5)
        assert not made._thread.is_alive()
    assert not reports


def test_closing_outlives_a_swallowed_cancellation(monkeypatch: pytest.MonkeyPatch):
    begun = threading.Event()

    async def swallow(*_: object) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    monkeypatch.setattr(fallback, "_dial", swallow)
    monkeypatch.setattr(fallback, "_CANCEL_AGAIN", 0.1)
    made = Fallback("wss://relay.example/", "", 0, 9, lambda *_: None)
    assert begun.wait(5)
    made.close()
    made._thread.join(3)
    assert not made._thread.is_alive()
    assert not asyncio.all_tasks(made._loop), "or Python complains of them when it finds them"


def test_a_proxy_does_not_write_into_the_journal(monkeypatch: pytest.MonkeyPatch):
    with Server(b"HTTP/1.1 403 \x1b[2J\xe2\x80\xae\x00\r\n\r\n") as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
        reason = _reason("wss://relay.example/")
    assert reason.endswith("says HTTP/1.1 403 ?[2J??")
