# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service's sockets outlive a restart, and trains of datagrams reach whom they are for, whatever is among them."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.client import Client, random_index, transport
from harness.netns import Namespace, link
from harness.service import PORT, Relay
from peer_relay import addresses
from peer_relay.datagrams import BatchSocket

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
            ((offset, size, _, _, _),) = second.receive()
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

    def device(self) -> socket.socket:
        with self.devices.inside():
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((_DEVICES, 0))
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


def test_what_is_too_large_for_its_way_harms_no_neighbour(cable: Cable) -> None:
    """Two ways out: one for 1500 bytes, one for 600; and one to nowhere."""
    cable.devices.ip("addr add 10.1.9.1/32 dev lo")
    cable.relay.ip(f"route add 10.1.9.1/32 via {_DEVICES} mtu lock 600", "route add unreachable 10.1.9.2/32")
    failed: list[tuple] = []
    with cable.relay.inside():
        relay = BatchSocket("0.0.0.0", PORT, 1 << 20, lambda *what: failed.append(what))
    wide = cable.device()
    with cable.devices.inside():
        narrow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        narrow.bind(("10.1.9.1", 0))
    feeder = cable.device()
    local = addresses.host_bytes(addresses.pack(_RELAY, PORT))
    content = [transport(1, number, 1000) for number in range(6)]
    for datagram in content:
        feeder.sendto(datagram, (_RELAY, PORT))
    feeder.close()
    batch = relay.receive()
    assert len(batch) == 6
    parts = [word for offset, size, *_ in batch for word in (relay.payload_address + offset, size)]
    nowhere = addresses.pack("10.1.9.2", 9)
    for _ in range(2):  # the second time it is known which way takes no trains
        relay.queue(parts, addresses.pack(*wide.getsockname()), local, 1000)
        relay.queue(parts, addresses.pack(*narrow.getsockname()), local, 1000)  # as a train it is refused
        relay.queue(parts[:2], nowhere, local, 0)
        relay.queue(parts[2:4], addresses.pack(*narrow.getsockname()), local, 0)
        relay.queue(parts[:4], nowhere, local, 1000)
        relay.flush()
    assert _arrived(wide) == content * 2
    assert _arrived(narrow) == [*content, content[1]] * 2
    assert failed == [("send_failed", nowhere, 1, 1000)] * 6
    for end in (relay, wide, narrow):
        end.close()


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
