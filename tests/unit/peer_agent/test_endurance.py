# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts, stock devices, jumps of the clock, and what it all costs."""

from __future__ import annotations

import re

import pytest
from agent_world import behind_nats
from peer_agent.core.reasons import NO_PATH, REASONS
from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import Message
from peer_agent.wire.probes import PING, Probe

LIMIT = 1000  # bits per second, of both sides together, with all headers


def direct_cut(packet):
    return {packet.source.host, packet.target.host} == {"198.51.100.1", "198.51.100.2"}


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(
    ("orderly", "streams"), [(True, ""), (True, "a"), (True, "b"), (True, "ab"), (False, ""), (False, "ab")]
)
def test_restart_of_an_agent_changes_no_working_path(orderly: bool, name: str, streams: str) -> None:
    world = behind_nats()
    world.run(1)
    world.stream(*streams)
    world.run(10)
    a, b = world.devices.values()
    assert (a.kind, b.kind) == ("direct", "direct")
    since, sets = world.now, [len(a.sets), len(b.sets)]
    device = world.devices[name]
    device.stop() if orderly else device.crash()
    world.run(1 if orderly else 0.3)
    device.start()
    world.run(30)
    assert (a.kind, b.kind) == ("direct", "direct")
    assert [len(a.sets), len(b.sets)] == sets
    if streams:
        assert world.lost(since) == 0


def test_restart_on_the_relay_changes_nothing() -> None:
    world = behind_nats(relays=2, symmetric="ab")
    world.run(1)
    world.stream("a", "b")
    world.run(10)
    a, _ = world.devices.values()
    since = world.now
    a.stop()
    a.start()
    world.run(30)
    assert (a.kind, a.sets, world.lost(since)) == ("relay", [], 0)


@pytest.mark.parametrize("name", ["a", "b"])
def test_agent_that_stops_for_good_leaves_the_other_on_the_relay(name: str) -> None:
    world = behind_nats()
    world.run(1)
    world.stream("a", "b")
    world.run(10)
    world.devices[name].stop()
    since = world.now
    world.run(30)
    other = world.devices[world.other(name)]
    assert other.pair.path[:2] == ("relay", "relay1")
    assert not other.pair.path.agent
    assert world.gap(since) < 2


def test_restart_of_the_relay_is_found_out() -> None:
    world = behind_nats(symmetric="ab")
    world.run(1)
    world.stream("a", "b")
    world.run(10)
    world.relays["relay1"].restart()
    since = world.now
    world.run(30)
    assert world.gap(since) < 10, "WireGuard itself would need 15 s and more"


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_each_reason_says_what_to_do() -> None:
    for name, reason in REASONS.items():
        assert re.fullmatch("[a-z_]+", name)
        assert reason.text
        assert reason.fix
        assert len(str(reason)) < 200, "one line of a table"
    assert REASONS.keys() > NO_PATH


@pytest.mark.parametrize("failures", [("", ""), ("fallback_failed", ""), ("fallback_failed", "certificate_refused")])
def test_without_any_relay_the_fallback_says_why(failures: tuple[str, ...]) -> None:
    world = behind_nats(relays=2, symmetric="ab")
    world.run(10)
    pair = world.devices["a"].pair
    for name, failure in zip(("relay1", "relay2"), failures, strict=True):
        pair.relay(world.now, pair._views[name]._replace(alive=False, failure=failure))
    assert pair.path.why_not == (min(filter(None, failures), default="no_relay_answers"))


def test_what_a_fallback_was_reached_by_is_forgotten() -> None:
    world = behind_nats(relays=2, symmetric="ab")
    world.run(10)
    device = world.devices["a"]
    udp = device.pair._views["relay1"]
    for port in range(20000, 21000):  # each connection of the fallback's has another
        device.pair.relay(world.now, udp._replace(endpoint=Endpoint("127.0.0.1", port), fallback=True))
        device.pair.relay(world.now, udp)
    assert len(device.pair._relay_endpoints) < 10
    assert {view.endpoint for view in device.pair._views.values()} <= device.pair._relay_endpoints.keys()


# --- stock devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["a", "b"])
def test_against_a_stock_device_it_stays_on_the_first_relay(agent: str) -> None:
    world = behind_nats(relays=2, agents=agent)
    world.run(1)
    world.stream("a", "b")
    world.run(2)
    since = world.now
    world.run(300)
    device = world.devices[agent]
    assert device.sets == []
    assert device.pair.path[:2] == ("relay", "relay1")
    assert device.pair.path.why_not == "other_has_no_agent"
    assert world.lost(since) == 0


