# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach whom, how fast, and what a change of the settings does to those that run (design rule 9)."""

from __future__ import annotations

import pytest
from peer_relay import packets
from relay_world import StockDevice, World, at, check_consistency

AWAY = at("203.0.113.7", 4242)


def test_devices_that_share_no_group_cannot_ask_each_other(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), groups=("home",)).connect()
    bob = world.add("bob", at("192.0.2.2"), groups=("work",)).connect()
    assert world.raw(ann.address, ann.initiation(bob)) == []
    assert world.drops() == {"no_such_peer": 1}
    assert ann.record.drops == {"no_such_peer": 1}
    assert bob.record.drops == {}


def test_one_common_group_is_enough(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), groups=("home", "lab")).connect()
    bob = world.add("bob", at("192.0.2.2"), groups=("work", "lab", "home")).connect()
    ann.shake_hands(bob)
    assert ann.say(bob)


def test_initiation_to_oneself_reaches_nobody(world: World, ann: StockDevice) -> None:
    ann.connect()
    assert world.raw(ann.address, ann.initiation(ann)) == []
    assert world.drops() == {"no_such_peer": 1}


def test_pair_that_shares_no_group_any_more_is_cut(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    world.register(bob, groups=("other",))
    assert not ann.say(bob)
    assert not bob.say(ann)
    assert world.drops() == {"unknown_index": 2}
    check_consistency(world.switchboard)
    world.register(bob, groups=("other", "default"))
    ann.shake_hands(bob)
    assert ann.say(bob)


def test_change_of_settings_leaves_the_others_alone(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    cid = world.add("cid", at("192.0.2.3"))
    cid.connect()
    cid.shake_hands(ann)
    world.register(cid, groups=("other",), rate_limit=1000)
    world.remove(cid)
    for device in (ann, bob):
        device.keepalive()
        assert device.record.binding.address == device.address
    assert ann.say(bob)
    assert bob.say(ann)
    assert world.drops() == {}


def test_new_name_addresses_and_limits_keep_binding_and_sessions(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    world.registered["ann"] = world.registered["ann"].__class__(
        "renamed", ann.identity.public, frozenset(), frozenset({"default"}), 1e6
    )
    world.switchboard.apply(world.registered.values())
    assert ann.record.name == "renamed"
    assert ann.say(bob)
    assert bob.say(ann)


# --- removal ----------------------------------------------------------------------------------------------------------


def test_removed_device_is_a_stranger(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    world.events()
    world.remove(bob)
    assert world.events() == [("removed", "bob")]
    assert not ann.say(bob)
    for datagram in (
        bob.transport(),
        bob.transport(ann, bytes(1400)),
        bob.transport(ann, bytes(1400)),
        bob.initiation(),
        bob.initiation(ann),
    ):
        for source in (bob.address, AWAY):
            assert world.raw(source, datagram) == []
    assert world.drops() == {"unknown_index": 1, "unknown_source": 6, "unknown_device": 2, "source_not_bound": 2}
    assert world.switchboard.bound == {ann.address: ann.record}
    check_consistency(world.switchboard)


def test_device_removed_while_it_is_challenged_does_not_come_back(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    (challenge,) = world.raw(AWAY, bob.transport(ann, bytes(200)))
    world.remove(bob)
    (answer,) = bob.receive(challenge.datagram)
    assert world.raw(AWAY, answer) == []
    check_consistency(world.switchboard)


def test_removed_and_added_again_it_starts_anew(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    world.remove(bob)
    world.register(bob)
    assert bob.record.binding is None
    assert not ann.say(bob)
    bob.connect()
    ann.shake_hands(bob)
    assert ann.say(bob)
    assert bob.say(ann)


def test_key_that_passes_to_another_name_is_another_device(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    world.remove(ann)
    new = world.add("ann2", ann.address)
    new.connect()
    assert new.record.binding.address == ann.address


def test_removal_of_everybody(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    world.switchboard.apply([])
    world.registered.clear()
    assert world.switchboard.bound == {}
    world.wait(2)
    assert world.switchboard._indexes == {}
    check_consistency(world.switchboard)


# --- rate limit -------------------------------------------------------------------------------------------------------


def test_device_is_limited_in_what_it_sends(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), rate_limit=1e6).connect()
    bob = world.add("bob", at("192.0.2.2")).connect()
    ann.shake_hands(bob)
    forwarded = 0
    for _ in range(2000):  # 2 s of 1.4 MB/s
        forwarded += sum(len(sent.datagram) for sent in world.raw(ann.address, ann.transport(bob, bytes(1400))))
        world.now += 0.001
    assert forwarded == pytest.approx(2e6 + 131072, rel=0.01)
    assert set(world.drops()) == {"rate_limited"}
    assert ann.record.drops["rate_limited"] == world.drops()["rate_limited"]
    # The other direction has no limit.
    assert all(bob.say(ann, b"%d" % number) for number in range(500))


def test_limit_does_not_hinder_handshakes_and_keepalives(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), rate_limit=1.0).connect()
    bob = world.add("bob", at("192.0.2.2")).connect()
    ann.shake_hands(bob)
    while not world.drops():
        world.raw(ann.address, ann.transport(bob, bytes(1400)))
    ann.keepalive()
    ann.connect()
    ann.shake_hands(bob)
    assert set(world.drops()) == {"rate_limited"}


def test_limit_that_is_lifted(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), rate_limit=1.0).connect()
    bob = world.add("bob", at("192.0.2.2")).connect()
    ann.shake_hands(bob)
    while not world.drops():
        world.raw(ann.address, ann.transport(bob, bytes(1400)))
    world.register(ann)
    assert ann.say(bob)


# --- the search for an addressee --------------------------------------------------------------------------------------


def test_keys_out_of_reach_cost_only_so_much(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    stranger = StockDevice(world, "nobody", AWAY)
    for _ in range(150):
        assert world.raw(ann.address, ann.initiation(stranger)) == []
    assert world.drops() == {"no_such_peer": 100, "search_limited": 50}
    world.wait(1)
    ann.shake_hands(bob)
    assert ann.say(bob)


def test_a_used_up_search_does_not_hinder_pairs_that_exist(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    stranger = StockDevice(world, "nobody", AWAY)
    for _ in range(150):
        world.raw(ann.address, ann.initiation(stranger))
    assert len(world.raw(ann.address, ann.initiation(bob))) == 1


def test_the_sender_of_initiations_learns_nothing_about_others(world: World, ann: StockDevice) -> None:
    """Whether a key is registered, in a group or not: there is no answer in any case."""
    ann.connect()
    hidden = world.add("hidden", at("192.0.2.9"), groups=("other",)).connect()
    for peer in (hidden, StockDevice(world, "nobody", AWAY)):
        assert world.raw(ann.address, ann.initiation(peer)) == []
    assert [packets.message_type(seen) for seen in hidden.seen] == [packets.RESPONSE]
