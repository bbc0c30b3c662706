# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reachability probes: answered once, from anywhere; they bind nothing, and nobody else can make them."""

from __future__ import annotations

import struct

import pytest
from peer_common import packets
from peer_relay.core import probe, relay_peer
from peer_relay.wireguard import noise
from relay_world import LOCAL, LOCAL_2, StockDevice, World, at, check_consistency, private_key

CAFE = at("198.18.0.1", 7)
LIBRARY = at("2001:db8::2", 8)


def made(world: World, age: float = 0.0) -> bytes:
    return probe.make(world.identity, world.wall - age)


def with_index(datagram: bytes, index: int, key: bytes) -> bytes:
    """Return a copy that goes by another index: mac1 is keyed with the relay's public key, which is no secret."""
    return packets.append_macs(datagram[:4] + struct.pack("<I", index) + datagram[8:116], key)


@pytest.mark.parametrize("source", [CAFE, LIBRARY, at("192.0.2.1")])
def test_is_answered_wherever_it_comes_from(world: World, ann: StockDevice, source: bytes) -> None:
    datagram = made(world)
    ((answer, binding),) = world.raw(source, datagram, LOCAL_2)
    assert binding == (source, LOCAL_2)
    assert (packets.message_type(answer), len(answer)) == (packets.RESPONSE, packets.RESPONSE_SIZE)
    assert packets.receiver_index(answer) == packets.sender_index(datagram)
    assert packets.mac1_valid(world.identity.mac1_key, answer)
    assert world.drops() == {}


def test_the_answer_is_a_handshake_that_only_the_relays_key_can_make(world: World) -> None:
    writer = noise.InitiationWriter(world.identity, world.identity.public, 5, noise.tai64n(world.wall))
    ((answer, _),) = world.raw(CAFE, writer.datagram)
    assert writer.finish(answer)


def test_binds_nothing_and_leaves_no_session(world: World, ann: StockDevice) -> None:
    ann.connect()
    before = ann.record.binding
    for source in (CAFE, ann.address):
        ((answer, _),) = world.raw(source, made(world))
        index = packets.sender_index(answer)
        assert world.raw(source, packets.HEAD.pack(packets.TRANSPORT, index) + bytes(24)) == []
    own = world.switchboard.own
    assert world.drops() == {"unknown_source": 1, "unknown_index": 1}
    assert (ann.record.binding, list(world.switchboard.bound)) == (before, [ann.address])
    assert len(own.sessions) == 1
    assert own.handshakes == own.strangers == {}
    assert ann.record.attempt_source == ann.address
    assert world.switchboard.events == [("bound", "ann", before)]


def test_does_not_move_a_stranger_among_those_who_only_have_to_confirm(world: World, ann: StockDevice) -> None:
    world.raw(CAFE, StockDevice(world, "stranger", CAFE).initiation(ann))
    world.raw(CAFE, made(world))
    assert CAFE in world.switchboard._strangers
    assert CAFE not in world.switchboard._arriving


@pytest.mark.parametrize("source", [CAFE, LIBRARY])
def test_a_replay_gets_no_answer(world: World, source: bytes) -> None:
    datagram = made(world)
    assert world.raw(CAFE, datagram)
    for later in (0.0, 1.0, probe.LIFETIME - 2):
        world.wait(later)
        assert world.raw(source, datagram) == []
    assert world.drops() == {"probe_replayed": 3}
    world.wait(2)
    # It is forgotten only when it is too old to be answered anyway.
    assert world.raw(CAFE, made(world))
    assert len(world.switchboard.own.probes) == 1
    assert world.raw(source, datagram) == []
    assert world.drops() == {"probe_replayed": 3, "probe_expired": 1}


def test_a_replay_with_another_index_gets_no_answer(world: World) -> None:
    datagram = made(world)
    assert world.raw(CAFE, datagram)
    assert world.raw(CAFE, with_index(datagram, 77, world.identity.mac1_key)) == []
    assert world.drops() == {"probe_replayed": 1}


