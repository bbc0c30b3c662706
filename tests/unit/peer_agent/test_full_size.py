# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Direct paths that let small packets pass and lose large ones without a word."""

from __future__ import annotations

import pytest
from agent_world import FULL_SIZE, World, behind_nats
from peer_agent.wire.probes import PING, PONG, SECRET_SIZE, Key, Probe

NARROW = 1400
ONE = "198.51.100.1"


def large_and_direct(packet) -> bool:
    return packet.size > NARROW and {packet.source.host, packet.target.host} == {ONE, "198.51.100.2"}


def large_one_way(packet) -> bool:
    return large_and_direct(packet) and packet.source.host == ONE


def settled(world: World) -> list[str]:
    return [device.kind for device in world.devices.values()]


@pytest.mark.parametrize("lost", [large_and_direct, large_one_way])
@pytest.mark.parametrize("streams", ["", "ab"])
def test_a_narrow_path_is_never_taken(lost, streams: str) -> None:
    world = behind_nats()
    world.net.blocked = lost
    world.stream(*streams)
    world.run(120)
    assert settled(world) == ["relay", "relay"]
    assert [kind for device in world.devices.values() for _, kind, _ in device.paths if kind == "direct"] == []
    assert "narrow_path" in {device.pair.path.why_not for device in world.devices.values()}
    world.net.blocked = lambda packet: False
    world.until(lambda: settled(world) == ["direct", "direct"], 90)


@pytest.mark.parametrize("lost", [large_and_direct, large_one_way])
def test_a_path_that_becomes_narrow_is_left_while_data_flows(lost) -> None:
    world = behind_nats()
    world.run(20)
    assert settled(world) == ["direct", "direct"]
    world.stream("a", "b")
    world.run(15)
    assert settled(world) == ["direct", "direct"]
    world.net.blocked = lost
    world.until(lambda: settled(world) == ["relay", "relay"], 15)
    world.run(60)
    assert settled(world) == ["relay", "relay"]
    assert any("packets of full size get lost" in note for device in world.devices.values() for note in device.notes)


def test_an_idle_path_that_has_become_narrow_is_found_out_with_the_first_data() -> None:
    world = behind_nats()
    world.run(60)
    world.net.blocked = large_and_direct
    world.run(60)
    assert settled(world) == ["direct", "direct"], "an idle pair costs next to nothing"
    world.stream("a")
    assert world.until(lambda: settled(world) == ["relay", "relay"], 15) < 5


@pytest.mark.parametrize("seed", range(4))
def test_loss_alone_is_not_taken_for_a_narrow_path(seed: int) -> None:
    world = behind_nats(seed=seed)
    world.run(10)
    world.net.loss = 0.15
    world.stream("a", "b")
    world.run(300)
    assert not any("full size" in note for device in world.devices.values() for note in device.notes)


def test_an_agent_that_knows_no_full_size_is_met_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peer_agent.wire.control._FLAGS", ("symmetric", "answer", "punch", "left", "bye"))
    world = behind_nats()
    world.net.blocked = lambda packet: packet.size > FULL_SIZE
    world.run(10)
    assert settled(world) == ["direct", "direct"]


def test_full_size_costs_little() -> None:
    world = behind_nats()
    world.net.keep_log = True
    world.stream("a", "b")
    world.run(120)
    large = [packet for _, packet in world.net.log if packet.size > NARROW]
    assert 2 <= len(large) <= 2 * (120 / 10 + 4)


def test_only_who_has_answered_gets_large_datagrams() -> None:
    world = behind_nats()
    world.net.keep_log = True
    world.net.blocked = lambda packet: isinstance(packet.content, bytes)  # no probe arrives anywhere
    world.run(120)
    assert [packet for _, packet in world.net.log if packet.size > NARROW] == []


def test_a_ping_of_full_size_is_whole_or_nothing() -> None:
    sender, receiver = (Key(bytes(SECRET_SIZE), b"o" * SECRET_SIZE, leader) for leader in (True, False))
    ping = Probe(PING, 1, True, True)
    datagram = sender.seal(ping, FULL_SIZE)
    assert len(datagram) == FULL_SIZE
    assert receiver.unseal(datagram) == ping
    assert receiver.unseal(datagram[:32]) is None
    assert receiver.unseal(sender.seal(Probe(PING, 1, True)) + b"\0") is None
    pong = sender.seal(Probe(PONG, 1, True, True), FULL_SIZE)
    assert len(pong) == 32
    assert receiver.unseal(pong) == Probe(PONG, 1, True, True)
    assert receiver.unseal(pong + b"\0") is None
