# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading `wg show dump`, and the datagrams that are made by hand."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from peer_agent.endpoints import Endpoint
from peer_agent.quick import _attribute, _sockaddr
from peer_agent.raw import checksum
from peer_agent.wg import WireGuardError, parse

DUMP = (
    "PRIVATE\tPUBLIC\t51820\t0x7072\n"
    "KEY1\t(none)\t192.0.2.1:40000\t10.77.0.1/32,fd77::1/128\t1700000000\t92\t148\t25\n"
    "KEY2\tSECRET\t(none)\t(none)\t0\t0\t0\toff\n"
    "KEY3\t(none)\t[fe80::1%2]:1\t10.77.0.3/32\t0\t0\t0\toff\n"
)


def test_dump() -> None:
    interface = parse(DUMP)
    assert (interface.port, interface.mark) == (51820, 0x7072)
    first, second, third = interface.peers.values()
    assert first.endpoint == Endpoint("192.0.2.1", 40000)
    assert (first.handshake, first.rx, first.tx, first.keepalive) == (1700000000, 92, 148, "25")
    assert (second.preshared, second.endpoint, second.allowed) == (True, None, "")
    assert third.endpoint is None
    assert not any(secret in repr(interface) for secret in ("PRIVATE", "SECRET"))


@pytest.mark.parametrize("text", ["", "a\tb\tc\td\n", "a\tb\t1\toff\nk\n", DUMP.replace("1700000000", "soon")])
def test_what_is_no_dump_is_said_without_its_text(text: str) -> None:
    with pytest.raises(WireGuardError) as caught:
        parse(text)
    assert "PRIVATE" not in str(caught.value)


def test_checksum() -> None:
    # A datagram with its checksum in place sums up to nothing (RFC 768).
    source, target = ip_address("192.0.2.1").packed, ip_address("203.0.113.9").packed
    for payload in (b"", b"odd", b"even", bytes(range(256))):
        head = struct.pack(">HHH", 51820, 40000, 8 + len(payload))
        value = checksum(source, target, head + b"\0\0" + payload)
        assert checksum(source, target, head + struct.pack(">H", value) + payload) in (0, 0xFFFF)


def test_netlink_forms() -> None:
    assert _attribute(1, b"abc") == struct.pack("=HH", 7, 1) + b"abc\0"
    assert _sockaddr(Endpoint("192.0.2.1", 40000)) == b"\x02\x00\x9c\x40\xc0\x00\x02\x01" + bytes(8)
    assert len(_sockaddr(Endpoint("2001:db8::1", 40000))) == 28
