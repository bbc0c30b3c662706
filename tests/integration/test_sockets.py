# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service's sockets outlive a restart, and trains of datagrams reach whom they are for, whatever is among them."""

from __future__ import annotations

import ctypes
import errno
import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.client import Client, random_index, transport
from harness.netns import Namespace, link
from harness.offload import pair
from harness.processes import wait_until
from harness.service import PORT, Relay
from peer_relay import addresses
from peer_relay.dataplane import batch_socket
from peer_relay.dataplane.batch_socket import BatchSocket

_RELAY, _DEVICES = "10.1.0.1", "10.1.0.2"
_SOL_UDP, _UDP_SEGMENT = 17, 103


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_kept_socket_still_has_what_arrived_meanwhile(host: str) -> None:
    first = BatchSocket(host, 0, 65536, lambda *_: None)
    kept = first.socket.dup()
    first.close()
    with socket.socket(first.family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"while it was away", kept.getsockname())
        second = BatchSocket(host, kept.getsockname()[1], 65536, lambda *_: None, kept)
        try:
            ((offset, size, *_),) = second.receive()
            assert bytes(second.payload[offset : offset + size]) == b"while it was away"
        finally:
            second.close()


class Cable:
    """The relay's host and one with devices, joined by a cable."""

    def __init__(self, logs: Path):
        self.relay, self.devices = Namespace("relay", logs), Namespace("devices", logs)
        link(self.relay, "eth0", self.devices, "eth0")
        self.relay.ip(f"addr add {_RELAY}/24 dev eth0")
        self.devices.ip(f"addr add {_DEVICES}/24 dev eth0")

    def features(self, host: Namespace, **features: bool) -> None:
        words = [word for name, on in features.items() for word in (name.replace("_", "-"), "on" if on else "off")]
        host.run("ethtool", "-K", "eth0", *words)

    def device(self, address: str = _DEVICES) -> socket.socket:
        with self.devices.inside():
            end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            end.bind((address, 0))
        end.settimeout(2)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        return end

    def remove(self) -> None:
        self.relay.remove()
        self.devices.remove()


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    made = Cable(tmp_path)
    yield made
    made.remove()


def _arrived(end: socket.socket) -> list[bytes]:
    """What has arrived until nothing comes for a while."""
    end.settimeout(0.3)
    found = []
    try:
        while True:
            found.append(end.recv(65536))
    except TimeoutError:
        return found


class Ways(NamedTuple):
    """The relay's address, a device behind 1500 bytes, one behind 1280, and one that nobody reaches."""

    relay: str
    wide: str
    narrow: str
    nowhere: str
    everywhere: str


@pytest.fixture(params=["EMSGSIZE", "EINVAL"])
def words_of_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to trains that are too large for their way: EINVAL by kernels from before 2025's fix of that."""
    real = batch_socket._libc

    class Libc:
        recvmmsg = real.recvmmsg

        @staticmethod
        def sendmmsg(*arguments: int) -> int:
            sent = real.sendmmsg(*arguments)
            if sent < 0 and ctypes.get_errno() in (errno.EMSGSIZE, errno.EINVAL):
                ctypes.set_errno(getattr(errno, request.param))
            return sent

    monkeypatch.setattr(batch_socket, "_libc", Libc)