@pytest.mark.parametrize("byte", range(8, 116))
def test_what_a_replay_changes_does_not_authenticate(world: World, byte: int) -> None:
    datagram = bytearray(made(world))
    assert world.raw(CAFE, bytes(datagram))
    datagram[byte] ^= 0x80
    assert world.raw(CAFE, packets.append_macs(bytes(datagram[:116]), world.identity.mac1_key)) == []
    expected = "handshake_invalid" if byte < 40 else "probe_replayed"
    assert world.drops() == {expected: 1}


def test_a_replay_costs_no_curve_operation_and_no_share_of_the_handshakes(
    world: World, ann: StockDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    datagram = made(world)
    world.raw(CAFE, datagram)

    def refuse(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(relay_peer, "InitiationReader", refuse)
        for _ in range(5000):
            assert world.raw(CAFE, datagram) == []
    assert world.drops() == {"probe_replayed": 5000}
    assert ann.connect().record.binding


@pytest.mark.parametrize(
    ("age", "answered"), [(299.9, True), (300.1, False), (-4.9, True), (-5.1, False), (1e9, False)]
)
def test_is_answered_only_in_its_time(world: World, age: float, answered: bool) -> None:
    assert bool(world.raw(CAFE, made(world, age))) == answered
    assert world.drops() == ({} if answered else {"probe_expired": 1})


@pytest.mark.parametrize("age", [0.0, 4.0])
def test_a_restarted_relay_answers_none_from_before(world: World, age: float) -> None:
    datagram = made(world, age)
    assert world.raw(CAFE, datagram)
    world.restart()
    world.switchboard.own.probes.since = noise.tai64n(world.wall)  # as the service does
    world.switchboard.tick(world.now, world.wall)
    assert world.raw(CAFE, datagram) == []
    assert world.drops() == {"probe_expired": 1}
    world.wait(1)
    assert world.raw(CAFE, made(world))


def test_a_clock_that_jumps_ahead_and_back_lets_no_replay_in(world: World) -> None:
    datagram = made(world)
    assert world.raw(CAFE, datagram)
    world.wall += 1000
    world.tick()
    assert world.raw(CAFE, made(world))
    world.wall -= 1000
    world.tick()
    assert world.raw(CAFE, datagram) == []


def test_a_clock_at_the_epoch_still_answers(world: World) -> None:
    world.wall = 10.5
    world.tick()
    assert world.raw(CAFE, made(world))


def test_is_another_relays(world: World) -> None:
    """The static key in an initiation is only a claim until the timestamp is authenticated."""
    other = noise.Identity(private_key("other relay"))
    other.public = world.identity.public
    writer = noise.InitiationWriter(other, world.identity.public, 5, noise.tai64n(world.wall))
    assert world.raw(CAFE, writer.datagram) == []
    assert world.drops() == {"handshake_invalid": 1}
    assert len(world.switchboard.own.probes) == 0


def test_only_so_many_are_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_PROBES", 3)
    answers = [len(world.raw(CAFE, made(world))) for _ in range(5)]
    assert answers == [1, 1, 1, 0, 0]
    assert world.drops() == {"handshake_limited": 2}
    world.wait(probe.LIFETIME + 1)
    assert world.raw(CAFE, made(world))


def test_under_load_asks_for_a_cookie_as_everybody(world: World) -> None:
    stranger = StockDevice(world, "stranger", CAFE).initiation()
    for _ in range(150):
        world.raw(CAFE, stranger)
    datagram = made(world)
    ((answer, _),) = world.raw(CAFE, datagram)
    assert packets.message_type(answer) == packets.COOKIE_REPLY
    assert world.raw(LIBRARY, datagram, LOCAL), "it is not spent, and the other network has its own share"


def test_the_latest_are_kept_for_the_status(world: World) -> None:
    for number in range(20):
        world.raw(at("198.18.0.1", number + 1), made(world))
    probes = world.switchboard.own.probes
    assert probes.answered == 20
    assert [entry.source for entry in probes.latest] == [at("198.18.0.1", number) for number in range(5, 21)]
    check_consistency(world.switchboard)
