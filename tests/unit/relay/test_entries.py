# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's entries follow the switchboard: each change puts and removes what it concerns, and nothing else."""

from __future__ import annotations

import pytest
from peer_common import packets
from peer_relay import addresses
from peer_relay.core.device import Binding, Device
from peer_relay.dataplane.kernel.entries import NO_SESSION, Entries
from peer_relay.dataplane.kernel.entry import Count, Key, NextHop, Refusal, Target
from relay_world import LOCAL, LOCAL_2, StockDevice, World, at, check_entries

PORT = 40000


class Network:
    """Everybody is reached by interface 2, except who is told otherwise."""

    def __init__(self) -> None:
        self.ways: dict[bytes, NextHop | Refusal] = {}

    def __call__(self, binding: Binding) -> NextHop | Refusal:
        return self.ways.get(binding.address, NextHop(2, 1500))


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def entries(world: World, network: Network) -> Entries:
    return Entries(world.switchboard, PORT, network)


@pytest.fixture
def joined(entries: Entries, pair: tuple[StockDevice, StockDevice]) -> tuple[StockDevice, StockDevice]:
    """Two devices with a session, whose entries are in the table."""
    entries.follow()
    return pair


def local(host: bytes = LOCAL) -> bytes:
    return addresses.join(host, PORT)


def toward(peer: StockDevice, interface: int = 2, mtu: int = 1500, host: bytes = LOCAL) -> Target:
    return Target(peer.address, local(host), interface, mtu)


def index(device: StockDevice, peer: StockDevice) -> int:
    (found,) = device.record.pairs[peer.record].indexes
    return found


def key(device: StockDevice, peer: StockDevice, host: bytes = LOCAL) -> Key:
    return Key(device.address, local(host), index(device, peer))


