# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a device is: bound by a confirmed key, moved by authenticated data only (design rules 1 and 2)."""

from __future__ import annotations

from peer_common import packets
from relay_world import LOCAL, LOCAL_2, StockDevice, World, at, check_consistency

HOME, AWAY, ELSEWHERE = at("192.0.2.1"), at("203.0.113.7", 4242), at("203.0.113.66", 666)
V6 = at("2001:db8::7", 4242)


def test_binds_only_when_the_key_is_confirmed(world: World, ann: StockDevice) -> None:
    (answer,) = world.raw(ann.address, ann.initiation())
    assert (packets.message_type(answer.datagram), answer.binding) == (packets.RESPONSE, (HOME, LOCAL))
    assert ann.record.binding is None
    (confirmation,) = ann.receive(answer.datagram)
    assert world.raw(ann.address, confirmation) == []
    assert ann.record.binding == (HOME, LOCAL)
    assert world.events() == [("bound", "ann")]


def test_captured_initiation_that_arrives_first_moves_nobody(world: World, ann: StockDevice) -> None:
    ann.connect()
    stolen = ann.initiation()
    (answer,) = world.raw(ELSEWHERE, stolen)
    assert ann.record.binding.address == HOME
    # The thief cannot read the answer, and what it makes up does not authenticate.
    forged = packets.HEAD.pack(packets.TRANSPORT, packets.sender_index(answer.datagram)) + bytes(24)
    assert world.raw(ELSEWHERE, forged) == []
    assert ann.record.binding.address == HOME
    assert world.drops() == {"transport_invalid": 1}
    ann.connect()
    assert ann.record.binding.address == HOME


def test_replayed_initiation_moves_nobody(world: World, ann: StockDevice) -> None:
    captured = ann.initiation()
    ann.send(captured)
    for source in (ELSEWHERE, HOME):
        assert world.raw(source, captured) == []
    assert ann.record.binding.address == HOME
    assert world.drops() == {"timestamp_replayed": 2}


def test_older_initiation_after_a_newer_one_is_refused(world: World, ann: StockDevice) -> None:
    older, newer = ann.initiation(), ann.initiation()
    ann.send(newer)
    assert world.raw(ELSEWHERE, older) == []
    assert world.drops() == {"timestamp_replayed": 1}


def test_a_device_whose_clock_has_gone_back_is_asked(world: World, ann: StockDevice) -> None:
    """As a board without battery after a power cut, which reaches a time server only through its tunnel."""
    ann.connect()
    world.now += 1
    world.wall -= 1e9
    ann.move(AWAY)
    for _ in range(6):
        assert world.raw(AWAY, ann.initiation()) == []
        world.now += 5
    (challenge,) = ann.send(ann.initiation())
    assert len(challenge.datagram) == packets.INITIATION_SIZE
    assert ann.record.binding == (AWAY, LOCAL)
    assert world.drops() == {"timestamp_replayed": 7}
    # The relay renews the session that it began: the clock may stay wrong.
    world.now += 121
    (renewed,) = ann.keepalive()
    assert packets.message_type(renewed.datagram) == packets.INITIATION
    assert ann.keepalive() == []
    assert world.drops() == {"timestamp_replayed": 7}


def test_replays_get_no_question_while_the_device_is_well(world: World, ann: StockDevice) -> None:
    captured = ann.initiation()
    ann.send(captured)
    for _ in range(8):
        world.now += 20
        assert world.raw(ELSEWHERE, captured) == []
        ann.keepalive()
    world.restart()
    assert world.raw(ELSEWHERE, captured) == []


def test_replays_while_the_device_is_off_move_nobody_and_are_not_amplified(world: World, ann: StockDevice) -> None:
    captured = ann.initiation()
    ann.send(captured)
    world.now += 1000
    asked = [len(world.raw(ELSEWHERE, captured)) for _ in range(100)]
    assert asked == [0] * 100, "not at once"
    world.now += 31
    asked = [len(sent.datagram) for _ in range(100) for sent in world.raw(ELSEWHERE, captured)]
    assert asked == [packets.INITIATION_SIZE], "one a second for each network"
    assert ann.record.binding.address == HOME
    ann.connect()
    assert ann.record.binding.address == HOME


def test_replayed_transport_moves_nobody(world: World, ann: StockDevice) -> None:
    ann.connect()
    captured = ann.transport()
    ann.send(captured)
    assert world.raw(ELSEWHERE, captured) == []
    assert ann.record.binding.address == HOME
    assert world.drops() == {"replayed": 1}


