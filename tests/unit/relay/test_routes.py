# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes: everything is keyed by (source, receiver index), and an index never means two things (design rule 4)."""

from __future__ import annotations

import os

import pytest
from peer_common import packets
from peer_relay.core import relay_peer, switchboard
from peer_relay.wireguard import noise
from relay_world import LOCAL, StockDevice, World, at, check_consistency

AWAY = at("203.0.113.7", 4242)


@pytest.fixture
def cid(world: World) -> StockDevice:
    return world.add("cid", at("192.0.2.3")).connect()


def transport(index: int) -> bytes:
    return packets.HEAD.pack(packets.TRANSPORT, index) + bytes(24)


def test_all_messages_pass_unchanged(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    initiation = ann.initiation(bob)
    (first,) = world.raw(ann.address, initiation)
    assert first == (initiation, bob.record.binding)
    (answer,) = bob.receive(initiation)
    (second,) = world.raw(bob.address, answer)
    assert second == (answer, ann.record.binding)
    (data,) = ann.receive(answer)
    (third,) = world.raw(ann.address, data)
    assert third == (data, bob.record.binding)
    assert world.drops() == {}
    assert world.events()[-1] == ("pair", "ann -> bob")


def test_cookie_replies_pass_unchanged_and_serve(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    bob.loaded = True
    ann.shake_hands(bob)
    assert packets.message_type(ann.seen[-1]) == packets.COOKIE_REPLY
    world.wait(5)
    ann.shake_hands(bob)
    assert ann.say(bob)


def test_an_index_is_good_from_its_device_only(world: World, pair: tuple[StockDevice, StockDevice], cid: StockDevice):
    ann, bob = pair
    (index,) = [index for index, route in ann.record.routes.items() if route.pair.peer is bob.record]
    assert len(world.raw(ann.address, transport(index))) == 1
    assert world.raw(cid.address, transport(index)) == []
    assert world.raw(bob.address, transport(index)) == []
    assert world.drops() == {"unknown_index": 2}
    assert world.raw(AWAY, transport(index)) == []
    assert world.drops() == {"unknown_index": 2, "source_unproven": 1}


def test_equal_indexes_of_two_devices_toward_different_ones(
    world: World, ann: StockDevice, bob: StockDevice, cid: StockDevice
) -> None:
    """bob and cid choose the same index, each toward another device: the source tells them apart."""
    dan = world.add("dan", at("192.0.2.4")).connect()
    ann.connect()
    bob.connect()
    ann.next_index = dan.next_index = bob.next_index = cid.next_index = 500
    ann.shake_hands(bob)
    dan.shake_hands(cid)
    for one, other in ((ann, bob), (dan, cid)):
        assert one.say(other)
        assert other.say(one)


def test_initiation_whose_index_means_another_device_to_the_destination_is_dropped(
    world: World, pair: tuple[StockDevice, StockDevice], cid: StockDevice
) -> None:
    ann, bob = pair
    index = ann.current[bob.identity.public].local_index
    assert world.raw(cid.address, cid.initiation(bob, index)) == []
    assert world.drops() == {"index_collision": 1}
    cid.shake_hands(bob)
    assert cid.say(bob)
    assert bob.say(cid)
    assert bob.say(ann)


def test_response_whose_index_means_another_device_is_dropped_and_the_retry_serves(
    world: World, pair: tuple[StockDevice, StockDevice], cid: StockDevice
) -> None:
    ann, bob = pair
    taken = bob.current[ann.identity.public].local_index
    cid.next_index = taken - 1
    ann.shake_hands(cid)
    assert world.drops() == {"index_collision": 1}
    assert ann.say(bob)
    ann.shake_hands(cid)
    assert ann.say(cid)
    assert ann.say(bob)


def test_index_of_the_relay_itself_is_nobody_elses(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    own = bob.record.current.local_index
    assert world.raw(ann.address, ann.initiation(bob, own)) == []
    assert world.drops() == {"index_collision": 1}
    bob.keepalive()
    assert world.drops() == {"index_collision": 1}


def test_index_that_the_relay_waits_on_is_nobody_elses(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    (challenge,) = world.raw(AWAY, ann.transport(bob, bytes(200)))
    own = packets.sender_index(challenge.datagram)
    assert world.raw(bob.address, bob.initiation(ann, own)) == []
    assert world.drops()["index_collision"] == 1


def test_the_relay_chooses_no_index_that_means_something_to_the_device(
    world: World, pair: tuple[StockDevice, StockDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, _bob = pair
    (taken,) = ann.record.routes
    own = ann.record.current.local_index
    choices = iter([taken, own, 77])
    private = noise.generate_private_key()
    monkeypatch.setattr(relay_peer, "random_index", lambda: next(choices))
    monkeypatch.setattr(noise, "generate_private_key", lambda: private)
    ann.send(ann.initiation())
    assert ann.record.current.local_index == 77


def test_an_answer_to_a_device_is_not_taken_for_one_to_the_relay(
    world: World, pair: tuple[StockDevice, StockDevice], cid: StockDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's index toward one device may be another device's index: the source tells them apart."""
    ann, bob = pair
    index = bob.index()
    initiation = bob.initiation(ann, index)
    monkeypatch.setattr(relay_peer, "random_index", lambda: index)
    (forwarded,) = world.raw(bob.address, initiation)
    monkeypatch.setattr(noise, "generate_private_key", lambda: bytes([64] * 32))
    world.switchboard._initiate(cid.record, cid.record.binding, world.now)
    (greeting,) = world.take()
    monkeypatch.undo()
    world.deliver([forwarded])
    assert bob.say(ann)
    world.deliver([greeting])
    assert cid.record.current.local_index == index
    assert bob.say(ann)
    cid.keepalive()
    assert world.drops() == {}


def test_device_with_mixed_indexes_reaches_each_peer(
    world: World, pair: tuple[StockDevice, StockDevice], cid: StockDevice
) -> None:
    ann, bob = pair
    ann.shake_hands(cid)
    for number in range(20):
        assert ann.say(bob, b"to bob %d" % number)
        assert ann.say(cid, b"to cid %d" % number)
        ann.keepalive()
    assert world.drops() == {}


def test_old_routes_live_on_after_a_rekey_and_end_after_300_seconds(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    old = ann.current[bob.identity.public], bob.current[ann.identity.public]
    world.wait(120)
    for device in pair:
        device.connect()
    ann.shake_hands(bob)
    for session, device, peer in ((old[0], ann, bob), (old[1], bob, ann)):
        late = session.seal(b"late")
        assert device.send(late) == [(late, peer.record.binding)]
    world.wait(178)
    assert len(world.raw(ann.address, old[0].seal(b"late"))) == 1
    world.wait(3)
    for device in pair:
        device.connect()
    assert world.raw(ann.address, old[0].seal(b"late")) == []
    assert world.raw(bob.address, old[1].seal(b"late")) == []
    assert world.drops() == {"unknown_index": 2}
    check_consistency(world.switchboard)


def test_unanswered_initiation_leaves_no_route_behind(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    world.raw(ann.address, ann.initiation(bob))
    assert len(bob.record.routes) == 1
    world.wait(22)
    assert not bob.record.routes
    assert not world.switchboard._indexes


def test_a_route_is_of_no_use_once_it_has_expired_whoever_looks(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    """Nobody has forgotten it yet: with many routes that takes a while."""
    ann, bob = pair
    old = ann.current[bob.identity.public]
    data = old.seal(b"late")
    world.now += 301
    assert world.switchboard.route(ann.address, LOCAL, packets.receiver_index(data), 1, len(data), world.now) is None
    assert world.raw(ann.address, data) == []
    assert world.raw(at("198.18.0.1"), old.seal(bytes(200))) == [], "nobody is asked for it at another address"
    index = packets.receiver_index(data)
    for kind, size in ((packets.RESPONSE, 92), (packets.COOKIE_REPLY, 64)):
        message = packets.HEAD.pack(kind, 1) + index.to_bytes(4, "little") + bytes(size - 12)
        assert world.raw(ann.address, message) == []
    assert world.drops() == {"unknown_index": 3, "unknown_source": 1}


def test_what_a_response_confirmed_is_not_confirmed_for_ever(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    (index,) = bob.record.routes
    world.now += 301
    ann.connect()
    bob.connect()
    assert len(world.raw(ann.address, ann.initiation(bob, index=index))) == 1
    assert not bob.record.routes[index].confirmed


def test_many_routes_are_looked_at_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard, "_SWEEP_ROUTES", 10)
    devices = [world.add(f"device{number}", at(f"192.0.2.{number + 1}")) for number in range(12)]
    records = [device.record for device in devices]
    for record in records:
        for peer in records:
            if peer is not record:
                world.switchboard.restore_route(record, len(world.switchboard._indexes), peer, 1.0, world.now)
    world.now += 2
    left = sum(len(record.routes) for record in records)
    assert left == 132
    ticks = 0
    while left:
        due = world.switchboard.tick(world.now, world.wall)
        before, left = left, sum(len(record.routes) for record in records)
        assert before - left <= 10 + 11, "a device is looked at as a whole"
        assert due <= 0.05 or not left
        world.now += due
        ticks += 1
    assert ticks == 12
    assert not world.switchboard._indexes
    check_consistency(world.switchboard)


def test_initiations_cannot_exhaust_memory(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    for _ in range(200):
        world.raw(ann.address, ann.initiation(bob))
    assert len(bob.record.routes) <= 8
    assert len(world.switchboard._indexes) <= 8


def test_forged_initiations_do_not_push_out_confirmed_routes(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    """Who knows a device's address and its peer's key can forge initiations; none of them is ever answered."""
    ann, bob = pair
    for number in range(100):
        forged = packets.append_macs(
            packets.HEAD.pack(packets.INITIATION, number) + os.urandom(108), bob.identity.mac1_key
        )
        assert len(world.raw(ann.address, forged)) == 1
    assert bob.say(ann)
    assert ann.say(bob)


def test_many_handshakes_in_a_row_always_leave_the_last_one_working(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    for number in range(40):
        one, other = pair if number % 2 else pair[::-1]
        one.shake_hands(other)
        assert ann.say(bob)
        assert bob.say(ann)
        world.wait(3)


def test_response_for_another_device_than_the_initiator_is_refused(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    (initiation,) = world.raw(ann.address, ann.initiation(bob))
    (answer,) = bob.receive(initiation.datagram)
    assert world.raw(bob.address, packets.append_macs(answer[:60], world.identity.mac1_key)) == []
    assert world.drops() == {"bad_mac1": 1}


def test_nothing_is_sent_to_a_device_that_is_not_bound(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    (initiation,) = world.raw(ann.address, ann.initiation(bob))
    (answer,) = bob.receive(initiation.datagram)
    bob.loaded = True
    (reply,) = bob.receive(bob.world.raw(ann.address, ann.initiation(bob))[0].datagram)
    # Somebody else takes over ann's address.
    cid = world.stranger("cid", at("192.0.2.3"))
    world.register(cid)
    cid.move(ann.address)
    cid.connect()
    for datagram in (answer, reply, bob.transport(ann, b"x")):
        assert world.raw(bob.address, datagram) == []
    assert world.drops() == {"destination_not_bound": 3}