def test_with_a_stock_device_a_dead_relay_is_left_and_taken_again() -> None:
    world = behind_nats(relays=2, agents="a")
    world.run(1)
    world.stream("a", "b")
    world.run(10)
    world.relays["relay1"].alive = False
    since = world.now
    world.run(15)
    assert world.gap(since) < 3
    device = world.devices["a"]
    assert device.via == "relay2"
    world.relays["relay1"].alive = True
    world.run(30)
    world.stream()
    world.until(lambda: device.via == "relay1", 60)


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asleep", [30, 600])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_host_that_slept_finds_its_path_again(name: str, asleep: float) -> None:
    world = behind_nats()
    world.run(20)
    device = world.devices[name]
    runs, world.net.blocked = device._run, lambda packet: packet.source.host == device.router.public
    device._run = lambda life: None
    world.run(1)
    device._life += 1
    receive = device.receive
    world.net.attach(device.host, device.router, lambda packet: None)
    world.run(asleep)
    world.net.blocked = lambda packet: False
    world.net.attach(device.host, device.router, receive)
    device._run = runs
    device._run(device._life)
    other = world.devices[world.other(name)]
    assert world.until(lambda: device.kind == other.kind == "direct", 90) < 90


# --- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", ["", "ab"])
@pytest.mark.parametrize("relays", [1, 3])
def test_probe_traffic_of_an_idle_pair(relays: int, symmetric: str) -> None:
    world = behind_nats(relays, symmetric=symmetric)
    world.run(60)
    for device in world.devices.values():
        device.sent_bytes = 0
    world.run(600)
    sent = sum(device.sent_bytes for device in world.devices.values())
    assert 0 < sent * 8 / 600 < LIMIT


def test_one_ping_serves_both_sides_of_an_idle_path() -> None:
    world = behind_nats()
    world.run(60)
    world.net.log.clear()
    world.net.keep_log = True
    world.run(60)
    probes = [packet for _, packet in world.net.log if isinstance(packet.content, bytes)]
    assert len(probes) <= 2 * 60 / 5 + 2, "pings and pongs"


@pytest.mark.parametrize("sender", ["198.51.100.1", "198.51.100.2"])
def test_an_idle_path_that_works_one_way_only_is_left_by_both(sender: str) -> None:
    world = behind_nats()
    world.run(60)
    world.net.blocked = lambda packet: direct_cut(packet) and packet.source.host == sender
    devices = world.devices.values()
    assert world.until(lambda: all(device.kind == "relay" for device in devices), 20) < 12


def test_an_idle_agent_sleeps() -> None:
    world = behind_nats()
    world.run(60)
    pair = world.devices["a"].pair
    delays = []
    for _ in range(20):
        world.run(0.5)
        delays.append(pair.tick(world.now))
    assert sum(delays) / len(delays) > 1


def test_candidates_and_memory_are_bounded() -> None:
    world = behind_nats()
    world.run(10)
    a = world.devices["a"]
    for number in range(2000):
        places = tuple(Endpoint("192.0.2.1", 1 + number * 12 % 60000 + index) for index in range(12))
        a.pair.control(
            world.now, Message(bytes([number % 7]) * 32, places, {f"x{number}": 1.0}, punch=True, answer=True)
        )
        a.pair.probed(world.now, Probe(PING, number, True), Endpoint("192.0.2.9", 1 + number), a.host)
        a.pair.tick(world.now)
        a.pair.outbox.clear()
    candidates = a.pair._candidates
    assert len(candidates) <= 16
    assert len(candidates._pending) <= 256


def test_no_probe_goes_into_the_tunnel_or_to_many_hosts() -> None:
    world = behind_nats()
    world.run(1)
    a = world.devices["a"]
    bad = [
        "10.77.1.5",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "169.254.1.1",
        "fe80::1",
        "ff02::1",
        "::",
    ]
    a.pair.control(world.now, Message(bytes(32), tuple(Endpoint.of(host, 51820) for host in bad)))
    a.pair.outbox.clear()
    for host in bad:
        a.pair.probed(world.now, Probe(PING, 10**6, False), Endpoint.of(host, 51820), a.host)
    for _ in range(50):
        a.pair.tick(world.now)
        world.run(0.1)
    sent = {action.target.host for action in a.pair.outbox if hasattr(action, "target")}
    assert not sent & set(bad)


def test_a_path_that_comes_and_goes_is_tried_ever_more_seldom() -> None:
    world = behind_nats()
    world.run(1)
    world.stream("a", "b")
    for _ in range(60):
        world.net.blocked = lambda packet: False
        world.run(7)
        world.net.blocked = direct_cut
        world.run(3)
    assert len([kind for _, kind, _ in world.devices["a"].paths if kind == "direct"]) <= 8


@pytest.mark.parametrize("direct", [False, True])
def test_somebody_who_is_off_costs_less_and_less(direct: bool) -> None:
    """A device that was spoken to and does not answer: neither the loop nor the relay is busy with it for ever."""
    world = behind_nats(agents="a")
    a, b = world.devices.values()
    world.run(1)
    if direct:  # as an earlier run has left it
        a.crash()
        a.peer.endpoint = Endpoint("198.51.100.2", 20007)
        a.start()
    world.stream("a")
    world.run(2)
    world.net.detach(b.host, b.router)
    world.run(5)
    world.stream()
    world.run(300)
    ticks, asked = [], []
    tick, ask = a.pair.tick, a.relays.suspect
    a.pair.tick = lambda now: ticks.append(now) or tick(now)
    a.relays.suspect = lambda now, name: asked.append(now) or ask(now, name)
    world.run(300)
    assert len(asked) <= 6
    assert len(ticks) <= 300 * 7, "the world itself looks five times a second"