def test_a_handshake_makes_an_entry_each_way(entries: Entries, pair: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = pair
    change = entries.follow()
    assert change.remove == {}
    assert change.put == {key(ann, bob): toward(bob), key(bob, ann): toward(ann)}
    assert entries.follow() == ({}, {})
    assert entries.refusal(ann.record, bob.record) is None


def test_an_unanswered_initiation_makes_none(
    world: World, entries: Entries, ann: StockDevice, bob: StockDevice
) -> None:
    ann.connect()
    bob.connect()
    initiation = ann.initiation(bob)
    world.raw(ann.address, initiation)
    assert bob.record.routes
    assert entries.follow() == ({}, {})
    assert entries.refusal(bob.record, ann.record) is NO_SESSION
    (answer,) = bob.receive(initiation)
    world.raw(bob.address, answer)
    assert len(entries.follow().put) == 2


def test_forged_initiations_make_none(world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = joined
    for number in range(100):
        head = packets.HEAD.pack(packets.INITIATION, number)
        world.raw(ann.address, packets.append_macs(head + bytes(108), bob.identity.mac1_key))
    assert entries.follow() == ({}, {})
    assert entries.refusal(bob.record, ann.record) is None


def test_roaming_moves_the_entries_of_both_directions(
    entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    there, back = key(ann, bob), key(bob, ann)
    ann.move(at("198.18.0.1", 7))
    ann.keepalive()
    change = entries.follow()
    assert list(change.remove) == [there]
    assert change.put == {key(ann, bob): toward(bob), back: toward(ann)}


def test_the_relays_second_address(entries: Entries, joined: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = joined
    there, back = key(ann, bob), key(bob, ann)
    ann.keepalive(LOCAL_2)
    change = entries.follow()
    assert list(change.remove) == [there]
    assert change.put == {key(ann, bob, LOCAL_2): toward(bob), back: toward(ann, host=LOCAL_2)}


def test_an_expired_route_takes_its_entry_along(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    keys = set(entries.flows)
    world.wait(301)
    change = entries.follow()
    assert set(change.remove) == keys
    assert change.put == {}
    assert not entries.flows


def test_a_removed_device_takes_its_entries_along(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, _ = joined
    world.remove(ann)
    change = entries.follow()
    assert len(change.remove) == 2
    assert not entries.flows
    assert not entries._senders


def test_a_lost_group_takes_the_entries_along(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, _ = joined
    world.register(ann, ("others",))
    assert len(entries.follow().remove) == 2


def test_a_rate_limit_takes_its_direction_along(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    world.register(ann, rate_limit=1e6)
    change = entries.follow()
    assert list(change.remove) == [key(ann, bob)]
    assert entries.refusal(ann.record, bob.record) == ("rate_limit", "ann has a rate limit")
    assert entries.refusal(bob.record, ann.record) is None
    world.register(ann)
    assert list(entries.follow().put) == [key(ann, bob)]


def test_two_families_stay_apart(world: World, entries: Entries, ann: StockDevice) -> None:
    eve = world.add("eve", at("2001:db8::5"))
    ann.connect()
    eve.connect(bytes(15) + b"\1")
    ann.shake_hands(eve)
    assert entries.follow() == ({}, {})
    assert entries.refusal(ann.record, eve.record).name == "families"
    assert entries.refusal(eve.record, ann.record).name == "families"


def test_two_devices_by_ipv6(world: World, entries: Entries) -> None:
    relay = bytes(15) + b"\1"
    eve, fay = world.add("eve", at("2001:db8::5")), world.add("fay", at("2001:db8::6"))
    eve.connect(relay)
    fay.connect(relay)
    initiation = eve.initiation(fay)
    eve.send(initiation, relay)
    assert entries.follow().put == {
        key(eve, fay, relay): toward(fay, host=relay),
        key(fay, eve, relay): toward(eve, host=relay),
    }


def test_a_device_without_a_way_stays_out_until_there_is_one(
    entries: Entries, network: Network, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    network.ways[bob.address] = Refusal("no_way", "no route")
    entries.moved([bob.record.binding])
    assert len(entries.follow().remove) == 2
    assert entries.refusal(ann.record, bob.record) == ("no_way", "bob: no route")
    assert entries.refusal(bob.record, ann.record) == ("no_way", "bob: no route")
    network.ways[bob.address] = NextHop(3, 1400)
    entries.moved([bob.record.binding])
    assert entries.follow().put == {key(ann, bob): toward(bob, 3, 1400), key(bob, ann): toward(ann)}


def test_a_device_that_the_program_does_not_hear_is_sent_to(
    entries: Entries, network: Network, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    there = key(bob, ann)
    network.ways[bob.address] = NextHop(2, 1500, Refusal("interface", "wg0: it is no Ethernet"))
    entries.moved([bob.record.binding])
    change = entries.follow()
    assert list(change.remove) == [there]
    assert entries.refusal(ann.record, bob.record) is None
    assert entries.refusal(bob.record, ann.record) == ("interface", "bob: wg0: it is no Ethernet")


def test_an_address_that_changes_hands(world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]) -> None:
    ann, _ = joined
    before = set(entries.flows)
    cid = world.add("cid", ann.address)
    cid.connect()
    assert ann.record.binding is None
    change = entries.follow()
    assert set(change.remove) == before
    assert change.put == {}
    check_entries(entries)


def test_rekeys_leave_the_other_entries_alone(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    world.wait(120)
    bob.shake_hands(ann)
    change = entries.follow()
    assert change.remove == {}
    assert len(change.put) == 2
    assert len(entries.flows) == 4


def test_what_the_table_counts_is_told(entries: Entries, joined: tuple[StockDevice, StockDevice], world: World) -> None:
    ann, bob = joined
    pair = ann.record.pairs[bob.record]
    packets_before, bytes_before, sent_before = pair.packets, pair.bytes, bob.record.tx_packets
    flow = entries.flows[key(ann, bob)]
    entries.count(flow, Count(10, 1000, int((world.now + 5) * 1e9)))
    entries.count(flow, Count(30, 5000, int((world.now + 6) * 1e9)))
    assert (pair.packets - packets_before, pair.bytes - bytes_before, pair.kernel_packets) == (30, 5000, 30)
    assert bob.record.tx_packets - sent_before == 30
    assert ann.record.last_seen == pair.last_packet == world.now + 6
    assert bob.record.last_seen == world.now


def test_counting_goes_on_over_a_change_of_the_target(
    entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    entries.count(entries.flows[key(ann, bob)], Count(10, 1000, 1))
    bob.move(at("198.18.0.2"))
    bob.keepalive()
    entries.follow()
    entries.count(entries.flows[key(ann, bob)], Count(12, 1200, 1))
    assert ann.record.pairs[bob.record].kernel_packets == 12


def test_what_the_table_does_not_take_is_tried_again(entries: Entries, joined: tuple[StockDevice, StockDevice]) -> None:
    ann, bob = joined
    full = Refusal("full", "the table is full")
    entries.reject({key(ann, bob): full})
    assert entries.refusal(ann.record, bob.record) is full
    assert entries.refusal(bob.record, ann.record) is None
    assert entries.again("other") == {}
    assert entries.again("full") == {key(ann, bob): toward(bob)}
    assert entries.refusal(ann.record, bob.record) is None


def test_what_the_table_did_not_take_is_no_longer_told_once_it_leads_elsewhere(
    world: World, network: Network, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    entries.reject({key(ann, bob): Refusal("table", "the MTU is too small")})
    network.ways[bob.address] = NextHop(3, 1400)
    entries.moved([bob.record.binding])
    assert entries.follow().put[key(ann, bob)] == toward(bob, 3, 1400)
    assert entries.refusal(ann.record, bob.record) is None


def restarted(world: World) -> Entries:
    return Entries(world.switchboard, PORT, Network())


def test_a_restart_adopts_what_the_state_confirms(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    found = {key: (flow.target, Count(100, 9000, 5)) for key, flow in entries.flows.items()}
    stranger = Key(at("203.0.113.1"), local(), 7)
    found[stranger] = toward(bob), Count()
    found[key(ann, bob)] = toward(bob, 9), Count(50, 5, 5)
    world.restart()
    entries = restarted(world)
    entries.revive(found, world.now)
    remove, put = entries.adopt(found)
    assert remove == [stranger]
    assert put == {key(ann, bob): toward(bob)}
    # What was counted before the start is not counted again.
    entries.count(entries.flows[key(ann, bob)], Count(51, 105, 6))
    assert ann.record.pairs[bob.record].packets == 1


def test_a_restart_revives_what_is_younger_than_the_saved_state(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, bob = joined
    found = {key: (flow.target, Count()) for key, flow in entries.flows.items()}
    for device in (ann.record, bob.record):
        for number in list(device.routes):
            device.drop_route(number)
    world.restart()
    entries = restarted(world)
    entries.revive(found, world.now)
    assert entries.adopt(found) == ([], {})
    assert set(entries.flows) == set(found)


def test_a_restart_revives_nothing_that_the_settings_forbid(
    world: World, entries: Entries, joined: tuple[StockDevice, StockDevice]
) -> None:
    ann, _ = joined
    found = {key: (flow.target, Count()) for key, flow in entries.flows.items()}
    world.register(ann, ("others",))
    world.restart()
    entries = restarted(world)
    entries.revive(found, world.now)
    remove, put = entries.adopt(found)
    assert set(remove) == set(found)
    assert put == {}


def test_a_hub_costs_each_handshake_its_own_pair_only(world: World, entries: Entries) -> None:
    hub = world.add("hub", at("192.0.2.200")).connect()
    others = [world.add(f"d{number}", at("198.18.0.1", number)).connect() for number in range(1, 50)]
    for other in others:
        other.shake_hands(hub)
    entries.follow()
    asked: list[Device] = []
    entries._derive, derive = lambda *pair: asked.append(pair) or derive(*pair), entries._derive
    others[0].shake_hands(hub)
    change = entries.follow()
    assert len(change.put) == 2
    assert set(asked) == {(hub.record, others[0].record), (others[0].record, hub.record)}
