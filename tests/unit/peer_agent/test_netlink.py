# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what the kernel's own WireGuard has said: recorded replies, with nothing in them made by hand."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
from peer_agent.endpoints import Endpoint
from peer_agent.wireguard import netlink
from peer_agent.wireguard.interface import Interface, Peer

REPLIES = json.loads((Path(__file__).parent / "kernel_replies.json").read_text())
FIRST, SECOND, THIRD, FOURTH = (
    "Z1rHzMUNoHaR9KTZTdrubJNyCBxidP3cRnqOkc+QlzI=",
    "v3oQONx6A30c5oh/0Ym6aSxq9SHP8ojMK3tLMqVJAik=",
    "MlL5/jHpmQFy6fkoMunZ0G7YiQt5BeYKYyXmeBDGmFc=",
    "Clp4YyxQ1lAigr88p3vtV0T4sJqEAI85zwH+Fuotezs=",
)
SECRET = b"\x5e" * 32
CHANGED = 0x10  # NLM_F_DUMP_INTR


class Recorded:
    """A socket that answers with recorded datagrams."""

    def __init__(self, datagrams: list[bytes]):
        self.datagrams = list(datagrams)

    def send(self, _question: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        return self.datagrams.pop(0)[:size]


def replies(name: str) -> list[bytes]:
    return [base64.b64decode(text) for text in REPLIES[name]]


def kernel(datagrams: list[bytes]) -> netlink.Kernel:
    """The connection of the recording, after its first question: which number WireGuard has."""
    made = object.__new__(netlink.Kernel)
    made._socket, made._family, made._number, made._name = Recorded(datagrams), 32, 1, b""
    return made


def test_an_interface() -> None:
    """A peer with a session, one with a preshared key, one without endpoint, one at a link-local address."""
    relay = Endpoint("127.0.0.1", 40001)
    found = kernel(replies("dump")).show()
    assert found == Interface(
        51820,
        0x7072,
        {
            FIRST: Peer(FIRST, False, relay, "10.77.0.1/32,fd77:7065:6572::1/128", 1_795_464_927, 92, 180, 25),
            SECOND: Peer(SECOND, True, Endpoint("2001:db8::2", 51820), "10.77.0.2/32,192.168.7.0/24", 0, 0, 0, 0),
            THIRD: Peer(THIRD, False, None, "10.77.0.3/32", 0, 0, 0, 0),
            FOURTH: Peer(FOURTH, False, None, "", 0, 0, 0, 0),
        },
    )
    assert SECRET in replies("dump")[0]
    assert base64.b64encode(SECRET).decode() not in repr(found)


def test_a_peer_that_goes_on_in_the_next_message() -> None:
    assert len(replies("continued")) == 2
    found = kernel(replies("continued")).show()
    networks = [peer.allowed.split(",") for peer in found.peers.values()]
    assert networks == [
        [f"10.{n}.{m // 64}.{m % 64 * 4}/30" for m in range(count)] for n, count in enumerate((1, 140, 2))
    ]
    assert [str(peer.endpoint) for peer in found.peers.values()] == [f"192.0.2.{n}:51820" for n in (1, 2, 3)]


def test_an_interface_that_has_nothing_yet() -> None:
    assert kernel(replies("empty")).show() == Interface(0, 0, {})


def test_no_such_interface() -> None:
    with pytest.raises(OSError, match="No such device"):
        kernel(replies("no_device")).show()


def test_an_interface_that_changed_while_it_was_read() -> None:
    """The kernel leaves out what it no longer finds, and says so with a flag."""
    first, second = replies("continued")
    (flags,) = struct.unpack_from("=H", second, 6)
    changed = second[:6] + struct.pack("=H", flags | CHANGED) + second[8:]
    with pytest.raises(InterruptedError):
        kernel([first, changed]).show()
