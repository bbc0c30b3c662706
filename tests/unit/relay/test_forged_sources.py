# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources can be forged: nobody takes another one's place, no relay is taken for a device (design rule 11)."""

from __future__ import annotations

import pytest
from peer_common import packets
from peer_relay import state
from peer_relay.core.device import Binding
from relay_world import LOCAL, LOCAL_2, PORT, Sent, StockDevice, World, at, check_consistency

HOME, AWAY, ELSEWHERE = at("192.0.2.1"), at("203.0.113.7", 4242), at("203.0.113.66", 666)
V6 = at("2001:db8::7", 4242)
Pair = tuple[StockDevice, StockDevice]


def initiations(sent: list[Sent]) -> list[Sent]:
    return [out for out in sent if packets.message_type(out.datagram) == packets.INITIATION]


@pytest.fixture
def mallory(world: World) -> StockDevice:
    """A registered device of a group of its own, that forges sources."""
    return world.add("mallory", ELSEWHERE, groups=("others",)).connect()


def forge(world: World, mallory: StockDevice, source: bytes) -> list[Sent]:
    """Let a keepalive of a device come from a forged source."""
    return world.send(source, mallory.transport())


# --- another device's address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", [HOME, V6])
def test_keepalive_from_anothers_address_takes_nothing(
    world: World, pair: Pair, mallory: StockDevice, home: bytes
) -> None:
    ann, bob = pair
    ann.move(home)
    ann.keepalive()
    for _ in range(30):
        forge(world, mallory, home)
        assert ann.say(bob)
        assert bob.say(ann)
        world.wait(1)
    assert ann.record.binding.address == home
    assert mallory.record.binding.address == ELSEWHERE
    assert world.drops()["address_unproven"] == 30
    assert mallory.record.drops == {"address_unproven": 30}
    check_consistency(world.switchboard)


def test_what_is_asked_at_anothers_address_is_paid_for(world: World, pair: Pair, mallory: StockDevice) -> None:
    """But for the first question."""
    world.log.clear()
    sent = received = 0
    for _ in range(200):
        keepalive = mallory.transport()
        received += len(keepalive)
        world.raw(HOME, keepalive)
        world.wait(0.2)
        sent += sum(len(out.datagram) for out in world.log if out.binding.address == HOME)
        world.log.clear()
    assert 0 < sent <= received + 2 * packets.INITIATION_SIZE


def test_answer_to_a_question_asked_elsewhere_proves_nothing(world: World, pair: Pair, mallory: StockDevice) -> None:
    ann, bob = pair
    cid = world.add("cid", at("192.0.2.3"), groups=("others",)).connect()
    mallory.shake_hands(cid)
    # The question goes to where mallory really is, the answer comes from where ann is.
    (question,) = world.raw(AWAY, mallory.transport(cid, bytes(200)))
    (answer,) = mallory.receive(question.datagram)
    world.send(HOME, answer)
    assert ann.record.binding.address == HOME
    assert mallory.record.binding.address == ELSEWHERE
    assert ann.say(bob)
    assert bob.say(ann)


def test_handshake_that_is_confirmed_from_anothers_address_takes_nothing(
    world: World, pair: Pair, mallory: StockDevice
) -> None:
    ann, _ = pair
    (answer,) = world.raw(ELSEWHERE, mallory.initiation())
    (confirmation,) = mallory.receive(answer.datagram)
    world.send(HOME, confirmation)
    assert ann.record.binding.address == HOME
    assert mallory.record.binding.address == ELSEWHERE


def test_first_handshake_that_is_confirmed_from_anothers_address_binds_nothing(world: World, pair: Pair) -> None:
    ann, _ = pair
    new = world.add("new", ELSEWHERE, groups=("others",))
    (answer,) = world.raw(ELSEWHERE, new.initiation())
    (confirmation,) = new.receive(answer.datagram)
    world.send(HOME, confirmation)
    assert ann.record.binding.address == HOME
    assert new.record.binding is None
    new.keepalive()
    assert new.record.binding.address == ELSEWHERE


def test_answer_of_before_the_other_came_proves_nothing(world: World, mallory: StockDevice) -> None:
    """Mallory was there herself, was asked there, and keeps her answer until somebody else has the address."""
    ann, _ = world.add("ann", AWAY), mallory.move(HOME)
    cid = world.add("cid", at("192.0.2.3"), groups=("others",)).connect()
    mallory.keepalive()
    mallory.shake_hands(cid)
    (question,) = world.raw(HOME, mallory.transport(cid, bytes(200)), LOCAL_2)[1:]
    (answer,) = mallory.receive(question.datagram)
    mallory.move(ELSEWHERE)
    mallory.keepalive()
    world.now += 1
    ann.move(HOME)
    ann.connect()
    assert ann.record.binding.address == HOME
    world.send(HOME, answer)
    assert ann.record.binding.address == HOME


