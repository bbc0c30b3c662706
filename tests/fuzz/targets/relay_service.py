# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's loop, with strangers and registered devices that mean harm: well-formed WireGuard from any source."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable

from peer_common import directory, packets
from peer_relay import addresses, drops
from peer_relay.core import probe
from peer_relay.core.device import Binding
from peer_relay.dataplane.gso import Received
from peer_relay.dataplane.userspace import UserspacePlane
from peer_relay.faults import Faults
from relay_world import LOCAL, LOCAL_2, PORT, Sent, StockDevice, World, at, check_consistency, echo_v4, echo_v6, udp

from targets.grammar import Hostile
from targets.target import Target

_MOST_STEPS = 30
_ROOM = 1 << 16
_HOMES = [at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3"), at("2001:db8::4"), at("192.0.2.5")]
_ODD = [
    at("198.18.0.1"),
    at("198.51.100.1", PORT),  # the relay itself
    at("203.0.113.7", PORT),  # another relay, perhaps
    at("127.0.0.1", 9),
    at("0.0.0.0", 1),
    at("255.255.255.255"),
    at("224.0.0.1"),
    at("::1"),
    at("::ffff:192.0.2.1"),
    at("fe80::1%3"),
    at("ff02::1"),
    at("192.0.2.1", 0),
]
_LOCALS = [LOCAL, LOCAL, LOCAL, LOCAL_2, b"", bytes(16)]
_PAUSES = [0, 0, 0.05, 0.3, 1, 6, 26, 125, 200, 301]


class _Strict(Faults):
    def note(self, part: str, error: Exception) -> None:
        raise error


class _Wire:
    """A socket of the plane's that neither receives nor sends: batches and what leaves are lists."""

    payload_address = 0
    local = at("0.0.0.0", PORT)

    def __init__(self) -> None:
        self.payload = memoryview(bytearray(_ROOM))
        self.batch: list[Received] = []
        self.mark = 0  # DSCP and ECN of the batch
        self.left: list[Sent] = []

    def receive(self) -> list[Received]:
        taken, self.batch = self.batch, []
        return taken

    def send(self, datagram: bytes, address: bytes, local: bytes) -> None:
        self.left.append(Sent(datagram, Binding(address, local)))

    def queue(
        self, parts: list[int], address: bytes, local: bytes, segment: int, keep: memoryview, mark: int = 0
    ) -> None:
        assert mark == self.mark, "as it came"
        train = b"".join(bytes(keep[at : at + size]) for at, size in zip(parts[::2], parts[1::2], strict=True))
        for start in range(0, len(train), segment or len(train)):
            self.send(train[start : start + (segment or len(train))], address, local)

    def flush(self) -> None:
        """Everything has left already."""


class _Loop(World):
    """The world, with the plane between the network and the switchboard, and an account of who got how much."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = _Wire()
        self.came: Counter[bytes] = Counter()
        self.left: Counter[bytes] = Counter()
        self.proven: set[bytes] = set()  # where a device has been bound
        self.claimed: set[bytes] = set()  # where a device has said that it is
        self.renew()

    def renew(self) -> None:
        self.plane = UserspacePlane(self.switchboard, _Strict())
        self.plane.sockets = [self.wire]
        self.plane._by_family = {addresses.V4_SIZE: self.wire, addresses.V6_SIZE: self.wire}

    def raw(self, source: bytes, datagram: bytes, local: bytes = LOCAL, copies: int = 1) -> list[Sent]:
        train = datagram * copies
        self.wire.payload[: len(train)] = train
        self.wire.mark = len(datagram) % 256
        self.wire.batch.append((0, len(train), source, local, len(datagram) or 1, self.wire.mark))
        self.came[source] += len(train)
        self.plane.drain(self.wire, self.now)
        return self.take()

    def deliver(self, sent: list[Sent]) -> None:
        queue = deque(sent)
        while queue:
            datagram, binding = queue.popleft()
            device = self.network.get(binding.address)
            answers = []
            if device:
                with contextlib.suppress(drops.Refused):  # the device's own affair
                    answers = device.receive(datagram)
            for answer in answers:
                queue.extend(self.raw(device.address, answer, binding.local))

    def take(self) -> list[Sent]:
        self.proven |= set(self.switchboard.bound)
        self.plane.flush()
        sent, self.wire.left = self.wire.left, []
        for datagram, binding in sent:
            self.left[binding.address] += len(datagram)
        self.switchboard.moved.clear()
        self.switchboard.rerouted.clear()
        return sent


class _Harm:
    """What a fuzzer's bytes let strangers and devices do."""

    def __init__(self, choices: Hostile):
        self.choices = choices
        self.world = _Loop()
        self.devices = [self.world.add(name, home) for name, home in zip("abcd", _HOMES, strict=False)]
        self.world.register(self.devices[2], ("default",), 12_500.0)
        self.world.register(self.devices[3], ("others", "default"))
        self.stranger = self.world.stranger("e", _HOMES[4])
        for device in self.devices[:3]:
            device.connect()
        self.devices[0].shake_hands(self.devices[1])
        self.rules: list[Callable[[], None]] = [
            self.connect,
            self.shake_hands,
            self.say,
            self.move,
            self.forge,
            self.initiate,
            self.answer,
            self.replay,
            self.ask,
            self.probe,
            self.settings,
            self.restart,
        ]

    def device(self) -> StockDevice:
        return self.choices.of(self.devices)

    def source(self) -> bytes:
        kind = self.choices.number(4)
        if kind == 0:
            return self.choices.of(_ODD)
        if kind == 1:
            return addresses.join(self.choices.address().packed, 1 + self.choices.number(65535))
        return self.choices.of(_HOMES) if kind == 2 else self.device().address

    def index(self) -> int:
        """One that somebody uses, or any."""
        own = self.world.switchboard.own
        used = [*own.sessions, *own.handshakes, *self.world.switchboard._indexes]
        return self.choices.of(used[:200]) if used and self.choices.number(4) else self.choices.of([0, 1, 2**32 - 1])

    def send(self, source: bytes, datagram: bytes) -> None:
        copies = self.choices.of([1, 1, 1, 2, 30])
        self.world.deliver(self.world.raw(source, datagram, self.choices.of(_LOCALS), copies))

    def run(self) -> None:
        for _ in range(_MOST_STEPS):
            if not self.choices.left:
                break
            self.choices.of(self.rules)()
            pause = self.choices.of(_PAUSES)
            self.world.now += pause
            self.world.wall += pause
            self.world.tick()

    # --- rules --------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self.device().connect(self.choices.of(_LOCALS))

    def shake_hands(self) -> None:
        self.device().shake_hands(self.device())

    def say(self) -> None:
        device, peer = self.device(), self.device()
        if peer.identity.public in device.current:
            self.send(device.address, device.transport(peer, bytes(self.choices.of([0, 16, 1400]))))

    def move(self) -> None:
        """A device goes somewhere, also where another one is, and may say so."""
        device = self.device()
        device.move(self.source())
        self.keep_alive(device, device.address)

    def forge(self) -> None:
        """A device speaks to the relay from where it is not."""
        self.keep_alive(self.device(), self.source())

    def keep_alive(self, device: StockDevice, source: bytes, inner: bytes = b"") -> None:
        if self.world.identity.public in device.current:
            self.world.claimed.add(source)
            self.send(source, device.transport(None, inner))

    def initiate(self) -> None:
        sender = self.choices.of([*self.devices, self.stranger])
        peer = self.choices.of([None, *self.devices, self.stranger])
        real = sender.initiation(peer, self.index() if self.choices.number(2) else None)
        if self.choices.number(3) == 0:  # a key that is not its own, or a point of low order, under a right mac1
            key = peer.identity.mac1_key if peer else self.world.identity.mac1_key
            real = packets.append_macs(real[:8] + bytes(32) + real[40:-32], key)
        source = self.source()
        self.world.claimed.add(source)
        self.send(source, real)

    def answer(self) -> None:
        """A response, a cookie reply or data under an index that the sender has chosen."""
        kind, size = self.choices.of(
            [(packets.RESPONSE, 92), (packets.COOKIE_REPLY, 64), (packets.TRANSPORT, 32), (packets.TRANSPORT, 1452)]
        )
        if kind == packets.TRANSPORT:
            message = packets.HEAD.pack(kind, self.index()) + self.choices.bytes(8).ljust(size - 8, b"\xff")
        else:
            words = self.index(), self.index()
            message = bytes([kind, 0, 0, 0]) + b"".join(word.to_bytes(4, "little") for word in words)
            message = message[: 12 if kind == packets.RESPONSE else 8].ljust(size, b"\x01")
            if kind == packets.RESPONSE:
                keys = [self.world.identity.mac1_key, *(device.identity.mac1_key for device in self.devices)]
                message = packets.append_macs(message[:-32], self.choices.of(keys))
        self.send(self.source(), message)

    def replay(self) -> None:
        seen = self.choices.of([*self.devices, self.stranger]).seen
        if seen:
            self.send(self.source(), self.choices.of(seen[-200:]))

    def ask(self) -> None:
        """Something in the tunnel: the directory, a ping, or no packet of its own at all."""
        device = self.device()
        number = self.world.registered.get(device.name)
        here = [str(address) for address in number.addresses] if number else ["10.77.1.2", "fd77::1:2"]
        targets = [self.choices.address() for _ in range(self.choices.number(directory.MAX_TARGETS + 1))]
        request = directory.write_request(bytes(8), targets)
        if self.choices.number(3) == 0:
            request = request[: self.choices.number(len(request) + 1)] + self.choices.bytes(4)
        inner = self.choices.of(
            [
                udp(here[0], "10.77.0.1", request),
                udp(here[1], "fd77::1", request),
                udp("10.77.1.9", "10.77.0.1", request),
                udp(here[0], "224.0.0.1", request),
                echo_v4(here[0], "10.77.0.1"),
                echo_v6(here[1], "fd77::1"),
                b"\x45",
                bytes(1400),
            ]
        )
        self.keep_alive(device, device.address if self.choices.number(3) else self.source(), inner)

    def probe(self) -> None:
        made = probe.make(self.world.identity, self.world.wall + self.choices.of([0, -400, 400]))
        source = self.source()
        for _ in range(1 + self.choices.number(2)):
            self.send(source, made)

    def settings(self) -> None:
        device = self.device()
        rule = self.choices.number(4)
        if rule == 0 and device.name in self.world.registered:
            self.world.remove(device)
        elif rule == 1:
            self.world.switchboard.expect_relays([PORT, self.choices.of([9, 51820])])
        else:
            groups = self.choices.of([("default",), ("others",), ("default", "others")])
            self.world.register(device, groups, self.choices.of([0.0, 1.0, 12_500.0]))

    def restart(self) -> None:
        self.world.restart(self.choices.of([0.1, 60.0]), self.choices.of([0.0, -1e6, 1e6]))
        self.world.renew()


def relay_service(data: bytes) -> None:
    harm = _Harm(Hostile(data))
    harm.run()
    world = harm.world
    board = world.switchboard
    assert set(board.drops) <= set(drops.REASONS), board.drops
    assert "fault" not in board.drops
    check_consistency(board)
    for device in board.devices.values():
        assert len(device.pairs) < len(world.devices) + 1
        assert set(device.drops) <= set(drops.REASONS)
    assert len(board.own.probes) <= probe.MAX_PROBES
    assert len(board.own._asks) <= 4096
    assert len(board.own._shares) <= 1024
    # Who has proven nothing gets no more than it has sent, whoever that is.
    for address in world.left.keys() - world.proven - world.claimed:
        assert world.left[address] <= world.came[address], addresses.text(address)
    # Where a device says that it is, it is asked: what it has sent pays for that, but for the first question.
    asked = sum(world.left[address] for address in world.claimed - world.proven)
    assert asked <= sum(world.came.values()) + len(world.devices) * packets.INITIATION_SIZE
    # After a quarter of an hour without a word, all that has ended is forgotten.
    for _ in range(30):
        world.now += 31
        world.wall += 31
        board.tick(world.now, world.wall)
        world.take()
    assert not any(device.routes or device.held or device.claim for device in board.devices.values())
    assert not board._indexes
    assert not board.own.handshakes
    assert not len(board._strangers) + len(board._arriving)


_SEEDS = [bytes([rule, *range(40)]) * 4 for rule in range(12)] + [bytes(range(256)), bytes(120)]
TARGETS = {"relay_service": Target(relay_service, (), _SEEDS)}
