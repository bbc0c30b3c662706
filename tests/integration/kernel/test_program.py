# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's program forwards, how, and what it leaves to the relay's socket."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from harness.kernel import PORT, V4, V6, Family, Talk, World, message, packed, silent, sniffer, udp_frame
from peer_relay import addresses
from peer_relay.dataplane.kernel.entry import Key, Target

_SO_NO_CHECK = 11
_IP_RECVTTL = 12

families = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])


@families
@pytest.mark.parametrize("sum_by_ann", [True, False], ids=["ann sums", "ann leaves it"])
@pytest.mark.parametrize("sum_by_relay", [True, False], ids=["relay sums", "relay leaves it"])
def test_a_message_arrives_whole(world: World, family: Family, sum_by_ann: bool, sum_by_relay: bool) -> None:
    """Whoever completes the checksum: where somebody does, the receiver's kernel looks at it."""
    world.ethtool(world.ann, "eth0", tx=not sum_by_ann)
    world.ethtool(world.relay, "out0", tx=not sum_by_relay)
    talk = Talk(world, family)
    talk.put()
    begin = time.monotonic_ns()
    for size in (32, 33, 100, 1452 - 20):
        datagram = message(7, size, size)
        talk.send(datagram)
        data, source = talk.bob.recvfrom(2048)
        assert (data, source[:2]) == (datagram, (family.outside, PORT))
    count = talk.count()
    assert count[:2] == (4, 32 + 33 + 100 + 1432)
    assert begin - 10_000_000 <= count.last_ns <= time.monotonic_ns()
    assert world.table.read(begin + 10**12) == {}


@families
def test_both_ways_and_by_one_interface(world: World, family: Family) -> None:
    """As on a host with one network card: what comes in by it goes out by it."""
    world.ann.ip(f"addr add {'10.1.0.3/24' if family is V4 else '2001:db8:1::3/64 nodad'} dev eth0")
    talk = Talk(world, family)
    other = world.socket(world.ann, "10.1.0.3" if family is V4 else "2001:db8:1::3")
    local = addresses.pack(family.inside, PORT)
    for source, index, destination in ((talk.ann, 1, other), (other, 2, talk.ann)):
        entry = Key(packed(source), local, index), Target(packed(destination), local, world.index("in0"), 1500)
        assert world.table.put([entry]) == {}
    for source, index, destination in ((talk.ann, 1, other), (other, 2, talk.ann)):
        source.sendto(message(index), (family.inside, PORT))
        data, sender = destination.recvfrom(2048)
        assert (data, sender[:2]) == (message(index), (family.inside, PORT))


def test_no_checksum_stays_none(world: World, talk: Talk) -> None:
    talk.ann.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    with sniffer(world.bob) as frames:
        talk.passes()
        frame = udp_frame(frames)
    assert frame[40:42] == b"\0\0"


def test_a_checksum_of_zero_is_written_as_ones(world: World, talk: Talk) -> None:
    """All 65,536 sums: one of them is zero, which would mean that there is none."""
    world.ethtool(world.ann, "eth0", tx=False)
    for number in range(0, 1 << 16, 1024):
        for each in range(number, number + 1024):
            talk.send(message(7, each))
        assert [struct.unpack_from("<Q", talk.bob.recv(2048), 8)[0] for _ in range(1024)] == list(
            range(number, number + 1024)
        )


@families
def test_time_to_live(world: World, family: Family) -> None:
    talk = Talk(world, family)
    talk.put()
    if family is V4:
        level, option, ask, told = socket.IPPROTO_IP, socket.IP_TTL, _IP_RECVTTL, socket.IP_TTL
    else:
        level, option = socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        ask, told = socket.IPV6_RECVHOPLIMIT, socket.IPV6_HOPLIMIT
    talk.bob.setsockopt(level, ask, 1)
    for sent in (2, 64, 255):
        talk.ann.setsockopt(level, option, sent)
        talk.send(message(7))
        _, control, _, _ = talk.bob.recvmsg(2048, 100)
        assert [struct.unpack("=i", data)[0] for *_, kind, data in control if kind == told] == [sent - 1]
    talk.ann.setsockopt(level, option, 1)
    talk.passes_on(message(7))


