# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small world for tests of the switchboard: a clock that moves when told, a network, devices that do as stock ones.

Nothing here opens a socket. The relay's outbox is delivered to whoever receives at the address; what nobody receives
is lost, and everything is kept in `World.log`.
"""

from __future__ import annotations

import struct
from collections import deque
from hashlib import blake2s
from ipaddress import ip_address
from typing import NamedTuple

from peer_common import packets
from peer_relay import addresses, state
from peer_relay.core.device import Binding, Device
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.core.relay_peer import RelayPeer
from peer_relay.core.switchboard import Switchboard
from peer_relay.dataplane.kernel.entries import Entries
from peer_relay.wireguard.cookies import CookieJar, CookieMint
from peer_relay.wireguard.noise import HandshakeError, Identity, InitiationReader, InitiationWriter, tai64n
from peer_relay.wireguard.session import Session

LOCAL = bytes([198, 51, 100, 1])  # the relay's own address, as the data plane reports it
PORT = 40000  # where the relay listens
LOCAL_2 = bytes([198, 51, 100, 2])
OVERLAY = frozenset({ip_address("10.77.0.1"), ip_address("fd77::1")})


def at(host: str, port: int = 51820) -> bytes:
    """Return a source address."""
    return addresses.pack(host, port)


def private_key(name: str) -> bytes:
    """Return the private key of that name: the same in every run."""
    return blake2s(name.encode()).digest()


class Sent(NamedTuple):
    """A datagram that left the relay."""

    datagram: bytes
    binding: Binding


class StockDevice:
    """What stock WireGuard does with datagrams; timers are the test's."""

    def __init__(self, world: World, name: str, address: bytes):
        self.world = world
        self.name = name
        self.identity = Identity(private_key(name))
        self.address = address
        self.loaded = False  # answers initiations by cookie replies
        self.mint = CookieMint(self.identity.cookie_key)
        self.jars: dict[bytes, CookieJar] = {}
        self.timestamps: dict[bytes, bytes] = {}
        self.pending: dict[int, tuple[bytes, InitiationWriter]] = {}
        self.sessions: dict[int, tuple[bytes, Session]] = {}
        self.current: dict[bytes, Session] = {}
        self.received: list[tuple[str, bytes]] = []  # (sender, inner packet), keepalives too
        self.seen: list[bytes] = []  # every datagram that reached it
        self.next_index = int.from_bytes(self.identity.public[:3], "big") << 8

    @property
    def record(self) -> Device:
        """What the relay knows of it."""
        return self.world.switchboard.devices[self.identity.public]

    def settings(self, number: int, groups: frozenset[str], rate_limit: float) -> DeviceSettings:
        overlay = (ip_address(f"10.77.1.{number}"), ip_address(f"fd77::1:{number}"))
        return DeviceSettings(self.name, self.identity.public, overlay, groups, rate_limit)

    # --- what it makes, without sending it ----------------------------------------------------------------------------

    def index(self) -> int:
        self.next_index += 1
        return self.next_index

    def initiation(self, peer: bytes | StockDevice | None = None, index: int | None = None) -> bytes:
        """Return an initiation to a public key or a device; None is the relay."""
        key = self.world.key(peer)
        index = self.index() if index is None else index
        self.world.wall_counter += 1
        timestamp = tai64n(self.world.wall + self.world.wall_counter / 1000)
        cookie = self.jars.setdefault(key, CookieJar()).current(self.world.now)
        writer = InitiationWriter(self.identity, key, index, timestamp, cookie)
        self.pending[index] = key, writer
        return writer.datagram

    def transport(self, peer: bytes | StockDevice | None = None, inner: bytes = b"") -> bytes:
        """Return a transport message on the session with a peer; None is the relay."""
        return self.current[self.world.key(peer)].seal(inner)

    # --- what it does -------------------------------------------------------------------------------------------------

    def move(self, address: bytes) -> None:
        """Go to another address, without telling anybody."""
        self.world.leave(self)
        self.address = address
        self.world.arrive(self)

    def send(self, datagram: bytes, local: bytes = LOCAL) -> list[Sent]:
        """Send a datagram to the relay; everything that follows from it happens at once."""
        return self.world.send(self.address, datagram, local)

    def connect(self, local: bytes = LOCAL) -> StockDevice:
        """Shake hands with the relay."""
        self.send(self.initiation(), local)
        return self

    def keepalive(self, local: bytes = LOCAL) -> list[Sent]:
        return self.send(self.transport(), local)

    def shake_hands(self, peer: StockDevice) -> None:
        self.send(self.initiation(peer))

    def say(self, peer: StockDevice, inner: bytes = b"hello") -> bool:
        """Send something to a peer; tell whether it arrived."""
        before = len(peer.received)
        self.send(self.transport(peer, inner))
        return (self.name, inner.ljust(-(-len(inner) // 16) * 16, b"\0")) in peer.received[before:]

    # --- what reaches it ----------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes) -> list[bytes]:
        """Take a datagram; return what it sends then."""
        self.seen.append(datagram)
        kind = packets.message_type(datagram)
        try:
            if kind == packets.INITIATION:
                return self._initiation(datagram)
            if kind == packets.RESPONSE:
                return self._response(datagram)
            if kind == packets.COOKIE_REPLY:
                key, writer = self.pending[packets.receiver_index(datagram)]
                assert self.jars[key].store(datagram, key, packets.split_macs(writer.datagram)[1], self.world.now)
            if kind == packets.TRANSPORT:
                key, session = self.sessions[packets.receiver_index(datagram)]
                inner = session.unseal(datagram, self.world.now)
                newest = self.current.get(key)
                if newest is None or session.created >= newest.created:
                    self.current[key] = session
                self.received.append((self.world.name(key), inner))
        except (HandshakeError, KeyError):
            pass
        return []

    def _initiation(self, datagram: bytes) -> list[bytes]:
        if not packets.mac1_valid(self.identity.mac1_key, datagram):
            return []
        if self.loaded and not self.mint.valid(datagram, LOCAL, self.world.now):
            return [self.mint.reply(datagram, LOCAL, self.world.now)]
        reader = InitiationReader(self.identity, datagram)
        timestamp = reader.timestamp()
        if timestamp <= self.timestamps.get(reader.initiator, b""):
            return []
        self.timestamps[reader.initiator] = timestamp
        index = self.index()
        answer, keys = reader.respond(index)
        self.sessions[index] = reader.initiator, Session(keys, index, self.world.now, initiator=False)
        return [answer]

    def _response(self, datagram: bytes) -> list[bytes]:
        index = packets.receiver_index(datagram)
        key, writer = self.pending[index]
        session = Session(writer.finish(datagram), index, self.world.now, initiator=True)
        del self.pending[index]
        self.sessions[index] = key, session
        self.current[key] = session
        return [session.seal(b"")]


class World:
    """The relay's switchboard, the devices around it and the network between them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.wall_counter = 0
        self.identity = Identity(private_key("relay"))
        self.network: dict[bytes, StockDevice] = {}
        self.devices: dict[str, StockDevice] = {}
        self.registered: dict[str, DeviceSettings] = {}
        self.log: list[Sent] = []
        self.start()

    def start(self) -> None:
        """Start the relay, with nothing in memory."""
        self.switchboard = Switchboard(RelayPeer(self.identity, OVERLAY), [PORT])
        self.switchboard.apply(self.registered.values())
        self.switchboard.tick(self.now, self.wall)

    def restart(self, pause: float = 1.0, wall_jump: float = 0.0) -> None:
        """Stop the relay and start it again from its state file's content."""
        saved = state.export(self.switchboard, self.now, self.wall)
        self.now += pause
        self.wall += pause + wall_jump
        self.switchboard = Switchboard(RelayPeer(self.identity, OVERLAY), [PORT])
        self.switchboard.apply(self.registered.values())
        state.restore(self.switchboard, saved, self.now)

    # --- who is there -------------------------------------------------------------------------------------------------

    def add(
        self, name: str, address: bytes, groups: tuple[str, ...] = ("default",), rate_limit: float = 0.0
    ) -> StockDevice:
        """Register a device and put it on the network."""
        device = self.stranger(name, address)
        self.register(device, groups, rate_limit)
        return device

    def stranger(self, name: str, address: bytes) -> StockDevice:
        """Put a device on the network that the relay does not know."""
        device = self.devices[name] = StockDevice(self, name, address)
        self.arrive(device)
        return device

    def register(self, device: StockDevice, groups: tuple[str, ...] = ("default",), rate_limit: float = 0.0) -> None:
        """Register a device, or change its settings."""
        number = list(self.devices).index(device.name) + 2
        self.registered[device.name] = device.settings(number, frozenset(groups), rate_limit)
        self.switchboard.apply(self.registered.values())

    def remove(self, device: StockDevice) -> None:
        """Take a device out of the relay's settings."""
        del self.registered[device.name]
        self.switchboard.apply(self.registered.values())

    def arrive(self, device: StockDevice) -> None:
        self.network[device.address] = device

    def leave(self, device: StockDevice) -> None:
        """Let nothing reach a device any more."""
        if self.network.get(device.address) is device:
            del self.network[device.address]

    def key(self, peer: bytes | StockDevice | None) -> bytes:
        if peer is None:
            return self.identity.public
        return peer.identity.public if isinstance(peer, StockDevice) else peer

    def name(self, key: bytes) -> str:
        return next((device.name for device in self.devices.values() if device.identity.public == key), "relay")

    # --- what happens -------------------------------------------------------------------------------------------------

    def raw(self, source: bytes, datagram: bytes, local: bytes = LOCAL) -> list[Sent]:
        """Give the relay a datagram; return what it sends, undelivered."""
        self.switchboard.receive(datagram, source, local, self.now)
        return self.take()

    def take(self) -> list[Sent]:
        """Empty the outbox."""
        sent = [Sent(*entry) for entry in self.switchboard.outbox]
        self.switchboard.outbox.clear()
        self.log += sent
        return sent

    def send(self, source: bytes, datagram: bytes, local: bytes = LOCAL) -> list[Sent]:
        """Give the relay a datagram, deliver what it sends and what is answered; return the first step's output."""
        sent = self.raw(source, datagram, local)
        self.deliver(sent)
        return sent

    def deliver(self, sent: list[Sent]) -> None:
        queue = deque(sent)
        while queue:
            datagram, binding = queue.popleft()
            device = self.network.get(binding.address)
            for answer in device.receive(datagram) if device else ():
                queue.extend(self.raw(device.address, answer, binding.local))

    def tick(self) -> list[Sent]:
        self.switchboard.tick(self.now, self.wall)
        sent = self.take()
        self.deliver(sent)
        return sent

    def wait(self, seconds: float) -> None:
        """Let time pass, a tick a second."""
        end = self.now + seconds
        while self.now < end:
            step = min(1.0, end - self.now)
            self.now += step
            self.wall += step
            self.tick()

    def drops(self) -> dict[str, int]:
        """Return the dropped datagrams by reason."""
        return {reason: count.packets for reason, count in self.switchboard.drops.items()}

    def events(self) -> list[tuple[str, str]]:
        """Take out the events."""
        found = [(event.kind, event.subject) for event in self.switchboard.events]
        self.switchboard.events.clear()
        return found


def check_consistency(switchboard: Switchboard) -> None:
    """Assert what must be true of a switchboard's memory at any time."""
    own, devices = switchboard.own, switchboard.devices
    registered = set(devices.values())
    # Bound addresses and bindings mirror each other.
    assert {device.binding.address: device for device in registered if device.binding} == switchboard.bound
    # Routes and the pairs' lists of indexes mirror each other, and lead to registered devices that may be reached.
    for device in registered:
        listed = sorted(index for pair in device.pairs.values() for index in pair.indexes)
        assert listed == sorted(device.routes)
        for peer, pair in device.pairs.items():
            assert pair.peer is peer
            assert peer in registered
            assert device.may_reach(peer)
            assert len(pair.indexes) <= 8
            assert all(device.routes[index].pair is pair for index in pair.indexes)
        assert set(device.held) <= registered
        # An index means one thing only to what comes from this device.
        assert not any(own.owns(index) and own.sessions.get(index, (None,))[0] is device for index in device.routes)
    # Sessions and handshakes belong to registered devices.
    held = {session.local_index: (device, session) for device in registered for session in device.sessions()}
    assert held == own.sessions
    assert {pending.device for pending in own.handshakes.values()} <= registered
    asked = {index: (device, address) for device in registered for address, index in device.asked.items()}
    assert {index: (pending.device, pending.address) for index, pending in own.handshakes.items()} == asked
    assert all(len(device.asked) <= 16 for device in registered)
    assert not own.sessions.keys() & own.handshakes.keys()
    # Bounds of what strangers can make the relay remember.
    assert len(switchboard._strangers) <= 1024 * 32
    assert len(switchboard._arriving) <= 512 * 32
    assert len(switchboard._credit) <= 1024
    assert len(own.strangers) <= 16
    assert set(switchboard._indexes.values()) <= registered
    assert all(index in owner.routes for index, owner in switchboard._indexes.items())


def check_entries(entries: Entries) -> None:
    """Assert that what was derived change by change is what one look at everything derives."""
    entries.follow()
    switchboard = entries._switchboard
    anew = Entries(switchboard, entries._port, entries._next_hop)
    anew.follow()
    assert {key: flow.target for key, flow in entries.flows.items()} == {
        key: flow.target for key, flow in anew.flows.items()
    }
    for key, flow in entries.flows.items():
        assert switchboard.bound[key.source] is flow.device
        assert flow.device.routes[key.receiver_index].pair is flow.pair
        assert flow.device.routes[key.receiver_index].confirmed
        assert flow.pair.peer.binding.address == flow.target.destination
    assert entries.refusals == anew.refusals
    assert entries._senders == anew._senders
    assert entries.rejected.keys() <= entries.flows.keys()


# --- what is inside the tunnel --------------------------------------------------------------------------------------

REQUEST_BODY = bytes.fromhex("1234000168656c6c6f21")


def checksum(data: bytes) -> int:
    """RFC 1071, written another way than in the package: add with the carry at once."""
    total = 0
    for high, low in zip(data[::2], data[1::2].ljust(len(data[::2]), b"\0"), strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def echo_v4(source: str, destination: str, body: bytes = REQUEST_BODY, kind: int = 8) -> bytes:
    message = bytes([kind, 0, 0, 0]) + body
    message = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(message), 7, 0x4000, 64, 1, 0)
    head += ip_address(source).packed + ip_address(destination).packed
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + message


def echo_v6(source: str, destination: str, body: bytes = REQUEST_BODY, kind: int = 128) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    message = bytes([kind, 0, 0, 0]) + body
    pseudo = ends + struct.pack(">II", len(message), 58)
    message = message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]
    return struct.pack(">IHBB", 0x60000000, len(message), 58, 64) + ends + message


def udp(source: str, destination: str, payload: bytes, port: int = 7077, source_port: int = 40123) -> bytes:
    """Return a UDP datagram in an IP packet."""
    ends = ip_address(source).packed + ip_address(destination).packed
    length = 8 + len(payload)
    datagram = struct.pack(">HHHH", source_port, port, length, 0) + payload
    version = ip_address(source).version
    pseudo = ends + (struct.pack(">BBH", 0, 17, length) if version == 4 else struct.pack(">II", length, 17))
    datagram = datagram[:6] + struct.pack(">H", checksum(pseudo + datagram) or 0xFFFF) + datagram[8:]
    if version == 6:
        return struct.pack(">IHBB", 0x60000000, length, 17, 64) + ends + datagram
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 7, 0x4000, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + datagram
