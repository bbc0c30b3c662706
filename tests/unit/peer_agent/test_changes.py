# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stream of packets each way notices while paths come and go. Times are those of a simulated clock."""

from __future__ import annotations

import pytest
from agent_net import Packet
from agent_world import World, behind_nats

OLD_SESSION = 200  # seconds: WireGuard has made a handshake over the direct path, which no relay has seen
MOMENTS = [0.0, 0.03, 0.11, 0.17]  # against the clocks of both agents


def direct_cut(packet: Packet) -> bool:
    return {packet.source.host, packet.target.host} == {"198.51.100.1", "198.51.100.2"}


def is_direct(world: World) -> bool:
    return all(device.kind == "direct" for device in world.devices.values())


def running(seconds: float, relays: int = 1, moment: float = 0.0, streams: str = "ab", **options: str) -> World:
    world = behind_nats(relays, **options)
    world.run(1)
    world.stream(*streams, every=0.1)  # while nobody looks
    world.run(seconds - 5)
    world.stream(*streams)
    world.run(5 + moment)
    return world


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_direct_soon_after_the_start(loss: float, seed: int) -> None:
    world = behind_nats(seed=seed)
    world.net.loss = loss
    # A handshake message that is lost costs the 5 s after which WireGuard sends another.
    assert world.until(lambda: is_direct(world), 12) < (2 if not loss else 12)


@pytest.mark.parametrize("streams", ["ab", "a", "b"])
def test_going_direct_loses_nothing(streams: str) -> None:
    world = behind_nats()
    world.net.blocked = direct_cut
    world.run(1)
    world.stream(*streams)
    world.run(3)
    since = world.now
    world.net.blocked = lambda packet: False
    world.until(lambda: is_direct(world), 15)
    world.run(5)
    assert world.lost(since) == 0
    assert world.gap(since) < 0.1
    assert [device.rekeys for device in world.devices.values()] == [[], []]


