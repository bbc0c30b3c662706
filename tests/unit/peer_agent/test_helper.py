# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part with rights over WireGuard: what it does for the agent, and what it refuses to whoever took that over."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_run import NAS, ONE, PC, RELAYS, WireGuard
from hypothesis import given
from hypothesis import strategies as st
from peer_agent.endpoints import Endpoint
from peer_agent.wireguard import helper
from peer_agent.wireguard.helper import Helper, Remote
from peer_agent.wireguard.interface import Unchangeable, WireGuardError

NEW = Endpoint("2001:db8::7", 51820)
STRANGER = base64.b64encode(bytes([9]) * 32).decode()


@pytest.fixture
def wireguard() -> WireGuard:
    return WireGuard()


@pytest.fixture
def remote(wireguard: WireGuard, tmp_path: Path) -> Iterator[Remote]:
    path = tmp_path / "pr0.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            Helper(wireguard).serve(listener)

    threading.Thread(target=serve, daemon=True).start()
    made = Remote("pr0", str(path))
    yield made
    made.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_agent_does_by_it_what_it_would_do_itself(wireguard: WireGuard, remote: Remote) -> None:
    wireguard.endpoints[PC] = None
    assert remote.show() == wireguard.show()
    remote.set_endpoint(NAS, NEW)
    remote.renew(ONE, RELAYS[ONE])
    remote.bind_again(51820)
    assert wireguard.done == [("set", NAS, NEW), ("renew", ONE, RELAYS[ONE]), ("bind", 51820)]
    assert remote.show().peers[NAS].endpoint == NEW


def test_what_goes_wrong_there_is_said_here(wireguard: WireGuard, remote: Remote) -> None:
    wireguard.there = False
    with pytest.raises(WireGuardError, match="Protocol not supported"):
        remote.show()
    wireguard.there, wireguard.changeable = True, False
    with pytest.raises(Unchangeable, match="no change"):
        remote.set_endpoint(STRANGER, NEW)
    wireguard.changeable = True
    assert remote.show().port == 51820


def test_a_peer_that_is_not_there_is_not_added(wireguard: WireGuard, remote: Remote) -> None:
    for do in (remote.set_endpoint, remote.renew):
        with pytest.raises(WireGuardError, match="no \\[Peer\\]"):
            do(STRANGER, NEW)
    assert not wireguard.done


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"private_key",
        b"get=1",
        b"show private-key",
        b"bind 1",
        b"endpoint",
        f"endpoint {NAS} 192.0.2.1".encode(),
        f"endpoint {NAS} [fe80::1%eth0]:1".encode(),
        f"endpoint {NAS} 192.0.2.1:1 private-key".encode(),
        f"endpoint {NAS}\tprivate-key 192.0.2.1:1".encode(),
        f"endpoint {NAS} evil.example:1".encode(),
        b"\xff\xfe",
    ],
)
def test_nothing_else_is_done(wireguard: WireGuard, question: bytes) -> None:
    assert "error" in Helper(wireguard).answer(question)
    assert not wireguard.done


@given(st.binary(max_size=80) | st.text(max_size=40).map(lambda text: f"endpoint {text}".encode()))
def test_no_question_ends_it(question: bytes) -> None:
    assert "error" in Helper(WireGuard()).answer(question) or question in (b"show", b"bind")


def test_lines_without_end_are_not_kept(wireguard: WireGuard) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 4096)
        with pytest.raises(OSError, match="does not end"):
            Helper(wireguard).converse(ours)


def test_a_helper_that_starts_anew_is_found(wireguard: WireGuard, remote: Remote) -> None:
    remote.show()
    remote._connection.shutdown(socket.SHUT_RDWR)
    assert remote.show().port == 51820


def test_without_a_helper_the_agent_says_so(tmp_path: Path) -> None:
    with pytest.raises(WireGuardError, match="peer-agent-wireguard@pr0"):
        Remote("pr0", str(tmp_path / "none")).show()


@pytest.mark.parametrize("answer", [b"[]\n", b"{}\n", b'{"port":1,"mark":0,"peers":[[1]]}\n', b"x\n", b"[" * 100000])
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with contextlib.closing(Remote("pr0", str(tmp_path / "s"))) as remote, pytest.raises(WireGuardError):
            remote.show()
        listener.shutdown(socket.SHUT_RDWR)


def test_no_key_is_in_what_it_answers(wireguard: WireGuard) -> None:
    """What it reads of the interface has no field for one."""
    assert set(Helper(wireguard).answer(b"show")) == {"port", "mark", "peers"}
    assert helper.Interface._fields == ("port", "mark", "peers")
    assert "private" not in str(helper.Peer._fields)
