# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In the tunnel: the relay's overlay addresses answer ping, and only its owner speaks from an address (rule 10)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_common import packets
from peer_relay.core import overlay
from relay_world import StockDevice, World, checksum, echo_v4, echo_v6, udp


def test_checksum_of_rfc_1071() -> None:
    assert overlay._checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


@given(st.binary(max_size=100))
def test_checksum_agrees_with_another_way(data: bytes) -> None:
    # All zero bits and all one bits both mean zero.
    assert {overlay._checksum(data), checksum(data)} in ({checksum(data)}, {0, 0xFFFF})


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.binary(min_size=4, max_size=1400), st.integers(0, 15))
def test_ipv4_echo(source: object, destination: object, body: bytes, padding: int) -> None:
    reply = overlay.echo_reply(echo_v4(str(source), str(destination), body) + bytes(padding))
    assert reply is not None
    assert overlay.addresses(reply) == (destination, source)
    assert (reply[20], reply[21], reply[24:]) == (0, 0, body)
    assert overlay._checksum(reply[:20]) == 0
    assert overlay._checksum(reply[20:]) in (0, 0xFFFF)


@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.binary(min_size=4, max_size=1400), st.integers(0, 15))
def test_ipv6_echo(source: object, destination: object, body: bytes, padding: int) -> None:
    reply = overlay.echo_reply(echo_v6(str(source), str(destination), body) + bytes(padding))
    assert reply is not None
    assert overlay.addresses(reply) == (destination, source)
    assert (reply[40], reply[41], reply[44:]) == (129, 0, body)
    pseudo = reply[8:40] + struct.pack(">II", len(reply) - 40, 58)
    assert overlay._checksum(pseudo + reply[40:]) in (0, 0xFFFF)


@given(st.one_of(st.binary(max_size=100), st.builds(lambda rest: b"\x45" + rest, st.binary(max_size=60))))
def test_any_packet_is_answered_or_not(packet: bytes) -> None:
    reply = overlay.echo_reply(packet)
    assert reply is None or len(reply) <= len(packet)
    overlay.addresses(packet)


GOOD = echo_v4("10.77.1.2", "10.77.0.1")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        GOOD[:27],
        echo_v4("10.77.1.2", "10.77.0.1", kind=0),
        echo_v6("fd77::2", "fd77::1", kind=129),
        GOOD[:-1] + b"?",  # checksum
        b"\x46" + GOOD[1:],  # options
        GOOD[:6] + b"\x20\x00" + GOOD[8:],  # first fragment
        GOOD[:6] + b"\x00\x08" + GOOD[8:],  # later fragment
        GOOD[:2] + b"\xff\xff" + GOOD[4:],  # length
        GOOD[:2] + b"\x00\x14" + GOOD[4:],
        GOOD[:9] + b"\x11" + GOOD[10:],  # UDP
    ],
)
def test_no_answer_to_anything_else(packet: bytes) -> None:
    assert overlay.echo_reply(packet) is None


# --- UDP --------------------------------------------------------------------------------------------------------------

PORT = 7077


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data(), payload=st.binary(max_size=600), answer=st.binary(max_size=600), padding=st.integers(0, 15))
def test_udp(version: int, data: st.DataObject, payload: bytes, answer: bytes, padding: int) -> None:
    source, destination = (str(data.draw(st.ip_addresses(v=version))) for _ in range(2))
    asked = []
    packet = udp(source, destination, payload, PORT, 5353) + bytes(padding)
    reply = overlay.udp_reply(packet, PORT, lambda datagram: asked.append(datagram) or answer)
    assert asked == [payload]
    expected = udp(destination, source, answer, 5353, PORT)
    if version == 6:
        assert reply == expected
    else:  # the identification, what fragmentation may do, and so the checksum of the header are another matter
        assert (reply[:4], reply[8:10], reply[12:]) == (expected[:4], expected[8:10], expected[12:])
        assert overlay._checksum(reply[:20]) == 0


ASKED_V4, ASKED_V6 = (udp(*ends, b"hello") for ends in (("10.77.1.2", "10.77.0.1"), ("fd77::1:2", "fd77::1")))


def test_ipv4_may_leave_out_the_checksum() -> None:
    assert overlay.udp_reply(ASKED_V4[:26] + bytes(2) + ASKED_V4[28:], PORT, lambda data: data)