@pytest.mark.parametrize("streams", ["ab", "a", "b"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("age", [10, OLD_SESSION])
def test_cut_direct_path_gives_way_to_the_relay(age: float, moment: float, streams: str) -> None:
    world = running(age, moment=moment, streams=streams)
    assert is_direct(world)
    since, world.net.blocked = world.now, direct_cut
    world.run(10)
    assert world.gap(since) < 2
    assert [device.kind for device in world.devices.values()] == ["relay", "relay"]


@pytest.mark.parametrize("cut", ["198.51.100.1", "198.51.100.2"])
def test_path_that_is_cut_in_one_direction_is_left_by_both(cut: str) -> None:
    world = running(OLD_SESSION)
    since = world.now
    world.net.blocked = lambda packet: direct_cut(packet) and packet.source.host == cut
    world.run(10)
    assert world.gap(since) < 2
    assert [device.kind for device in world.devices.values()] == ["relay", "relay"]


@pytest.mark.parametrize("age", [10, OLD_SESSION])
def test_restored_path_is_taken_again_without_loss(age: float) -> None:
    world = running(age)
    world.net.blocked = direct_cut
    world.run(20)
    since, world.net.blocked = world.now, lambda packet: False
    assert world.until(lambda: is_direct(world), 20) > 0
    world.run(5)
    assert world.lost(since) == 0
    assert world.gap(since) < 0.1


def test_idle_path_that_is_cut_is_left_as_well() -> None:
    world = behind_nats()
    world.run(20)
    world.net.blocked = direct_cut
    assert world.until(lambda: not any(device.kind == "direct" for device in world.devices.values()), 12) < 9


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("streams", ["ab", "a"])
def test_dead_relay_gives_way_to_the_next(moment: float, streams: str) -> None:
    world = running(20, relays=2, moment=moment, symmetric="ab", streams=streams)
    a, b = world.devices.values()
    assert a.via == b.via == "relay1"
    since, world.relays["relay1"].alive = world.now, False
    world.run(10)
    assert world.gap(since) < 3
    assert a.via == b.via == "relay2"
    world.relays["relay1"].alive = True
    since = world.now
    world.run(120)
    assert a.via == b.via == "relay2", "a move that nobody needs costs a handshake"
    assert world.gap(since) < 0.1


@pytest.mark.parametrize("site", ["a", "b"])
@pytest.mark.parametrize("relays", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS[:2])
def test_blocked_udp_gives_way_to_the_fallback_and_comes_back(moment: float, relays: int, site: str) -> None:
    world = running(OLD_SESSION, relays=relays, moment=moment)
    device = world.devices[site]
    since, device.router.blocked = world.now, lambda packet: True
    world.run(60)
    assert world.gap(since) < 5
    assert device.kind == "fallback"
    assert device.pair.path.why_not == "blocked_udp"
    since, device.router.blocked = world.now, lambda packet: False
    assert world.until(lambda: device.kind == "relay", 12) < 8
    world.until(lambda: is_direct(world), 60)
    world.run(5)
    assert world.gap(since) < 1
    assert not device.fallback


@pytest.mark.parametrize("streams", ["", "ab"])
@pytest.mark.parametrize("relays", [1, 2])
def test_symmetric_nats_stay_on_the_relay(relays: int, streams: str) -> None:
    world = behind_nats(relays, symmetric="ab")
    world.stream(*streams)
    world.run(5)
    since = world.now
    world.run(300)
    for device in world.devices.values():
        assert len(device.paths) == 1, "no flapping"
        assert device.sets == []
        assert device.pair.path.why_not == ("symmetric_nat" if relays == 2 else "no_answer")
    if streams:
        assert world.gap(since) < 0.1
        assert world.lost(since) == 0


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("age", [10, OLD_SESSION])
def test_roaming(age: float, name: str) -> None:
    world = running(age)
    since = world.now
    world.devices[name].roam("192.168.3.2", world.net.router("198.51.100.3"))
    world.run(10)
    assert world.gap(since) < 2
    assert is_direct(world)


@pytest.mark.parametrize("name", ["a", "b"])
def test_failures_of_a_path_do_not_count_in_another_network(name: str) -> None:
    world = running(10)
    for _ in range(3):
        world.net.blocked = direct_cut
        world.run(5)
        assert not is_direct(world)
        world.net.blocked = lambda packet: False
        world.until(lambda: is_direct(world), 60)
    world.devices[name].roam("192.168.3.2", world.net.router("198.51.100.3"))
    assert not is_direct(world)
    assert world.until(lambda: is_direct(world), 30) < 3


def test_same_lan_wins() -> None:
    world = World()
    router = world.net.router("198.51.100.1")
    for number, name in enumerate("ab", 2):
        world.device(name, f"192.168.1.{number}", router)
    world.begin()
    world.stream("a", "b")
    assert world.until(lambda: all(device.kind == "lan" for device in world.devices.values()), 5) < 3
    world.net.log.clear()
    world.net.keep_log = True
    world.run(5)
    data = [packet for _, packet in world.net.log if type(packet.content).__name__ == "Data"]
    assert data
    assert all(packet.target.host.startswith("192.168.1.") for packet in data)


@pytest.mark.parametrize("side", ["a", "b"])
def test_one_symmetric_nat_and_one_that_filters_by_port_are_named(side: str) -> None:
    world = behind_nats(relays=2, symmetric=side)
    world.run(60)
    for device in world.devices.values():
        assert (device.kind, device.pair.path.why_not) == ("relay", "one_symmetric_nat")


def test_a_nat_that_is_symmetric_on_one_side_is_no_hindrance_to_a_public_address() -> None:
    world = World()
    world.device("a", "198.51.100.9", None)
    world.device("b", "192.168.1.2", world.net.router("198.51.100.1", symmetric=True))
    world.begin()
    assert world.until(lambda: is_direct(world), 8) < 5