@families
def test_other_datagrams_pass_on(world: World, family: Family) -> None:
    talk = Talk(world, family)
    talk.put(talk.target._replace(mtu=1400))
    room = 1400 - family.headers
    for datagram in (
        b"",
        b"x",
        message(7)[:8],
        message(7)[:31],
        *(message(7, kind=kind) for kind in (0, 1, 2, 3, 5, 0x104, 0x4000000)),
        message(8),
        message(7 << 8),
        message(7, size=room + 1),
        message(7, size=4000),  # in fragments
        message(7, size=30000),
    ):
        talk.passes_on(datagram)
    talk.send(message(7, size=room))
    assert len(talk.bob.recv(2048)) == room
    other = world.socket(world.ann, family.ann)
    other.sendto(message(7), (family.inside, PORT))
    assert talk.relay.recv(2048) == message(7)
    elsewhere = world.socket(world.relay, family.inside, PORT + 1)
    talk.ann.sendto(message(7), (family.inside, PORT + 1))
    assert elsewhere.recv(2048) == message(7)
    assert silent(talk.bob)
    assert talk.count()[:2] == (1, room)


def test_ip_options_pass_on(talk: Talk) -> None:
    talk.ann.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x00")
    talk.passes_on(message(7))


def test_extension_headers_pass_on(world: World) -> None:
    talk = Talk(world, V6)
    talk.put()
    talk.ann.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\x00\x00\x01\x04\x00\x00\x00\x00")
    talk.passes_on(message(7))


@families
def test_frames_that_are_not_for_the_relay(world: World, family: Family) -> None:
    """A tagged frame is the VLAN's, one to another station nobody's; a broken length is nothing to guess about."""
    world.ethtool(world.ann, "eth0", tx=False)
    talk = Talk(world, family)
    talk.put()
    with sniffer(world.relay, "in0") as frames:
        talk.passes()
        frame = udp_frame(frames)
    count = talk.count()
    kind = frame[12:14]
    length = 16 if family is V4 else 18
    others = [
        frame[:12] + b"\x81\x00\x00\x05" + frame[12:],
        frame[:12] + b"\x88\xa8\x00\x05\x81\x00\x00\x06" + frame[12:],
        b"\x02\x00\x00\x00\x00\x99" + frame[6:],
        b"\xff\xff\xff\xff\xff\xff" + frame[6:],
        frame + b"trailer",
        frame[:-10],
        frame[:length] + struct.pack(">H", 60) + frame[length + 2 :],
        *(frame[:cut] for cut in range(14, 60)),
        frame[:12] + (b"\x86\xdd" if kind == b"\x08\x00" else b"\x08\x00") + frame[14:],
    ]
    with world.ann.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for other in others:
            raw.send(other)
        assert silent(talk.bob)
        assert talk.count() == count
        raw.send(frame)
    talk.bob.recv(2048)


def test_a_vlan_interface(world: World) -> None:
    try:
        for host, interface in ((world.ann, "eth0"), (world.relay, "in0")):
            host.ip(f"link add link {interface} name vlan5 type vlan id 5", "link set vlan5 up")
    except RuntimeError as error:
        pytest.skip(f"this kernel has no VLAN interfaces: {error}")
    world.ann.ip("addr flush dev eth0", f"addr add {V4.ann}/24 dev vlan5")
    world.relay.ip("addr flush dev in0", f"addr add {V4.inside}/24 dev vlan5")
    with world.relay.inside():
        assert world.table.attach([world.index(name) for name in ("in0", "vlan5", "out0")]) == {}
    talk = Talk(world, V4)
    talk.put()
    talk.passes()
