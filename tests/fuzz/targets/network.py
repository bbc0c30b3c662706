# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What reaches the relay by its port, and through the tunnel."""

from __future__ import annotations

import copy
import ipaddress
import json
import socket
import struct

from peer_common import directory, packets
from peer_relay.core import directory_answers, overlay, probe
from peer_relay.dataplane.batch_socket import BatchSocket
from peer_relay.drops import Refused
from peer_relay.wireguard.cookies import CookieJar
from peer_relay.wireguard.noise import HandshakeError, Identity, InitiationReader, InitiationWriter
from peer_relay.wireguard.session import Session
from relay_world import World, at, check_consistency, echo_v4, echo_v6, udp

from targets.target import ROOT, Target

VECTORS = json.loads((ROOT / "tests/unit/relay/vectors.json").read_text())
TO_RELAY, FROM_RELAY = (
    {key: bytes.fromhex(value) for key, value in VECTORS[way].items() if isinstance(value, str)}
    for way in ("to_relay", "from_relay")
)
RELAY, DEVICE = Identity(bytes.fromhex(VECTORS["relay_private"])), Identity(bytes.fromhex(VECTORS["device_private"]))


def _scene() -> tuple[World, list[bytes]]:
    """A bound pair, a device that is not bound, and real datagrams of all types."""
    world = World()
    ann, bob, cid = (world.add(name, at(f"192.0.2.{number}")) for number, name in enumerate("abc", 1))
    ann.connect()
    bob.connect()
    ann.shake_hands(bob)
    (challenge,) = world.raw(at("198.18.0.1"), bob.transport(ann, bytes(200)))
    (forwarded,) = world.raw(ann.address, ann.initiation(bob))
    real = [
        ann.initiation(),
        ann.initiation(bob),
        cid.initiation(),
        cid.initiation(ann),
        probe.make(world.identity, world.wall),
        ann.transport(None, bytes(60)),
        ann.transport(None, udp("10.77.1.2", "10.77.0.1", directory.write_request(bytes(8), []))),
        ann.transport(),
        ann.transport(bob, bytes(300)),
        *bob.receive(challenge.datagram),
        *bob.receive(forwarded.datagram),
        bob.mint.reply(forwarded.datagram, b"", world.now),
    ]
    world.log.clear()
    return world, real


WORLD, REAL = _scene()
SOURCES = [*(at(f"192.0.2.{number}") for number in (1, 2, 3)), at("198.18.0.1"), at("2001:db8::1")]
MAC1_KEYS = [WORLD.identity.mac1_key, *(device.identity.mac1_key for device in WORLD.devices.values())]


def _entry(source: int, repair: int, datagram: bytes) -> bytes:
    return bytes([source, repair]) + struct.pack(">H", len(datagram)) + datagram


def switchboard(data: bytes) -> None:
    """A series of datagrams: each has a source, a choice of keys to repair its mac1 with, and a length before it."""
    world = copy.deepcopy(WORLD)
    sent: dict[bytes, int] = {}
    received: dict[bytes, int] = {}
    bound = set(world.switchboard.bound)
    while len(data) > 4:
        source, repair = SOURCES[data[0] % len(SOURCES)], data[1] % (len(MAC1_KEYS) + 1)
        size = struct.unpack_from(">H", data, 2)[0] % 1500
        datagram, data = data[4 : 4 + size], data[4 + size :]
        if repair and packets.message_type(datagram) in (packets.INITIATION, packets.RESPONSE):
            datagram = packets.append_macs(datagram[:-32], MAC1_KEYS[repair - 1])
        received[source] = received.get(source, 0) + len(datagram)
        world.now += 0.01
        for out in world.raw(source, datagram):
            sent[out.binding.address] = sent.get(out.binding.address, 0) + len(out.datagram)
        bound |= set(world.switchboard.bound)
    world.switchboard.tick(world.now + 1, world.wall)
    check_consistency(world.switchboard)
    for address in sent.keys() - bound:
        assert sent[address] <= received.get(address, 0), "amplification"


def initiation(data: bytes) -> None:
    """The responder reads and answers."""
    if packets.message_type(data) == packets.INITIATION:
        packets.mac1_valid(RELAY.mac1_key, data)
        reader = InitiationReader(RELAY, data)
        reader.timestamp()
        reader.respond(1)


WRITER = InitiationWriter(RELAY, DEVICE.public, VECTORS["from_relay"]["relay_index"], bytes(12))