@pytest.mark.usefixtures("words_of_kernels")
@pytest.mark.parametrize(
    "ways",
    [
        Ways(_RELAY, _DEVICES, "10.1.9.1", "10.1.9.2", "0.0.0.0"),
        Ways("fd00::1", "fd00::2", "fd00:9::1", "fd00:9::2", "::"),
    ],
    ids=["v4", "v6"],
)
def test_what_is_too_large_for_its_way_harms_no_neighbour(cable: Cable, ways: Ways) -> None:
    length = 128 if ":" in ways.relay else 32
    cable.relay.ip("addr add fd00::1/64 dev eth0 nodad")
    cable.devices.ip("addr add fd00::2/64 dev eth0 nodad", f"addr add {ways.narrow}/{length} dev lo")
    cable.relay.ip(
        f"route add {ways.narrow}/{length} via {ways.wide} mtu lock 1280",
        f"route add unreachable {ways.nowhere}/{length}",
    )
    failed: list[tuple] = []
    with cable.relay.inside():
        relay = BatchSocket(ways.everywhere, PORT, 1 << 20, lambda *what: failed.append(what))
    wide, narrow, feeder = (cable.device(address) for address in (ways.wide, ways.narrow, ways.wide))
    content = [transport(1, number, 1400) for number in range(6)]
    for datagram in content:
        feeder.sendto(datagram, (ways.relay, PORT))
    feeder.close()
    batch = relay.receive()
    assert len(batch) == 6
    parts = [word for offset, size, *_ in batch for word in (relay.payload_address + offset, size)]
    local = batch[0][3]
    to_wide, to_narrow = (addresses.pack(*end.getsockname()[:2]) for end in (wide, narrow))
    to_nowhere = addresses.pack(ways.nowhere, 9)
    for _ in range(2):  # the second time it is known which way takes no trains
        relay.queue(parts, to_wide, local, 1400)
        relay.queue(parts, to_narrow, local, 1400)
        relay.queue(parts[:2], to_nowhere, local, 0)
        relay.queue(parts[2:4], to_narrow, local, 0)
        relay.queue(parts[:4], to_nowhere, local, 1400)
        relay.flush()
    assert _arrived(wide) == content * 2
    assert _arrived(narrow) == [*content, content[1]] * 2
    assert failed == [("send_failed", to_nowhere, 1, 1400)] * 6
    for end in (relay, wide, narrow):
        end.close()


class Multihomed:
    """The relay's host with several addresses, a socket on all of them, and one device."""

    def __init__(self, cable: Cable, version: int, count: int):
        relay, device = (_RELAY, _DEVICES) if version == 4 else ("fd00::1", "fd00::2")
        self.cable, self.length = cable, 24 if version == 4 else 64
        cable.relay.ip("addr add fd00::1/64 dev eth0 nodad")
        cable.devices.ip("addr add fd00::2/64 dev eth0 nodad")
        more = [relay.removesuffix("1") + str(100 + number) for number in range(count - 1)]
        for address in more:
            cable.relay.ip(f"addr add {address}/{self.length} dev eth0" + " nodad" * (version == 6))
        self.addresses = [relay, *more]
        self.failed: list[tuple] = []
        with cable.relay.inside():
            everywhere = "0.0.0.0" if version == 4 else "::"
            self.relay = BatchSocket(everywhere, PORT, 4 << 20, lambda *what: self.failed.append(what))
        self.device = cable.device(device)
        self.device.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE: it listens when all is sent
        self.target = addresses.pack(*self.device.getsockname()[:2])

    def queue(self, local: str, content: list[bytes], segment: int = 0) -> None:
        memory = ctypes.create_string_buffer(b"".join(content))
        packed = socket.inet_pton(self.relay.family, local)
        self.relay.queue([ctypes.addressof(memory), len(memory) - 1], self.target, packed, segment, memory)

    def flush(self) -> None:
        with self.cable.relay.inside():  # where it looks for its addresses
            self.relay.flush()

    def arrived(self) -> list[tuple[str, bytes]]:
        """Whatever has arrived: from where, and what."""
        self.device.settimeout(0.3)
        found = []
        try:
            while True:
                datagram, source = self.device.recvfrom(65536)
                found.append((source[0], datagram))
        except TimeoutError:
            return found

    def close(self) -> None:
        self.relay.close()
        self.device.close()


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def multihomed(request: pytest.FixtureRequest, cable: Cable) -> Iterator[Multihomed]:
    made = Multihomed(cable, request.param, 4)
    yield made
    made.close()


