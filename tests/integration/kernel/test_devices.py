# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices whose other end is the test: one without link header, like PPP, and the network card of a virtual machine."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections import Counter
from ipaddress import ip_address

import pytest
from harness.kernel import PORT, V4, V6, Family, Talk, World, message, packed, receive_all
from peer_relay import addresses
from peer_relay.dataplane.kernel.entry import Key, Target

_TUNSETIFF = 0x400454CA
_TUN, _TAP, _NO_PI, _VNET_HDR = 0x1, 0x2, 0x1000, 0x4000
_VNET = struct.Struct("<BBHHHH")
_NEEDS_CSUM, _GSO_UDP_L4 = 1, 5
_MAC = bytes.fromhex("020000000077")
_SOURCE_PORT = 4444


def device(world: World, name: str, flags: int) -> int:
    with world.relay.inside():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | _NO_PI))
    return fd


def total(data: bytes) -> int:
    """The sum of RFC 1071."""
    found = sum(struct.unpack(f">{len(data) // 2}H", data))
    while found >> 16:
        found = (found & 0xFFFF) + (found >> 16)
    return found


def packet(source: str, destination: str, payload: bytes, summed: bool = True) -> bytes:
    """A UDP datagram to the relay; not `summed`: with the sum of the pseudo header only, as devices are given it."""
    hosts = ip_address(source).packed + ip_address(destination).packed
    size = 8 + len(payload)
    pseudo = hosts + struct.pack(">II", size, socket.IPPROTO_UDP)
    udp = struct.pack(">HHHH", _SOURCE_PORT, PORT, size, 0) + payload
    checksum = total(pseudo + udp.ljust(-(-size // 2) * 2, b"\0")) ^ 0xFFFF if summed else total(pseudo)
    udp = udp[:6] + struct.pack(">H", checksum) + udp[8:]
    if len(hosts) == 32:
        return struct.pack(">IHBB", 6 << 28, size, socket.IPPROTO_UDP, 64) + hosts + udp
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, socket.IPPROTO_UDP, 0) + hosts
    return head[:10] + struct.pack(">H", total(head) ^ 0xFFFF) + head[12:] + udp


def networks(family: Family) -> tuple[str, str, str]:
    """The other end's address, the relay's, and that as `ip addr` takes it."""
    return ("10.3.0.2", "10.3.0.1", "10.3.0.1/24") if family is V4 else ("fd03::2", "fd03::1", "fd03::1/64 nodad")


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_without_link_header(world: World, family: Family) -> None:
    """In by it, out by it, and from it to itself."""
    fd = device(world, "tun0", _TUN)
    other, inside, network = networks(family)
    world.relay.ip("link set tun0 up", f"addr add {network} dev tun0")
    tun = world.index("tun0")
    with world.relay.inside():
        assert world.table.attach([*world.interfaces, tun]) == {}
    talk = Talk(world, family)
    local, far, farther = (
        addresses.pack(host, port) for host, port in ((inside, PORT), (other, _SOURCE_PORT), (other, 5555))
    )
    entries = [
        (Key(far, local, 1), talk.target),
        (Key(packed(talk.bob), talk.target.local, 2), Target(far, local, tun, 1500)),
        (Key(far, local, 3), Target(farther, local, tun, 1500)),
    ]
    assert world.table.put(entries) == {}

    os.write(fd, packet(other, inside, message(1)))
    data, source = talk.bob.recvfrom(2048)
    assert (data, source[:2]) == (message(1), (family.outside, PORT))

    talk.bob.sendto(message(2), (family.outside, PORT))
    assert read(fd, message(2)) == (PORT, _SOURCE_PORT)
    os.write(fd, packet(other, inside, message(3)))
    assert read(fd, message(3)) == (PORT, 5555)
    assert {key.receiver_index: count.packets for key, (_, count) in world.table.read().items()} == {1: 1, 2: 1, 3: 1}
    os.close(fd)


def read(fd: int, payload: bytes) -> tuple[int, int]:
    """Return the ports of the next packet with that payload."""
    while select.select([fd], [], [], 2)[0]:
        data = os.read(fd, 4096)
        if data.endswith(payload):
            return struct.unpack_from(">HH", data, len(data) - len(payload) - 8)
    raise AssertionError("nothing came out of the device")


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_trains_of_a_virtual_network_card(world: World, family: Family) -> None:
    """It does not say how many segments a train has, only their size."""
    fd = device(world, "tap0", _TAP | _VNET_HDR)
    other, inside, network = networks(family)
    world.relay.ip(f"link set tap0 up address {_MAC.hex(':')}", f"addr add {network} dev tap0")
    with world.relay.inside():
        assert world.table.attach([*world.interfaces, world.index("tap0")]) == {}
    talk = Talk(world, family)
    cat = world.socket(world.bob, family.bob)
    far, local = addresses.pack(other, _SOURCE_PORT), addresses.pack(inside, PORT)
    assert world.table.put([(Key(far, local, 7), talk.target), (Key(far, local, 8), talk.to(cat))]) == {}
    ip_size = family.headers - 8
    head = _MAC + bytes.fromhex("020000000078") + (b"\x08\x00" if family is V4 else b"\x86\xdd")
    for pattern in ([7] * 20, [8] * 20, [7, 8] * 10, [7] * 19 + [8], [8] + [7] * 19):
        train = b"".join(message(index, number, 1000) for number, index in enumerate(pattern))[:-200]
        offload = _VNET.pack(_NEEDS_CSUM, _GSO_UDP_L4, 14 + family.headers, 1000, 14 + ip_size, 6)
        try:
            os.write(fd, offload + head + packet(other, inside, train, summed=False))
        except OSError as error:
            pytest.skip(f"this kernel takes no such trains from a device: {error}")
        bob, at_cat, relay = receive_all(talk.bob, cat, talk.relay)
        assert set(bob) <= {7} and set(at_cat) <= {8}, "misrouted"
        assert bob + at_cat + relay == Counter(pattern)
        assert bool(relay) == (len(set(pattern)) > 1)
    os.close(fd)