def response(data: bytes) -> None:
    """The initiator reads the answer."""
    if packets.message_type(data) == packets.RESPONSE:
        WRITER.finish(data)


def cookie_reply(data: bytes) -> None:
    """The initiator is asked for mac2."""
    if packets.message_type(data) == packets.COOKIE_REPLY:
        CookieJar().store(data, DEVICE.public, packets.split_macs(WRITER.datagram)[1], 0.0)


def transport(data: bytes) -> None:
    """A message on the relay's own session."""
    if packets.message_type(data) == packets.TRANSPORT:
        reader = InitiationReader(RELAY, TO_RELAY["initiation"])
        reader.timestamp()
        Session(reader.respond(1)[1], 1, 0.0, initiator=False).unseal(data, 1.0)


def control(data: bytes) -> None:
    """The control messages of a received batch."""
    for family in (socket.AF_INET, socket.AF_INET6):
        sock = BatchSocket.__new__(BatchSocket)
        sock.family, sock._parsed = family, {}
        assert 0 <= sock._parse(data)[2] <= 0xFF, "a mark that can be sent"


def _control(level: int, kind: int, payload: bytes) -> bytes:
    return (struct.pack("@Nii", 16 + len(payload), level, kind) + payload).ljust(16 + -(-len(payload) // 8) * 8, b"\0")


PINGS = [echo_v4("10.77.1.2", "10.77.0.1"), echo_v6("fd77::2", "fd77::1")]


def directory_packet(data: bytes) -> None:
    """A packet in the tunnel, and what the relay answers: never more than was asked with."""
    ann = next(iter(WORLD.devices.values()))
    find = WORLD.switchboard._owners.get
    reply = overlay.udp_reply(
        data, directory.PORT, lambda message: directory_answers.answer(ann.record, message, find, WORLD.now)
    )
    assert reply is None or len(reply) <= len(data)


def directory_answer(data: bytes) -> None:
    """What a lying relay tells a device."""
    answer = directory.read_answer(data)
    assert len(answer.targets) <= directory.MAX_TARGETS
    assert directory.read_answer(directory.write_answer(answer)) == answer


DIRECTORY_REQUEST = directory.write_request(b"12345678", [ipaddress.ip_address(f"10.77.1.{n}") for n in (2, 3, 9)])
DIRECTORY_ANSWER = directory.write_answer(
    directory.Answer(
        b"12345678",
        directory.Entry(("192.0.2.1", 51820), True),
        (directory.Entry(("2001:db8::1", 1), True), directory.Entry()),
    )
)
DIRECTORY_PACKETS = [udp("10.77.1.2", "10.77.0.1", DIRECTORY_REQUEST), udp("fd77::1:2", "fd77::1", DIRECTORY_REQUEST)]
# Without a checksum, which IPv4 allows: what is changed inside gets through to the directory.
DIRECTORY_PACKETS.append(DIRECTORY_PACKETS[0][:26] + bytes(2) + DIRECTORY_PACKETS[0][28:])

TARGETS = {
    "switchboard": Target(
        switchboard,
        (),
        [
            b"".join(_entry(source, 0, datagram) for datagram in REAL[part : part + 3])
            for source in range(len(SOURCES))
            for part in (0, 3, 6, 9)
        ]
        + [_entry(0, repair, REAL[1]) + _entry(1, repair, REAL[-2]) for repair in range(5)],
        REAL,
    ),
    "initiation": Target(initiation, (HandshakeError,), [TO_RELAY["initiation"]]),
    "response": Target(response, (HandshakeError,), [FROM_RELAY["response"], TO_RELAY["response"]]),
    "cookie_reply": Target(cookie_reply, (), [REAL[-1]]),
    "transport": Target(transport, (Refused,), [TO_RELAY["keepalive"]]),
    "echo": Target(overlay.echo_reply, (), PINGS),
    "directory": Target(directory_packet, (), DIRECTORY_PACKETS),
    "directory_answer": Target(directory_answer, (directory.Malformed,), [DIRECTORY_ANSWER]),
    "control": Target(
        control,
        (),
        [
            _control(0, 8, bytes(12)),
            _control(41, 50, bytes(20)),
            _control(17, 104, bytes(4)),
            _control(0, 1, b"\x2a"),
            _control(41, 67, bytes(4)),
            b"",
        ],
    ),
}