def test_more_sizes_and_addresses_than_are_remembered(multihomed: Multihomed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device chooses the sizes of its trains, and to which of the relay's addresses it writes."""
    monkeypatch.setattr(batch_socket, "_CACHE_SIZE", 7)  # emptied at every place of a batch
    sizes = range(32, 432)
    expected = []
    for number, (size, local) in enumerate(itertools.product(sizes, multihomed.addresses)):
        content = [struct.pack("<II", number, part).ljust(size, b".") for part in range(2)]
        multihomed.queue(local, content, size)
        expected += [(local, datagram) for datagram in content]
    multihomed.flush()
    assert multihomed.failed == []
    found = multihomed.arrived()
    assert Counter(found) == Counter(expected)


def test_a_train_that_is_refused_goes_on_from_the_same_address(
    multihomed: Multihomed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says EINVAL to more segments than it takes, as older ones do to segments that are too large."""
    content = [struct.pack("<I", number) * 8 for number in range(300)]
    expected = [(multihomed.addresses[2], datagram) for datagram in content]
    multihomed.queue(multihomed.addresses[2], content, 32)
    multihomed.flush()
    assert multihomed.arrived() == expected
    # The second time nothing is tried in vain.
    monkeypatch.setattr(multihomed.relay, "_refused", None)
    multihomed.queue(multihomed.addresses[2], content, 32)
    multihomed.flush()
    assert multihomed.arrived() == expected
    assert multihomed.failed == []


def test_an_address_that_the_host_has_lost(multihomed: Multihomed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock WireGuard follows the relay to its other address; while it has the address, nothing leaves from another."""
    lost, first = multihomed.addresses[3], multihomed.addresses[0]
    content = [struct.pack("<I", number) * 8 for number in range(20)]
    multihomed.cable.relay.ip(f"addr del {lost}/{multihomed.length} dev eth0")
    multihomed.queue(lost, content[:1])
    multihomed.queue(lost, content, 32)
    multihomed.queue(first, content[:1])
    multihomed.flush()
    found = multihomed.arrived()
    assert [datagram for _, datagram in found] == [content[0], *content, content[0]]
    assert lost not in {source for source, _ in found}
    assert multihomed.failed == []
    multihomed.cable.relay.ip(f"addr add {lost}/{multihomed.length} dev eth0" + " nodad" * (multihomed.length == 64))
    monkeypatch.setattr(multihomed.relay, "_lost", {})  # a while later
    multihomed.queue(lost, content, 32)
    multihomed.flush()
    assert multihomed.arrived() == [(lost, datagram) for datagram in content]


def test_what_cannot_be_sent_at_all_is_counted(multihomed: Multihomed) -> None:
    """To port 0 the kernel says EINVAL, too; whoever writes from there gets no answer."""
    host, _ = addresses.unpack(multihomed.target)
    nobody = addresses.pack(host, 0)
    memory = bytes(64)
    local = socket.inet_pton(multihomed.relay.family, multihomed.addresses[1])
    multihomed.relay.send(memory, nobody, local)
    multihomed.flush()
    assert multihomed.failed == [("send_failed", nobody, 1, 64)]
    assert multihomed.arrived() == []


_SETTINGS = {
    "no merging": {"gro": False},
    "merging": {"gro": True},
    "merging what is forwarded": {"gro": True, "rx_udp_gro_forwarding": True},
    "merging to lists": {"gro": True, "rx_gro_list": True},
}


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole"])  # whether trains are cut where they leave
@pytest.mark.parametrize("setting", _SETTINGS)
@pytest.mark.parametrize("data_plane", ["userspace", "kernel"])
def test_mixed_trains_reach_whom_they_are_for(
    cable: Cable, tmp_path: Path, data_plane: str, setting: str, cut: bool
) -> None:
    cable.features(cable.relay, **_SETTINGS[setting])
    cable.features(cable.devices, tso=not cut, tx_udp_segmentation=not cut)
    relay = Relay(cable.relay, tmp_path, data_plane=data_plane)
    ann, bob, cat = (
        Client(name, f"10.77.1.{number}", cable.device(), (_RELAY, PORT)) for number, name in enumerate("abc", 1)
    )
    for client in (ann, bob, cat):
        relay.registrations[client.name] = client.registration()
    relay.start()
    try:
        for client in (ann, bob, cat):
            client.register(relay.public_key)
        indexes = {client: random_index() for client in (bob, cat)}
        for client, index in indexes.items():
            ann.call(client, random_index(), index)
        draw = random.Random(setting)
        sent: dict[Client, Counter[bytes]] = {client: Counter() for client in indexes}
        for number in range(120):
            size = draw.choice([32, 64, 148, 500, 1400])
            to = draw.choice([[bob], [bob, cat], [bob, cat, cat], [bob] * 7 + [cat]])
            train = [(draw.choice(to), size) for _ in range(draw.randrange(1, min(60, 60000 // size)))]
            train.append((train[-1][0], draw.randrange(32, size + 1)))
            content = [transport(indexes[client], number, length) for client, length in train]
            for (client, _), datagram in zip(train, content, strict=True):
                sent[client][datagram] += 1
            ann.end.sendmsg([b"".join(content)], [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))], 0, ann.relay)
        for client, expected in sent.items():
            arrived = Counter(_arrived(client.end))
            assert not arrived - expected, "misrouted, changed or doubled"
            assert not expected - arrived, "lost"
        assert relay.status()["data_plane"] == data_plane
    finally:
        relay.remove()
        for client in (ann, bob, cat):
            client.end.close()


_MARKS = (0, 1, 2, 3, 0x28, 0x88, 0xB8, 0xFF)  # ECN alone, DSCP alone, and both
_MARK_OPTIONS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS),
}


def _marked(end: socket.socket) -> list[tuple[int, bytes]]:
    """What has arrived until nothing comes for a while, with its DSCP and ECN."""
    end.settimeout(0.3)
    found = []
    try:
        while True:
            datagram, ((_, _, mark),), _, _ = end.recvmsg(65536, 64)
            found.append((mark[0], datagram))
    except TimeoutError:
        return found


@pytest.mark.parametrize("ends", [(4, 4), (6, 6), (4, 6), (6, 4)], ids=["v4", "v6", "v4 to v6", "v6 to v4"])
@pytest.mark.parametrize("data_plane", ["userspace", "kernel"])
def test_dscp_and_ecn_stay_with_their_datagrams(
    cable: Cable, tmp_path: Path, data_plane: str, ends: tuple[int, int]
) -> None:
    cable.features(cable.relay, gro=True)
    cable.features(cable.devices, tso=False, tx_udp_segmentation=False)
    cable.relay.ip("addr add fd00::1/64 dev eth0 nodad")
    cable.devices.ip("addr add fd00::2/64 dev eth0 nodad")
    relay = Relay(cable.relay, tmp_path, data_plane=data_plane)
    places = {4: (_RELAY, _DEVICES), 6: ("fd00::1", "fd00::2")}
    ann, bob = (
        Client(name, f"10.77.1.{number}", cable.device(places[version][1]), (places[version][0], PORT))
        for number, (name, version) in enumerate(zip("ab", ends, strict=True), 1)
    )
    for client in (ann, bob):
        relay.registrations[client.name] = client.registration()
    relay.start()
    try:
        for client in (ann, bob):
            client.register(relay.public_key)
        index = random_index()
        ann.call(bob, random_index(), index)
        in_kernel = data_plane == "kernel" and ends[0] == ends[1]

        def is_ready() -> bool:
            ann.send(transport(index, 0, 64))
            return bool(pair(relay, "a", "b")["kernel_packets"]) or not in_kernel

        wait_until("the pair is where it belongs", is_ready, 5)
        level, option, _ = _MARK_OPTIONS[ann.end.family]
        bob.end.setsockopt(*_MARK_OPTIONS[bob.end.family][::2], 1)
        _arrived(bob.end)
        draw = random.Random(data_plane)
        sent = []
        for number in range(200):
            mark, count = draw.choice(_MARKS), draw.choice([1, 1, 1, 7])
            content = [transport(index, number, 500) for _ in range(count)]
            ann.end.setsockopt(level, option, mark)
            ann.end.sendmsg([b"".join(content)], [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", 500))], 0, ann.relay)
            sent += [(mark, datagram) for datagram in content]
        assert _marked(bob.end) == sent, "and in order"
        forwarded = pair(relay, "a", "b")
        assert (forwarded["kernel_packets"] > len(sent)) == in_kernel
    finally:
        relay.remove()
        for client in (ann, bob):
            client.end.close()
