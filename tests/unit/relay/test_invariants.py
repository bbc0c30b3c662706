# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens in whatever order, the switchboard's memory stays consistent and bounded, and nothing is raised."""

from __future__ import annotations

import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from peer_common import packets
from peer_relay import drops
from peer_relay.core import probe
from peer_relay.core.device import Binding, Device
from peer_relay.dataplane.kernel.entries import Entries
from peer_relay.dataplane.kernel.entry import NextHop, Refusal
from peer_relay.slices import finish
from peer_relay.status import document as status_document
from relay_world import LOCAL, LOCAL_2, World, at, check_consistency, check_entries

NAMES = ["ann", "bob", "cid", "dan"]
NAME = st.sampled_from(NAMES)
ADDRESS = st.sampled_from([at("192.0.2.1"), at("192.0.2.1", 2), at("192.0.2.2"), at("2001:db8::1"), at("2001:db8::2")])
GROUPS = st.sampled_from([("default",), ("other",), ("default", "other")])


class Relay(RuleBasedStateMachine):
    """Devices that come, go, move, talk; strangers that replay and forge; time that passes; restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for number, name in enumerate(NAMES, 1):
            self.world.add(name, at("203.0.113.1", number))
        self.captured: list[bytes] = []
        self.ways: dict[bytes, NextHop | Refusal] = {}
        self.entries = self.derive()

    def derive(self) -> Entries:
        return Entries(self.world.switchboard, 40000, self.way)

    def way(self, binding: Binding) -> NextHop | Refusal:
        return self.ways.get(binding.address, NextHop(2, 1500))

    def device(self, name: str):
        return self.world.devices[name]

    def capture(self, datagram: bytes) -> bytes:
        self.captured = [*self.captured[-19:], datagram]
        return datagram

    @rule(name=NAME, local=st.sampled_from([LOCAL, LOCAL_2]))
    def connect(self, name: str, local: bytes) -> None:
        device = self.device(name)
        device.send(self.capture(device.initiation()), local)

    @rule(one=NAME, other=NAME, lost=st.booleans())
    def ask(self, one: str, other: str, lost: bool) -> None:
        device = self.device(one)
        datagram = self.capture(device.initiation(self.device(other)))
        if lost:
            self.world.raw(device.address, datagram)
        else:
            device.send(datagram)

    @rule(one=NAME, other=NAME, size=st.sampled_from([0, 100, 1400]), lost=st.booleans())
    def say(self, one: str, other: str, size: int, lost: bool) -> None:
        device, peer = self.device(one), self.device(other)
        if peer.identity.public in device.current:
            datagram = self.capture(device.transport(peer, bytes(size)))
            if lost:
                self.world.raw(device.address, datagram)
            else:
                device.send(datagram)

    @rule(name=NAME, inner=st.sampled_from([b"", b"\xff" * 48]))
    def keepalive(self, name: str, inner: bytes) -> None:
        device = self.device(name)
        if self.world.identity.public in device.current:
            device.send(self.capture(device.transport(None, inner)))

    @rule(name=NAME, address=ADDRESS)
    def move(self, name: str, address: bytes) -> None:
        self.device(name).move(address)

    @rule(name=NAME, loaded=st.booleans())
    def load(self, name: str, loaded: bool) -> None:
        self.device(name).loaded = loaded

    @rule(source=ADDRESS, age=st.sampled_from([0.0, 200.0, 400.0]))
    def probe(self, source: bytes, age: float) -> None:
        self.world.send(source, self.capture(probe.make(self.world.identity, self.world.wall - age)))

    @precondition(lambda self: self.captured)
    @rule(data=st.data(), source=ADDRESS, flip=st.one_of(st.none(), st.integers(0, 147)))
    def replay(self, data: st.DataObject, source: bytes, flip: int | None) -> None:
        datagram = bytearray(data.draw(st.sampled_from(self.captured)))
        if flip is not None:
            datagram[flip % len(datagram)] ^= 1
        self.world.send(source, bytes(datagram))

    @rule(source=ADDRESS, name=NAME, index=st.integers(0, 3))
    def forge(self, source: bytes, name: str, index: int) -> None:
        head = packets.HEAD.pack(packets.INITIATION, index)
        self.world.send(source, packets.append_macs(head + os.urandom(108), self.device(name).identity.mac1_key))

    @rule(name=NAME, groups=GROUPS, rate=st.sampled_from([0.0, 1.0]))
    def register(self, name: str, groups: tuple[str, ...], rate: float) -> None:
        self.world.register(self.device(name), groups, rate)

    @rule(name=NAME)
    def remove(self, name: str) -> None:
        if name in self.world.registered:
            self.world.remove(self.device(name))

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0, 30.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(jump=st.sampled_from([0.0, -1e6, 1e6]))
    def restart(self, jump: float) -> None:
        self.world.restart(wall_jump=jump)
        self.entries = self.derive()

    @rule(address=ADDRESS, way=st.sampled_from([NextHop(3, 1400), Refusal("no_way", "no route")]))
    def reroute(self, address: bytes, way: NextHop | Refusal) -> None:
        self.ways[address] = way
        self.entries.moved([Binding(address, LOCAL)])

    def why_userspace(self, device: Device, peer: Device) -> str:
        refusal = self.entries.refusal(device, peer)
        return refusal.text if refusal else ""

    @invariant()
    def consistent(self) -> None:
        check_consistency(self.world.switchboard)
        assert self.world.switchboard.drops.keys() <= drops.REASONS.keys()

    @invariant()
    def entries_follow(self) -> None:
        check_entries(self.entries)

    @invariant()
    def spent_probes_are_bounded(self) -> None:
        own = self.world.switchboard.own
        assert len(own.probes) <= own.probes.answered
        assert own.identity.public not in own.strangers

    @invariant()
    def reported(self) -> None:
        traffic = status_document.traffic(self.world.switchboard, self.world.now, self.why_userspace)
        json.dumps(finish(traffic), allow_nan=False)


TestRelay = Relay.TestCase
TestRelay.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
