# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages: built, taken apart, cut off; and what a link's message says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_relay.dataplane.kernel import netlink, route

ATTRIBUTES = st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=6)


@given(ATTRIBUTES)
def test_attributes_there_and_back(wanted: dict[int, bytes]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in wanted.items())
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == wanted


@given(ATTRIBUTES, ATTRIBUTES)
def test_nested_attributes(one: dict[int, bytes], other: dict[int, bytes]) -> None:
    inner = [netlink.attribute(kind, payload) for kind, payload in one.items()]
    data = netlink.nested(5, *inner) + netlink.nested(6, *(netlink.attribute(*item) for item in other.items()))
    found = netlink.attributes(data)
    assert (netlink.attributes(found[5]), netlink.attributes(found[6])) == (one, other)


@given(st.binary(max_size=200))
def test_anything_is_taken_apart_without_harm(data: bytes) -> None:
    for payload in netlink.attributes(data).values():
        assert payload in data
    for _, _, payload in netlink.messages(data):
        assert payload in data


@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(0, 10))
def test_messages(payloads: list[bytes], lost: int) -> None:
    data = b"".join(
        struct.pack("=IHHII", 16 + len(payload), 20 + number, 0, number, 0) + payload.ljust(-(-len(payload) // 4) * 4)
        for number, payload in enumerate(payloads)
    )
    whole = [(20 + number, number, payload) for number, payload in enumerate(payloads)]
    assert list(netlink.messages(data)) == whole
    cut = list(netlink.messages(data[: len(data) - lost]))
    assert cut == whole[: len(cut)]


def link(kind: int = 1, flags: int = 1, port_of: str = "") -> bytes:
    message = struct.pack("=BxHiII", 0, kind, 5, flags, 0)
    message += netlink.attribute(3, b"eth0\0") + netlink.attribute(4, struct.pack("=I", 1500))
    return message + (netlink.nested(18, netlink.attribute(4, port_of.encode() + b"\0")) if port_of else b"")


@pytest.mark.parametrize(
    ("message", "up", "refused"),
    [
        (link(), True, ""),
        (link(flags=0), False, ""),
        (link(port_of="vrf"), True, ""),
        (link(port_of="bridge"), True, "it is a port of a bridge"),
        (link(port_of="bond"), True, "it is a port of a bond"),
        (link(kind=772, flags=9), True, "it is the loopback"),
        (link(kind=512), True, ""),
        (link(kind=32), True, "it is of type 32"),
    ],
)
def test_where_the_program_belongs(message: bytes, up: bool, refused: str) -> None:
    found = route.interface(message)
    assert (found.ifindex, found.name, found.mtu, found.up, found.refused) == (5, "eth0", 1500, up, refused)


@given(st.binary(min_size=16, max_size=120))
def test_any_link_is_told_about(data: bytes) -> None:
    route.interface(data)