def test_after_a_restart_the_address_is_still_held(world: World, pair: Pair, mallory: StockDevice) -> None:
    ann, bob = pair
    world.restart()
    mallory.connect()
    forge(world, mallory, HOME)
    assert ann.record.binding.address == HOME
    assert ann.say(bob)
    assert bob.say(ann)


def test_device_that_got_the_mapping_of_one_that_left_takes_it_in_one_round_trip(world: World, pair: Pair) -> None:
    ann, bob = pair
    new = world.add("new", ELSEWHERE).connect()
    world.wait(30)
    world.leave(ann)
    new.move(HOME)
    (question,) = new.keepalive()
    assert question.binding == (HOME, LOCAL)
    assert new.record.binding.address == HOME
    assert ann.record.binding is None
    bob.shake_hands(new)
    assert bob.say(new)


def test_device_that_starts_where_another_one_was_needs_no_question(world: World, pair: Pair) -> None:
    ann, _ = pair
    world.wait(1)
    world.leave(ann)
    new = world.add("new", HOME)
    new.connect()
    assert new.record.binding.address == HOME
    assert [packets.message_type(seen) for seen in new.seen] == [packets.RESPONSE]


def test_data_from_where_another_one_was_is_asked_about_too(world: World, pair: Pair) -> None:
    ann, bob = pair
    cid = world.add("cid", ELSEWHERE).connect()
    cid.shake_hands(bob)
    world.wait(1)
    world.leave(ann)
    cid.move(HOME)
    cid.send(cid.transport(bob, bytes(200)))
    assert cid.record.binding.address == HOME
    assert cid.say(bob)


def test_two_devices_behind_one_router_swap_their_ports(world: World) -> None:
    one, other = at("192.0.2.1", 1001), at("192.0.2.1", 1002)
    ann, bob = world.add("ann", one).connect(), world.add("bob", other).connect()
    ann.shake_hands(bob)
    for _ in range(3):
        ann.connect()
        bob.connect()
        for _ in range(5):
            world.wait(25)
            ann.keepalive()
            bob.keepalive()
        for device in (ann, bob):
            world.leave(device)
            device.address = other if device.address == one else one
        for device in (ann, bob):
            world.arrive(device)
        for device in (ann, bob):
            device.keepalive()
        assert (ann.record.binding.address, bob.record.binding.address) == (ann.address, bob.address)
        ann.shake_hands(bob)
        assert ann.say(bob)
        assert bob.say(ann)


def test_question_that_is_lost_is_repeated(world: World, pair: Pair) -> None:
    ann, _ = pair
    new = world.add("new", ELSEWHERE).connect()
    for _ in range(5):
        world.wait(25)
        new.keepalive()
    world.leave(ann)
    new.move(HOME)
    assert len(initiations(world.raw(HOME, new.transport()))) == 1
    world.wait(1.1)
    assert new.record.binding.address == HOME


# --- a relay's address ------------------------------------------------------------------------------------------------

RELAYS = [at("198.51.100.1", PORT), at("2001:db8::1", PORT), at("127.0.0.1", PORT), at("::ffff:198.51.100.1", PORT)]


@pytest.mark.parametrize("relay", RELAYS)
def test_relay_is_never_a_device(world: World, pair: Pair, relay: bytes) -> None:
    """The relay's own address or another one's: no answer to the question ever comes back from there."""
    ann, _ = pair
    for moment in range(20):
        for out in world.raw(relay, ann.transport()):
            world.raw(relay, out.datagram)  # what is sent to a relay comes in at a relay
        world.wait(1)
        assert ann.record.binding.address == HOME, moment
    assert world.drops()["address_unproven"] == 20


def test_handshake_that_is_confirmed_from_a_relay_binds_nothing(world: World, bob: StockDevice) -> None:
    (answer,) = world.raw(AWAY, bob.initiation())
    (confirmation,) = bob.receive(answer.datagram)
    world.raw(RELAYS[0], confirmation)
    assert bob.record.binding is None