def test_altered_transport_moves_nobody(world: World, ann: StockDevice) -> None:
    ann.connect()
    genuine = ann.transport()
    assert world.raw(ELSEWHERE, genuine[:-1] + bytes([genuine[-1] ^ 1])) == []
    assert ann.record.binding.address == HOME
    assert world.drops() == {"transport_invalid": 1}
    # The forgery did not use up the counter.
    ann.send(genuine)
    assert world.drops() == {"transport_invalid": 1}


def test_authenticated_data_from_a_new_address_rebinds(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.events()
    ann.move(AWAY)
    ann.keepalive()
    assert ann.record.binding == (AWAY, LOCAL)
    assert world.events() == [("moved", "ann")]


def test_late_packet_from_the_old_address_does_not_move_back(world: World, ann: StockDevice) -> None:
    ann.connect()
    late = ann.transport()
    ann.move(AWAY)
    ann.keepalive()
    world.raw(HOME, late)
    assert ann.record.binding.address == AWAY
    assert world.drops() == {}


def test_late_packet_of_the_session_before_does_not_move_back(world: World, ann: StockDevice) -> None:
    ann.connect()
    late = ann.transport()
    ann.move(AWAY)
    ann.connect()
    assert ann.record.binding.address == AWAY
    world.raw(HOME, late)
    assert ann.record.binding.address == AWAY


def test_late_packets_within_the_window_count_as_alive(world: World, ann: StockDevice) -> None:
    ann.connect()
    late = ann.transport()
    ann.keepalive()
    world.wait(100)
    world.raw(HOME, late)
    assert ann.record.authenticated == world.now


def test_routes_move_with_their_device(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    ann.move(AWAY)
    ann.keepalive()
    assert ann.say(bob)
    assert bob.say(ann)
    bob.move(V6)
    bob.keepalive()
    assert ann.say(bob)
    assert bob.say(ann)


def test_old_address_means_nothing_after_a_move(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    ann.move(AWAY)
    ann.keepalive()
    assert world.raw(HOME, ann.transport(bob, b"x")) == []
    assert world.drops() == {"source_unproven": 1}


def test_the_address_that_was_written_to_is_answered_from(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    ann.keepalive(LOCAL_2)
    assert ann.record.binding == (HOME, LOCAL_2)
    (forwarded,) = bob.send(bob.transport(ann, b"x"))
    assert forwarded.binding == (HOME, LOCAL_2)
    assert [event for event in world.events() if event[0] == "moved"] == []


# --- the challenge ----------------------------------------------------------------------------------------------------


def test_known_index_from_a_new_source_is_challenged_and_moves_in_one_round_trip(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    ann.move(AWAY)
    (challenge,) = ann.send(ann.transport(bob, bytes(200)))
    assert (packets.message_type(challenge.datagram), challenge.binding) == (packets.INITIATION, (AWAY, LOCAL))
    assert ann.record.binding.address == AWAY
    assert world.drops() == {"source_unproven": 1}
    assert ann.say(bob)
    assert bob.say(ann)
    # The session that the challenge made is in use by both sides.
    ann.keepalive()
    assert world.drops() == {"source_unproven": 1}


def test_challenge_is_paid_for_by_what_came_before(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    small = [ann.transport(bob, bytes(16)) for _ in range(40)]
    received = sent = 0
    for datagram in small:
        received += len(datagram)
        for out in world.raw(AWAY, datagram):
            sent += len(out.datagram)
            assert out.binding.address == AWAY
        assert sent <= received
        world.now += 1
    assert sent > 0


def test_challenges_are_limited_for_each_device(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    large = [ann.transport(bob, bytes(1400)) for _ in range(50)]
    assert sum(len(world.raw(AWAY, datagram)) for datagram in large) == 1
    world.now += 1
    assert sum(len(world.raw(ELSEWHERE, datagram)) for datagram in large) == 1


def test_challenge_of_somebody_else_moves_nobody(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    """A thief sends a captured packet from its own address, and can do nothing with the question that follows."""
    ann, bob = pair
    captured = ann.transport(bob, bytes(200))
    (challenge,) = world.raw(ELSEWHERE, captured)
    index = packets.sender_index(challenge.datagram)
    thief = StockDevice(world, "thief", ELSEWHERE)
    assert thief.receive(challenge.datagram) == []
    made_up = packets.append_macs(
        packets.HEAD.pack(packets.RESPONSE, 7) + index.to_bytes(4, "little") + bytes(48), world.identity.mac1_key
    )
    for datagram in (made_up, made_up[:-32] + bytes(32)):
        assert world.raw(ELSEWHERE, datagram) == []
    assert ann.record.binding.address == HOME
    assert world.drops() == {"source_unproven": 1, "handshake_invalid": 1, "bad_mac1": 1}
    assert ann.say(bob)


def test_challenge_that_the_thief_passes_on_binds_the_device_where_it_is(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    (challenge,) = world.raw(ELSEWHERE, ann.transport(bob, bytes(200)))
    (answer,) = ann.receive(challenge.datagram)
    ann.send(answer)
    assert ann.record.binding.address == HOME
    assert ann.say(bob)


def test_response_and_cookie_reply_from_a_new_source_are_challenged_too(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    (initiation,) = world.raw(ann.address, ann.initiation(bob))
    (answer,) = bob.receive(initiation.datagram)
    bob.move(AWAY)
    # A response alone (92 bytes) does not pay for a challenge (148); with a second one it does.
    assert world.raw(AWAY, answer) == []
    (challenge,) = world.raw(AWAY, answer)
    assert packets.message_type(challenge.datagram) == packets.INITIATION
    world.deliver([challenge])
    assert bob.record.binding.address == AWAY


def test_a_third_device_cannot_take_the_challenge_away(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    """It has seen an index of the pair on the wire, and lets another device have it too."""
    ann, bob = pair
    cid = world.add("cid", at("192.0.2.3")).connect()
    dan = world.add("dan", at("192.0.2.4")).connect()
    cid.send(cid.initiation(dan, bob.current[ann.identity.public].local_index))
    assert cid.say(dan)
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == AWAY


def test_unanswered_challenge_is_forgotten(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    (challenge,) = world.raw(AWAY, ann.transport(bob, bytes(200)))
    (answer,) = ann.receive(challenge.datagram)
    world.wait(20)
    assert world.raw(AWAY, answer) == []
    assert world.switchboard.own.handshakes == {}
    assert ann.record.binding.address == HOME


def test_challenged_device_that_is_loaded_gets_its_cookie_back(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    ann.loaded = True
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == HOME
    world.wait(1)
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == AWAY


def test_forged_cookie_reply_is_refused(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    (challenge,) = world.raw(AWAY, ann.transport(bob, bytes(200)))
    index = packets.sender_index(challenge.datagram)
    assert world.raw(AWAY, packets.HEAD.pack(packets.COOKIE_REPLY, index) + bytes(56)) == []
    assert world.drops() == {"source_unproven": 1, "handshake_invalid": 1}


# --- two devices, one address -----------------------------------------------------------------------------------------


def test_address_that_passes_to_another_device_stands_for_that_one(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    ann.move(AWAY)
    bob.move(HOME)
    bob.keepalive()
    assert world.switchboard.bound == {HOME: bob.record}
    assert ann.record.binding is None
    check_consistency(world.switchboard)
    ann.keepalive()
    assert ann.say(bob)
    assert bob.say(ann)


def test_packet_from_the_address_of_another_one_counts_for_its_sender(
    world: World, pair: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = pair
    world.wait(10)
    bob.move(HOME)
    bob.keepalive()
    assert bob.record.last_seen == world.now
    assert ann.record.last_seen == world.now - 10


def test_device_alternates_between_the_families(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    for address in (V6, HOME, V6, HOME):
        ann.move(address)
        ann.keepalive()
        assert ann.say(bob)
        assert bob.say(ann)


# --- sessions with the relay ------------------------------------------------------------------------------------------


def test_session_with_the_relay_ends_after_180_seconds(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.now += 179.9
    ann.keepalive()
    assert world.drops() == {}
    world.now += 0.2
    assert world.raw(AWAY, ann.transport()) == []
    assert world.drops() == {"session_expired": 1}
    assert ann.record.binding.address == HOME


def test_previous_session_is_good_until_it_ends(world: World, ann: StockDevice) -> None:
    ann.connect()
    before = ann.current[world.identity.public]
    world.now += 120
    ann.connect()
    ann.send(before.seal(b""))
    assert world.drops() == {}


def test_unconfirmed_session_does_not_replace_the_current_one(world: World, ann: StockDevice) -> None:
    ann.connect()
    current = ann.record.current
    for _ in range(5):
        world.raw(ann.address, ann.initiation())
    assert ann.record.current is current
    assert len(world.switchboard.own.sessions) == 2


def test_relay_renews_the_sessions_that_it_began(world: World, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    began = ann.record.current
    assert began.initiator
    world.now += 121
    (initiation,) = ann.keepalive()
    assert packets.message_type(initiation.datagram) == packets.INITIATION
    assert ann.record.current is not began
    assert ann.keepalive() == []


def test_clock_gone_back_is_seen_wherever_the_device_is(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.wall -= 3600
    ann.move(AWAY)
    ann.connect()
    assert ann.record.drops == {"timestamp_replayed": 1}