def test_a_checksum_of_zero_is_sent_as_its_twin() -> None:
    checksum_of_zeros = overlay.udp_reply(ASKED_V6, PORT, lambda _: bytes(2))[46:48]
    reply = overlay.udp_reply(ASKED_V6, PORT, lambda _: checksum_of_zeros)  # adds up to nothing
    assert reply[46:48] == b"\xff\xff"
    assert reply == udp("fd77::1", "fd77::1:2", checksum_of_zeros, 40123, PORT)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        ASKED_V4[:-1],
        ASKED_V6[:-1],
        ASKED_V4[:-1] + b"?",
        ASKED_V6[:-1] + b"?",
        ASKED_V6[:46] + bytes(2) + ASKED_V6[48:],  # no checksum
        ASKED_V4[:6] + b"\x20\x00" + ASKED_V4[8:],  # first fragment
        ASKED_V4[:24] + b"\0\x0c" + ASKED_V4[26:],  # a length that is not the packet's
        udp("10.77.1.2", "10.77.0.1", b"hello", PORT + 1),
        udp("10.77.1.2", "10.77.0.1", b"hello", source_port=0),
        echo_v4("10.77.1.2", "10.77.0.1"),
        echo_v6("fd77::1:2", "fd77::1"),
    ],
)
def test_no_answer_to_anything_but_udp(packet: bytes) -> None:
    assert overlay.udp_reply(packet, PORT, lambda data: data) is None


def test_an_answer_may_be_refused() -> None:
    assert overlay.udp_reply(ASKED_V4, PORT, lambda _: None) is None


# --- through the relay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "source", "target"), [(echo_v4, "10.77.1.2", "10.77.0.1"), (echo_v6, "fd77::1:2", "fd77::1")]
)
def test_the_relay_answers_ping(world: World, ann: StockDevice, make: object, source: str, target: str) -> None:
    ann.connect()
    request = make(source, target)
    (reply,) = ann.send(ann.transport(None, request))
    name, inner = ann.received[-1]
    assert name == "relay"
    assert inner[: len(request)].rstrip(b"\0") == overlay.echo_reply(request).rstrip(b"\0")
    assert len(reply.datagram) <= 32 + len(request) + 15
    assert world.drops() == {}


def test_ping_of_another_address_is_not_the_relays_business(world: World, ann: StockDevice) -> None:
    ann.connect()
    (keepalive,) = ann.send(ann.transport(None, echo_v4("10.77.1.2", "10.77.1.9")))
    assert len(keepalive.datagram) == packets.TRANSPORT_MIN_SIZE
    assert world.drops() == {"inner_unsupported": 1}


@pytest.mark.parametrize(
    "inner",
    [echo_v4("10.77.1.3", "10.77.0.1"), echo_v4("10.77.0.1", "10.77.0.1"), echo_v6("fd77::9", "fd77::1"), b"\xff" * 48],
)
def test_inner_source_must_be_the_devices(world: World, ann: StockDevice, bob: StockDevice, inner: bytes) -> None:
    ann.connect()
    assert ann.send(ann.transport(None, inner)) == []
    assert world.drops() == {"inner_source": 1}
    assert ann.record.drops == {"inner_source": 1}


def test_first_refused_packet_from_a_new_address_counts_for_its_device(world: World, ann: StockDevice) -> None:
    ann.connect()
    ann.move(b"\2\0\0\1\xc0\0\2\1")
    ann.send(ann.transport(None, b"\xff" * 48))
    assert ann.record.drops == {"inner_source": 1}


def test_sessions_are_renewed_whatever_is_inside(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.restart()
    world.tick()
    world.now += 121
    sent = ann.send(ann.transport(None, b"\xff" * 48))
    assert [packets.message_type(out.datagram) for out in sent] == [packets.INITIATION]


@given(st.binary(max_size=120))
def test_nothing_in_the_tunnel_is_amplified(inner: bytes) -> None:
    world = World()
    ann = world.add("ann", b"\2\0" + bytes(6)).connect()
    datagram = ann.transport(None, inner)
    assert sum(len(sent.datagram) for sent in world.raw(ann.address, datagram)) <= len(datagram)