def test_device_with_the_relays_port_is_served_like_any_other(world: World, bob: StockDevice) -> None:
    ann = world.add("ann", at("192.0.2.9", PORT)).connect()
    assert ann.record.binding.address == ann.address
    bob.connect()
    ann.shake_hands(bob)
    ann.move(at("192.0.2.10", PORT))
    ann.keepalive()
    assert ann.record.binding.address == ann.address
    assert ann.say(bob)
    assert bob.say(ann)
    world.restart()
    world.tick()
    assert ann.say(bob)
    assert bob.say(ann)


def test_fallbacks_loopback_source_is_a_device(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.move(at("127.1.2.3", 41234))
    ann.keepalive()
    assert ann.say(bob)
    assert bob.say(ann)


class TwoRelays:
    """Two relays with the same devices, each reached by the other one."""

    def __init__(self) -> None:
        self.places = {at("198.51.100.1", PORT): World(), at("198.51.100.2", PORT): World()}
        self.passed = 0

    def carry(self, source: bytes, place: bytes, datagram: bytes) -> None:
        """Bring a datagram to a relay, and what it sends to the other one, until nothing moves or for ever."""
        under_way = [(source, place, datagram)]
        while under_way:
            source, place, datagram = under_way.pop()
            self.passed += 1
            assert self.passed < 1000, "they circle"
            for out in self.places[place].raw(source, datagram):
                if out.binding.address in self.places:
                    under_way.append((place, out.binding.address, out.datagram))


def test_nothing_circles_between_two_relays() -> None:
    both = TwoRelays()
    first, second = both.places
    for place, world in both.places.items():
        ann, bob = world.add("ann", HOME).connect(), world.add("bob", at("192.0.2.2")).connect()
        ann.shake_hands(bob)
        other = second if place == first else first
        for device in (ann, bob):
            both.carry(other, place, device.transport())
        assert world.switchboard.bound.keys() == {HOME, bob.address}
        both.carry(other, place, ann.transport(bob, bytes(200)))
        both.carry(HOME, place, ann.transport(bob, bytes(200)))
    assert both.passed < 20


def test_binding_of_a_run_before_that_is_a_relays_is_not_believed(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.record.binding = Binding(RELAYS[0], LOCAL)
    saved = state.export(world.switchboard, world.now, world.wall)
    world.start()
    state.restore(world.switchboard, saved, world.now)
    assert RELAYS[0] not in world.switchboard.bound
    world.wait(3)
    assert bob.record.binding.address == bob.address
    ann.connect()
    assert ann.record.binding.address == HOME


def test_binding_of_a_run_before_that_nobody_answers_at_ends(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.leave(ann)
    world.restart()
    world.wait(89)
    assert ann.record.binding.address == HOME
    world.wait(10)
    assert ann.record.binding is None
    assert bob.record.binding.address == bob.address


def test_ports_of_relays_that_become_known_end_what_was_bound_there(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.move(at("198.51.100.7", 41000))
    ann.keepalive()
    world.switchboard.expect_relays([PORT, 41000])
    assert world.switchboard.bound.keys() == {bob.address}
    ann.connect()
    assert ann.record.binding.address == ann.address


# --- moves ------------------------------------------------------------------------------------------------------------


def test_device_that_alternates_between_two_ports_is_held_back(world: World, pair: Pair) -> None:
    ann, bob = pair
    places = at("192.0.2.1", 1001), at("192.0.2.1", 1002)
    ann.move(places[0])
    moves = 0
    for number in range(400):
        before = ann.record.binding
        world.raw(places[number % 2], ann.transport())
        moves += ann.record.binding != before
        world.now += 0.1
        world.switchboard.moved.clear()
    assert moves <= 10 + 40 * 0.2 + 1
    assert set(world.drops()) == {"moves_limited"}
    assert world.drops()["moves_limited"] > 180, "half of them come from where it is bound"
    assert ann.record.authenticated > world.now - 1, "it is there all the same"
    world.wait(5)
    ann.keepalive()
    assert bob.say(ann)


def test_alternating_between_the_relays_addresses_is_a_move_too(world: World, pair: Pair) -> None:
    ann, _ = pair
    for number in range(100):
        world.raw(HOME, ann.transport(), (LOCAL, LOCAL_2)[number % 2])
    assert world.drops()["moves_limited"] >= 45


def test_a_handful_of_quick_moves_is_instant(world: World, pair: Pair) -> None:
    ann, bob = pair
    for number in range(8):
        ann.move(at("203.0.113.8", 1000 + number))
        ann.keepalive()
        assert ann.say(bob)
        assert bob.say(ann)


# --- challenges -------------------------------------------------------------------------------------------------------


def test_whoever_knows_an_index_cannot_delay_a_device_that_moves(world: World, pair: Pair) -> None:
    ann, bob = pair
    captured = ann.transport(bob, bytes(200))
    for second in range(10):
        for number in range(20):
            world.raw(at("198.18.0.1", 1 + number), captured)
            world.raw(at(f"198.18.{second}.2"), captured)
        world.wait(1)
    for number in range(20):
        world.raw(at("198.18.0.1", 1 + number), captured)
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == AWAY


def test_whoever_forges_sources_of_a_device_delays_no_other_one(world: World, pair: Pair, mallory: StockDevice) -> None:
    ann, bob = pair
    cid = world.add("cid", at("192.0.2.3"), groups=("others",)).connect()
    mallory.shake_hands(cid)
    captured = mallory.transport(cid, bytes(200))
    for number in range(5000):
        world.raw(at(f"198.18.{number // 250}.{number % 250}"), captured)
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == AWAY


def test_whoever_forges_a_devices_initiations_does_not_keep_it_from_answering(world: World, pair: Pair) -> None:
    """The key of the addressee, which mac1 takes, is no secret. Nobody can forge an answer: it takes an index."""
    ann, bob = pair
    mallory = world.add("mallory", ELSEWHERE).connect()
    world.wait(130)
    for _ in range(3):
        for _ in range(400):
            world.raw(HOME, mallory.initiation(bob))
        bob.shake_hands(ann)
        world.wait(2)
    assert world.drops()["pair_limited"] > 900
    assert bob.current[ann.identity.public].created > world.now - 10
    assert bob.say(ann)
    assert ann.say(bob)


def test_question_that_is_open_stays_so_while_others_are_asked(world: World, pair: Pair) -> None:
    """A round trip lasts; whoever forges sources meanwhile must not make the relay forget what it has asked."""
    ann, bob = pair
    captured = ann.transport(bob, bytes(200))
    (question,) = world.raw(AWAY, ann.transport(bob, bytes(200)))
    (answer,) = ann.receive(question.datagram)
    for number in range(8):
        world.raw(at(f"198.18.{number}.1"), captured)
    world.raw(AWAY, answer)
    assert ann.record.binding.address == AWAY


def test_open_questions_last_for_long_round_trips_too(world: World, pair: Pair) -> None:
    """Forged sources lead to 50 questions a second: for 0.6 s, as by satellite, some last, and a device asks again."""
    ann, _ = pair
    own, lasted = world.switchboard.own, 0
    for trial in range(200):
        question = own.initiate(ann.record, Binding(AWAY, LOCAL), world.now, world.wall)
        for number in range(30):
            forged = Binding(at(f"198.18.{trial}.{number}"), LOCAL)
            own.initiate(ann.record, forged, world.now, world.wall)
        lasted += packets.sender_index(question) in own.handshakes
    assert lasted > 5, "29 on average"
    check_consistency(world.switchboard)


def test_challenges_of_forged_sources_are_bounded(world: World, pair: Pair) -> None:
    ann, bob = pair
    captured = ann.transport(bob, bytes(200))
    sent = [world.raw(at(f"198.18.{number // 250}.{number % 250}"), captured) for number in range(5000)]
    assert sum(map(len, sent)) == 200
    assert len(world.switchboard.own.handshakes) <= 16
    assert len(world.switchboard.own._asks) <= 4096


def test_forged_challenges_do_not_delay_the_relays_own_rekey(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.move(AWAY)
    ann.send(ann.transport(bob, bytes(200)))
    captured = ann.transport(bob, bytes(200))
    world.now += 121
    world.raw(ELSEWHERE, captured)
    (initiation,) = ann.keepalive()
    assert packets.message_type(initiation.datagram) == packets.INITIATION


@pytest.mark.parametrize(
    "source", [("198.18.0.1", 0), ("224.0.0.1", 9), ("255.255.255.255", 9), ("::ffff:192.0.2.9", 9)]
)
def test_nobody_is_bound_where_nothing_can_be_sent_to(
    world: World, pair: tuple[StockDevice, StockDevice], source: tuple[str, int]
) -> None:
    """One such address in the state, and the next start would set all of it aside."""
    ann, bob = pair
    world.raw(at(*source), bob.transport())
    assert world.drops() == {"address_invalid": 1}
    assert bob.record.binding.address == bob.address
    world.restart()
    assert ann.say(bob)
