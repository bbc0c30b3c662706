# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach whom, how fast, and what a change of the settings does to those that run (design rule 9)."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from peer_common import packets
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.slices import finish
from peer_relay.status import document as status_document
from relay_world import StockDevice, World, at, check_consistency, echo_v4

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


# --- what else a device makes the relay send --------------------------------------------------------------------------


def limited(world: World) -> tuple[StockDevice, StockDevice]:
    """A device with 0.1 Mbit/s and one without a limit, with a session."""
    ann = world.add("ann", at("192.0.2.1"), rate_limit=12_500).connect()
    bob = world.add("bob", at("192.0.2.2")).connect()
    ann.shake_hands(bob)
    return ann, bob


@pytest.mark.parametrize("kind", ["initiations", "responses", "cookie replies", "pings", "handshakes"])
def test_limit_covers_all_that_a_device_makes_the_relay_send(world: World, kind: str) -> None:
    ann = world.add("ann", at("192.0.2.1"), rate_limit=125).connect()
    others = [world.add(f"other{number}", at("192.0.2.3", 1 + number)).connect() for number in range(40)]
    for other in others:
        ann.shake_hands(other)
    world.log.clear()
    echo = echo_v4("10.77.1.2", "10.77.0.1", bytes(1000))
    routes = [(index, route.pair.peer.mac1_key) for index, route in ann.record.routes.items()]
    for number in range(4000):
        index, mac1_key = routes[number % 40]
        if kind == "initiations":
            datagram = ann.initiation(others[number % 40])
        elif kind == "responses":
            head = packets.HEAD.pack(packets.RESPONSE, number) + index.to_bytes(4, "little")
            datagram = packets.append_macs(head + bytes(48), mac1_key)
        elif kind == "cookie replies":
            datagram = packets.HEAD.pack(packets.COOKIE_REPLY, index) + bytes(56)
        else:
            datagram = ann.transport(None, echo) if kind == "pings" else ann.initiation()
        world.raw(ann.address, datagram)
        world.now += 0.01
        world.wall += 0.01
    sent = sum(len(out.datagram) for out in world.log)
    # The burst, what handshakes may run ahead, and the rate.
    assert 100_000 < sent <= 131_072 + 16_384 + 40 * 125
    assert ann.record.drops["rate_limited"]


def test_handshakes_come_through_while_data_uses_up_the_limit(world: World) -> None:
    ann, bob = limited(world)
    for _ in range(20):
        for _ in range(200):
            world.raw(ann.address, ann.transport(bob, bytes(1400)))
        before = ann.current[bob.identity.public]
        ann.shake_hands(bob)
        assert ann.current[bob.identity.public] is not before
        assert len(ann.send(ann.transport(None, echo_v4("10.77.1.2", "10.77.0.1")))) == 1
        world.wait(1)


def test_device_without_a_limit_sends_no_more_handshakes_than_wireguard_does(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    passed = 0
    for _ in range(1000):
        passed += len(world.raw(ann.address, ann.initiation(bob)))
        world.now += 0.005
    assert passed <= 128 + 50 + 1
    assert set(world.drops()) == {"pair_limited"}
    world.wait(5)
    ann.shake_hands(bob)
    assert ann.say(bob)


# --- the search in large networks -------------------------------------------------------------------------------------


class Hashes:
    """Counts how often a key is tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._valid = packets.mac1_valid
        monkeypatch.setattr(packets, "mac1_valid", self._try)

    def _try(self, key: bytes, datagram: bytes) -> bool:
        self.count += 1
        return self._valid(key, datagram)


@pytest.fixture
def crowd(world: World, ann: StockDevice) -> list[StockDevice]:
    """A device and 500 others, none of which has shaken hands."""
    devices = [StockDevice(world, f"device{number}", at("192.0.2.9", 1 + number)) for number in range(500)]
    for number, device in enumerate(devices):
        world.registered[device.name] = DeviceSettings(
            device.name, device.identity.public, (ip_address(0x0A4E0000 + number),)
        )
    world.switchboard.apply(world.registered.values())
    ann.connect()
    return devices


def ask(world: World, ann: StockDevice, peer: StockDevice) -> bool:
    """Let a device ask for another one; tell whether it was found."""
    before = ann.record.pairs.get(peer.record)
    before = before.initiations if before else 0
    world.raw(ann.address, ann.initiation(peer))
    found = ann.record.pairs.get(peer.record)
    return bool(found and found.initiations > before)


def test_search_costs_little_in_the_order_of_the_settings_and_of_the_round_before(
    world: World, ann: StockDevice, crowd: list[StockDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = Hashes(monkeypatch)
    for _ in range(2):
        hashes.count = 0
        assert all(ask(world, ann, device) for device in crowd)
        assert hashes.count < 25 * len(crowd)
        world.wait(1)
    # The same few again and again, whatever the many others are.
    hashes.count = 0
    for _ in range(100):
        assert all(ask(world, ann, device) for device in crowd[300:305])
    assert hashes.count < 30 * 500


def test_search_in_any_order_comes_to_its_end(world: World, ann: StockDevice, crowd: list[StockDevice]) -> None:
    """A device that starts with all its peers asks for those again that it was not answered for."""
    waiting = random.Random(1).sample(crowd, len(crowd))
    for _ in range(12):
        waiting = [device for device in waiting if not ask(world, ann, device)]
        world.wait(5)
    assert not waiting


def test_initiations_to_nobody_cost_no_more_with_many_pairs(
    world: World, ann: StockDevice, crowd: list[StockDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in crowd:
        ask(world, ann, device)
    world.wait(10)
    hashes = Hashes(monkeypatch)
    nobody = ann.initiation(StockDevice(world, "nobody", AWAY))
    for _ in range(10_000):
        assert world.raw(ann.address, nobody) == []
    assert hashes.count <= 10_000 * 18 + 100_000 + 64
    assert ask(world, ann, crowd[-1]), "those that it talks to are found as before"


def test_status_costs_no_hash(
    world: World, ann: StockDevice, crowd: list[StockDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in crowd[:200]:
        ask(world, ann, device)
    for _ in range(50):
        world.raw(ann.address, ann.initiation(StockDevice(world, "nobody", AWAY)))
    hashes = Hashes(monkeypatch)
    status = finish(status_document.traffic(world.switchboard, world.now, lambda *_: ""))
    assert next(device for device in status["devices"] if device["name"] == "ann")["refused_peer"] == "unknown"
    assert hashes.count == 0
