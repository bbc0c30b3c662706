# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers on and off the path, and the other device itself, cannot do."""

from __future__ import annotations

import pytest
from agent_net import Packet
from agent_world import PORT, World, behind_nats
from hypothesis import given
from hypothesis import strategies as st
from peer_agent.core import path_selector
from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import Message
from peer_agent.wire.probes import PING, PONG, SIZE, Key, Probe, Window

STRANGER = Endpoint("192.0.2.66", 6666)


@pytest.fixture
def world() -> World:
    result = behind_nats()
    result.run(1)
    result.net.keep_log = True
    result.stream("a", "b")
    result.run(5)
    result.net.log.clear()
    result.run(10)
    return result


def probes(world: World) -> list[bytes]:
    return [packet.content for _, packet in world.net.log if isinstance(packet.content, bytes)]


def unmoved(world: World, since: float) -> None:
    for device in world.devices.values():
        assert device.kind == "direct"
        assert device.pair.path.endpoint.host.startswith("198.51.100.")
    assert world.lost(since) == 0


@pytest.mark.parametrize("source", ["stranger", "other"])
def test_replayed_probes_move_nothing(world: World, source: str) -> None:
    since = world.now
    recorded = probes(world)
    assert len(recorded) >= 2
    for device in world.devices.values():
        place = STRANGER if source == "stranger" else device.pair.path.endpoint
        sets = len(device.sets)
        for content in recorded * 3:
            device.receive(Packet(place, Endpoint(device.host, PORT), content, 60))
            world.run(0.01)
        assert len(device.sets) == sets
    assert not any(packet.target == STRANGER for _, packet in world.net.log)
    world.run(20)
    unmoved(world, since)


def test_probes_that_are_diverted_on_their_way_prove_nothing(world: World) -> None:
    """Somebody on the path takes the probes off the wire and sends them on from elsewhere."""
    a, b = world.devices.values()
    since = world.now
    diverted = [packet for _, packet in world.net.log if isinstance(packet.content, bytes)]

    def divert(packet: Packet) -> bool:
        if isinstance(packet.content, bytes) and packet.target != STRANGER:
            diverted.append(packet)
        return isinstance(packet.content, bytes)

    world.net.blocked = divert
    for _ in range(100):
        world.run(0.1)
        while diverted:
            packet = diverted.pop()
            device = b if packet.source.host == a.router.public else a
            device.receive(packet._replace(source=STRANGER, target=Endpoint(device.host, PORT)))
    assert not any(endpoint == STRANGER for device in (a, b) for _, endpoint in device.sets)
    assert all(device.pair.path.endpoint != STRANGER for device in (a, b))
    assert world.gap(since) < 2


def test_a_path_that_lets_only_probes_pass_is_left(world: World) -> None:
    since = world.now
    direct = {"198.51.100.1", "198.51.100.2"}
    world.net.blocked = lambda packet: (
        not isinstance(packet.content, bytes) and {packet.source.host, packet.target.host} == direct
    )
    world.run(60)
    assert world.gap(since) < 10
    assert world.devices["a"].kind == "relay"


def test_data_that_comes_from_a_stranger_is_not_followed(world: World) -> None:
    """WireGuard goes where authentic packets come from, also when somebody on the path sends them on from elsewhere."""
    a, _ = world.devices.values()
    a.peer.endpoint = STRANGER
    world.run(0.5)
    assert a.peer.endpoint == a.pair.path.endpoint != STRANGER


@given(st.binary(max_size=64), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_only_the_other_sides_probes_open(noise: bytes, own: bytes, other: bytes) -> None:
    key, theirs = Key(own, other, True), Key(other, own, False)
    probe = Probe(PING, 7, True)
    datagram = theirs.seal(probe)
    assert len(datagram) == SIZE
    assert key.unseal(datagram) == probe
    assert key.unseal(key.seal(probe)) is None, "one's own, sent back"
    assert key.unseal(noise) is None
    assert key.unseal(Key(bytes(32), bytes(range(32)), False).seal(probe)) is None
    for position in range(SIZE):
        broken = bytearray(datagram)
        broken[position] ^= 1
        assert key.unseal(bytes(broken)) is None


@given(st.lists(st.tuples(st.sampled_from([PING, PONG]), st.integers(0, 400), st.booleans(), st.integers(1, 4))))
def test_pongs_to_nothing_and_pings_from_anywhere_leave_the_working_path(events: list) -> None:
    """Whatever a device with the key says: a path that works for data is not left for one without proof."""
    world = behind_nats()
    world.run(10)
    a = world.devices["a"]
    for kind, number, in_use, host in events:
        a.pair.probed(world.now, Probe(kind, number + 1000, in_use), Endpoint(f"192.0.2.{host}", 9), a.host)
    assert a.pair.path.endpoint == Endpoint("198.51.100.2", 20007)
    world.run(1)
    assert a.pair.path.endpoint == Endpoint("198.51.100.2", 20007)


def test_an_agent_of_1_2_0_takes_random_numbers_for_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Window):
        def accept(self, number: int) -> bool:
            self._highest, before = max(number, self._highest), self._highest
            return number > before

    monkeypatch.setattr(path_selector, "Window", Counting)
    world = behind_nats()
    world.until(lambda: all(device.kind == "direct" for device in world.devices.values()), 5)
    world.run(120)
    assert all(device.kind == "direct" for device in world.devices.values())


@pytest.mark.parametrize("full", [False, True], ids=["as 1.2.0", "as this"])
def test_a_device_that_forges_the_pongs_of_another_host_proves_nothing(world: World, full: bool) -> None:
    """It holds the key and sees the pings that do reach it, but not those to the address that it names."""
    a, b = world.devices.values()
    victim = Endpoint("192.168.1.77", 9)  # in the network of a, where a path goes before any other
    told = Message(b.pair._signaling._secret, (victim,), full=full, punch=True)
    named = last = 0
    for _ in range(100):
        a.pair.control(world.now, told)
        a._drain()
        sent = [packet for _, packet in world.net.log if isinstance(packet.content, bytes)]
        named += any(packet.target == victim for packet in sent)
        seen = [int.from_bytes(packet.content[8:16], "big") for packet in sent if packet.target != victim]
        world.net.log.clear()
        for number in range(max([last, *seen]) - 3, max([last, *seen]) + 4):
            forged = b.pair_key.seal(Probe(PONG, max(number, 0), True))
            a.receive(Packet(victim, Endpoint(a.host, PORT), forged, 60))
        last = max([last, *seen])
        world.run(0.1)
        assert a.pair.path.endpoint != victim
    assert named
    assert not any(endpoint == victim for _, endpoint in a.sets)


def test_a_relay_that_lies_about_addresses_wins_nothing() -> None:
    world = behind_nats()
    world.run(1)
    world.stream("a", "b")
    relay = world.relays["relay1"]
    answer = relay._send
    liar = {"a": STRANGER, "b": STRANGER}

    def lie(target, message, size):
        if type(message).__name__ == "Directory" and message.answer:
            message = message._replace(answer=(STRANGER, liar))
        answer(target, message, size)

    relay._send = lie
    since = world.now + 2
    world.run(60)
    for device in world.devices.values():
        assert device.pair.path.endpoint != STRANGER
    assert world.gap(since) < 0.1
    assert world.lost(since) == 0
