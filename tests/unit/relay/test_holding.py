# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Initiations wait for a device that is about to bind, so that the first handshake of a pair is not lost (rule 3)."""

from __future__ import annotations

import os

import pytest
from peer_common import packets
from relay_world import StockDevice, World, at

AWAY = at("203.0.113.7", 4242)


def sessions(one: StockDevice, other: StockDevice) -> bool:
    """Tell whether two devices have a session with each other."""
    return other.identity.public in one.current and one.identity.public in other.current


def test_initiation_is_held_until_its_destination_binds(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    ann.shake_hands(bob)
    assert world.drops() == {"destination_not_bound": 1}
    world.wait(4.9)
    bob.connect()
    assert sessions(ann, bob)


def test_initiation_is_held_until_its_source_binds(world: World, ann: StockDevice, bob: StockDevice) -> None:
    """A device that starts asks all its peers at once, and the relay in any order among them."""
    bob.connect()
    ann.shake_hands(bob)
    assert world.drops() == {"source_not_bound": 1}
    ann.connect()
    assert sessions(ann, bob)


def test_both_devices_start_at_once(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.shake_hands(bob)
    bob.shake_hands(ann)
    ann.connect()
    bob.connect()
    assert sessions(ann, bob)


def test_held_initiation_expires(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    ann.shake_hands(bob)
    world.wait(6.5)
    assert not bob.record.held
    bob.connect()
    assert not sessions(ann, bob)


def test_initiation_held_for_its_source_expires(world: World, ann: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    ann.shake_hands(bob)
    world.wait(6.5)
    assert len(world.switchboard._strangers) == 0
    ann.connect()
    assert not sessions(ann, bob)


def test_one_initiation_is_held_for_each_pair_and_it_is_the_latest(
    world: World, ann: StockDevice, bob: StockDevice
) -> None:
    ann.connect()
    for _ in range(50):
        ann.shake_hands(bob)
    latest = ann.initiation(bob)
    ann.send(latest)
    assert list(bob.record.held) == [ann.record]
    bob.connect()
    assert [seen for seen in bob.seen if packets.message_type(seen) == packets.INITIATION] == [latest]


def test_initiations_of_several_devices_are_held_for_one(world: World, bob: StockDevice) -> None:
    others = [world.add(f"device{number}", at("192.0.2.50", number)).connect() for number in range(1, 20)]
    for device in others:
        device.shake_hands(bob)
    bob.connect()
    assert all(sessions(device, bob) for device in others)


def test_held_for_a_device_that_was_silent_and_comes_back_where_it_was(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    """It has a fixed address: nothing moves when it is back, but what was sent meanwhile did not reach it."""
    ann, bob = pair
    world.leave(bob)
    world.now += 200
    ann.connect()
    initiation = ann.initiation(bob)
    ann.send(initiation)
    world.arrive(bob)
    bob.connect()
    assert initiation in bob.seen


def test_not_held_for_a_device_that_is_there(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    ann.shake_hands(bob)
    assert not bob.record.held


def test_held_for_a_device_that_is_removed_meanwhile(world: World, ann: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    bob.shake_hands(ann)
    world.remove(bob)
    ann.connect()
    assert ann.record.held == {}
    assert [packets.message_type(seen) for seen in ann.seen] == [packets.RESPONSE]


def test_held_for_a_device_that_may_not_be_reached_any_more(world: World, ann: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    bob.shake_hands(ann)
    world.register(bob, groups=("other",))
    ann.connect()
    assert [packets.message_type(seen) for seen in ann.seen] == [packets.RESPONSE]


@pytest.mark.parametrize("flood", [20_000])
def test_strangers_cannot_push_out_what_is_held_for_a_device_that_binds(
    world: World, ann: StockDevice, bob: StockDevice, flood: int
) -> None:
    """Between the handshake with the relay and its confirmation lies a round trip: a flood meanwhile does no harm."""
    bob.connect()
    ann.shake_hands(bob)
    (answer,) = world.raw(ann.address, ann.initiation())
    later = ann.initiation(bob)
    world.raw(ann.address, later)
    junk = packets.HEAD.pack(packets.INITIATION, 1) + os.urandom(140)
    for number in range(flood):
        world.raw(at("198.18.0.1", number % 60_000 + 1), junk)
    (confirmation,) = ann.receive(answer.datagram)
    ann.send(confirmation)
    assert sessions(ann, bob)
    assert later in bob.seen


def test_what_one_source_can_have_held_is_bounded(world: World, ann: StockDevice, bob: StockDevice) -> None:
    bob.connect()
    (answer,) = world.raw(ann.address, ann.initiation())
    for _ in range(10_000):
        world.raw(ann.address, packets.HEAD.pack(packets.INITIATION, 1) + os.urandom(140))
    (confirmation,) = ann.receive(answer.datagram)
    ann.send(confirmation)
    assert sum(world.drops().values()) <= 10_000 + 64


# --- initiations that cross -------------------------------------------------------------------------------------------


def test_of_two_crossing_initiations_one_passes(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    (first,) = world.raw(ann.address, ann.initiation(bob))
    assert world.raw(bob.address, bob.initiation(ann)) == []
    assert world.drops() == {"crossed_initiation": 1}
    world.deliver([first])
    assert ann.say(bob)
    assert bob.say(ann)


def test_an_answered_initiation_does_not_hinder_the_other_side(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    bob.shake_hands(ann)
    assert world.drops() == {}
    assert bob.say(ann)


def test_an_unanswered_initiation_does_not_hinder_the_other_side_for_long(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    world.wait(10)
    world.raw(ann.address, ann.initiation(bob))  # lost on its way
    bob.shake_hands(ann)
    assert world.drops() == {"crossed_initiation": 1}
    world.wait(5)
    bob.shake_hands(ann)
    assert world.drops() == {"crossed_initiation": 1}


def test_forged_initiations_cannot_silence_the_other_side(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    """Who knows a device's address and its peer's key can forge what looks like an initiation of that device."""
    ann, bob = pair
    world.wait(10)
    for _ in range(2):
        for _ in range(5):
            forged = packets.append_macs(
                packets.HEAD.pack(packets.INITIATION, 99) + os.urandom(108), bob.identity.mac1_key
            )
            world.raw(ann.address, forged)
            world.wait(1)
        initiation = bob.initiation(ann)
        bob.send(initiation)
    assert initiation in ann.seen
