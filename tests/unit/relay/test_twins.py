# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts with one key are told from one that moves."""

from __future__ import annotations

import itertools

import pytest
from peer_relay import addresses
from peer_relay.slices import finish
from peer_relay.status import doctor as status_doctor
from peer_relay.status import document as status_document
from relay_world import StockDevice, World, at

AWAY, MOBILE = at("203.0.113.7", 4242), at("198.51.100.77", 999)


@pytest.fixture
def copy(world: World, ann: StockDevice) -> StockDevice:
    """A host with ann's key, elsewhere."""
    made = StockDevice(world, "ann", AWAY)
    made.next_index += 1 << 7
    world.arrive(made)
    return made


def used_at(world: World, device: StockDevice) -> set[str]:
    return set(status_document._device(device.record, world.now)["key_used_at"])


def doctor(world: World) -> list[status_doctor.Finding]:
    told = finish(status_document.traffic(world.switchboard, world.now, lambda *_: "userspace"))
    return list(status_doctor.traffic(told | {"listen": []}))


def live(world: World, hosts: list[StockDevice], seconds: int) -> None:
    """Keep alive every 25 s and shake hands every 120 s, each host at its own times."""
    for second in range(seconds):
        world.wait(1)
        for number, host in enumerate(hosts):
            if (second + 7 * number) % 120 == 0:
                host.connect()
            elif (second + 7 * number) % 25 == 0 and host.current:
                host.keepalive()


def test_two_hosts_without_traffic(world: World, ann: StockDevice, copy: StockDevice) -> None:
    live(world, [ann, copy], 240)
    assert used_at(world, ann) == {addresses.text(ann.address), addresses.text(AWAY)}
    text = [f"{found.problem}: {found.fix}" for found in doctor(world) if found.subject == "ann"]
    assert any("two hosts use its key, at " in line and "remove the key file" in line for line in text)


def test_two_hosts_that_talk(world: World, ann: StockDevice, copy: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    for host in (ann, copy):
        host.connect()
        host.shake_hands(bob)
    for _ in range(120):
        world.wait(1)
        for host in (ann, copy):
            host.send(host.transport(bob, bytes(200)))
    assert used_at(world, ann) == {addresses.text(ann.address), addresses.text(AWAY)}
    assert used_at(world, bob) == set()


def test_it_is_told_no_longer_once_one_has_gone(world: World, ann: StockDevice, copy: StockDevice) -> None:
    live(world, [ann, copy], 240)
    world.leave(copy)
    live(world, [ann], 400)
    assert used_at(world, ann) == set()


@pytest.mark.parametrize("stay", [2, 8, 20])
def test_one_host_that_goes_to_and_fro_now_and_then(
    world: World, ann: StockDevice, bob: StockDevice, stay: int
) -> None:
    bob.connect()
    ann.connect()
    ann.shake_hands(bob)
    home = ann.address
    for place in (MOBILE, home, MOBILE, home):
        ann.move(place)
        for _ in range(stay):
            ann.send(ann.transport(bob, bytes(200)))
            world.wait(1)
        ann.keepalive()
    live(world, [ann], 240)
    assert used_at(world, ann) == set()


def test_one_host_that_moves_each_minute_for_an_hour(world: World, ann: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    ann.connect()
    home = ann.address
    for place, _ in zip(itertools.cycle((MOBILE, home)), range(60), strict=False):
        ann.move(place)
        ann.keepalive()
        live(world, [ann], 30)
        ann.connect()
        live(world, [ann], 30)
        assert used_at(world, ann) == set()


def test_late_packets_of_the_session_before(world: World, ann: StockDevice) -> None:
    ann.connect()
    for _ in range(20):
        late = [ann.transport() for _ in range(3)]
        before = ann.address
        ann.move(MOBILE if before != MOBILE else at("192.0.2.1"))
        ann.connect()
        world.wait(3)
        for datagram in late:
            world.raw(before, datagram)
        world.wait(117)
    assert used_at(world, ann) == set()


def test_ports_that_alternate_are_one_host(world: World, ann: StockDevice) -> None:
    """A router that gives each packet another port: one session, however often."""
    ann.connect()
    for _ in range(100):
        for port in (1000, 2000):
            world.raw(at("192.0.2.1", port), ann.transport())
            world.wait(3)
    assert used_at(world, ann) == set()
