# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper against a router and a clock that both do what the test says."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keeper_world import LATENCY, POLL, RELAY, WEB, Router, World
from port_keeper.held import Mapping
from port_keeper.keeper import Find, Map, Unmap
from port_mapping.mapping import Conflict, Malformed, NoAddress, Refused, Unreachable, Wanted

METHODS = ["pcp", "nat-pmp", "upnp"]
_AT_ONCE = 5 * LATENCY
_NEXT_LOOK = POLL + 6 * LATENCY


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_maps_at_once(method: str) -> None:
    world = World(RELAY, WEB, method=method)
    assert world.until_mapped(1) < _AT_ONCE + LATENCY
    world.run(1)
    assert (world.state, world.held.renewals, world.held.restores) == ("mapped", 0, 0)
    assert world.keeper.address == "203.0.113.1"
    assert world.keeper.problems(world.now) == []


def test_renews_at_half_the_lease(world: World) -> None:
    world.run(1500)
    first, *renewals = world.maps_asked()
    assert [round(when - first) for when in renewals] == [300, 600, 900, 1200, 1500]
    assert (world.held.renewals, world.held.restores) == (5, 0)


@pytest.mark.parametrize("lease", [2, 3, 5, 7, 30, 120])
def test_a_lease_never_runs_out(lease: int) -> None:
    mapping = Mapping("relay", Wanted(1, 1, lease=lease))
    world = World(mapping)
    world.run(1)
    for _ in range(300):
        world.run(0.5)
        assert world.router.maps(mapping.wanted)
        assert world.state == "mapped"
    assert world.held.restores == 0
    assert world.held.renewals <= 151 * max(2 / lease, 0.02)


def test_a_lease_of_a_moment_floods_no_router() -> None:
    world = World()
    world.router._map = lambda entry, held, wanted: type(world.router)._map(
        world.router, entry, held, Wanted(wanted.internal_port, wanted.external_port, lease=1)
    )
    world.run(20)
    assert len(world.maps_asked()) <= 41


def test_a_longer_lease_than_asked_for_is_still_looked_after(world: World) -> None:
    world.held.grant(world.now, type(world.held.granted)("203.0.113.1", 41000, 10**9))
    assert world.held.due - world.now == 300


def test_a_mapping_without_an_end_is_renewed_as_well(world: World) -> None:
    world.router.leases = False
    world.run(1000)
    assert world.held.expires is None
    assert world.state == "mapped"
    assert len(world.maps_asked()) == 4


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pcp", "nat-pmp"])
def test_an_epoch_gone_back_is_a_restart(method: str) -> None:
    world = World(RELAY, WEB, method=method)
    world.run(100)
    world.router.restart()
    assert world.until_mapped(20) < _NEXT_LOOK
    world.run(1)
    assert [held.restores for held in world.keeper.held] == [1, 1]
    assert "the router has restarted" in world.texts()
    world.run(100)
    assert world.held.restores == 1


@pytest.mark.parametrize("method", METHODS)
def test_another_boot_id_is_a_restart(method: str) -> None:
    world = World(method=method)
    world.router.boot_id = 7
    world.router.shows = False
    world.run(100)
    world.router.restart(epoch=False, boot=True)
    assert world.until_mapped(20) < _NEXT_LOOK
    assert world.held.restores == 1


def test_a_boot_id_that_is_not_told_for_once_is_no_restart_and_hides_none(world: World) -> None:
    world.router.boot_id = 7
    world.run(10)
    world.router.boot_id = None
    world.run(10)
    world.router.boot_id = 7
    world.run(10)
    assert world.held.restores == 0
    world.router.boot_id = None
    world.router.restart(epoch=False)
    world.run(10)
    world.router.boot_id = 8
    assert world.until_mapped(10) < _NEXT_LOOK


def test_a_restart_with_silence_in_between(world: World) -> None:
    world.router.alive = False
    world.run(60)
    world.router.restart()
    world.router.alive = True
    assert world.until_mapped(20) < _NEXT_LOOK
    assert world.held.restores == 1


def test_a_router_swapped_for_one_that_runs_for_longer(world: World) -> None:
    world.router.restart(epoch=False)
    world.router.epoch_of -= 10**6
    assert world.until_mapped(20) < _NEXT_LOOK


def test_an_entry_that_the_router_dropped_is_made_again() -> None:
    world = World(method="upnp")
    world.run(10)
    world.router.table.clear()
    assert world.until_mapped(20) < _NEXT_LOOK
    assert world.held.restores == 1


def test_a_router_that_does_not_list_what_it_granted() -> None:
    world = World(method="upnp")
    world.router.shows = False
    world.run(60)
    assert len(world.maps_asked()) == 1
    assert world.state == "mapped"


def test_a_router_that_cannot_be_asked_is_not_asked_again(world: World) -> None:
    world.run(60)
    assert len([action for _, action in world.actions if type(action).__name__ == "Ask"]) == 1


def test_an_announcement_is_heard_at_once(world: World) -> None:
    world.run(50)
    world.router.restart()
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < _AT_ONCE
    assert world.held.restores == 1


def test_an_announcement_of_a_router_whose_life_tells_nothing_renews(world: World) -> None:
    world.run(50)
    world.router.restart(epoch=False)
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < _AT_ONCE


def test_an_announcement_ends_the_wait_for_a_router_that_was_away(world: World) -> None:
    world.router.alive = False
    world.run(800)
    world.router.alive = True
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < _AT_ONCE


def test_announcements_without_end_and_those_of_others_cost_little(world: World) -> None:
    world.run(50)
    before = len(world.maps_asked())
    for _ in range(50):
        world.keeper.announced(world.now, "192.0.2.9")
        world.run(0.1)
    assert len(world.maps_asked()) == before
    for _ in range(50):
        world.keeper.announced(world.now, world.router.gateway)
        world.run(0.1)
    assert len(world.maps_asked()) == before + 1
    assert world.state == "mapped"


# --- silence ----------------------------------------------------------------------------------------------------------


def test_one_lost_answer_is_nothing(world: World) -> None:
    world.run(10)
    world.keeper.events.clear()
    world.router.alive = False
    while not world.keeper._failures:
        world.run(0.1)
    world.router.alive = True
    world.run(10)
    assert world.keeper.events == []
    assert (world.state, world.held.restores) == ("mapped", 0)


def test_silence_is_told_after_a_while_and_over_when_it_is_over(world: World) -> None:
    world.router.alive = False
    world.run(8)
    assert (world.keeper.problems(world.now), world.keeper.answering(world.now)) == ([], ("192.0.2.254", "pcp"))
    world.run(10)
    assert world.keeper.answering(world.now) is None
    assert world.keeper.problems(world.now) == ["192.0.2.254 does not answer"]
    assert world.state == "mapped"  # as long as the lease lasts
    world.run(600)
    assert world.state == "pending"
    assert world.texts().count("does not answer") == 1
    world.router.alive = True
    world.router.restart()
    assert world.until_mapped(60) < 31
    assert world.keeper.problems(world.now) == []


def test_no_router_at_first_is_told_at_once() -> None:
    world = World()
    world.router.alive = False
    world.run(1)
    assert world.keeper.problems(world.now) == ["192.0.2.254 does not answer"]
    assert world.state == "pending"
    world.run(20)
    world.router.alive = True
    assert world.until_mapped(20) < _NEXT_LOOK


def test_a_router_that_is_gone_is_asked_for_less_often(world: World) -> None:
    world.router.alive = False
    world.run(700)
    before = len(world.actions)
    world.run(300)
    assert 9 <= len(world.actions) - before <= 11


def test_the_method_that_worked_is_tried_before_others(world: World) -> None:
    world.router.alive = False
    world.run(14)
    assert [action.method for _, action in world.actions if isinstance(action, Find)] == ["", "pcp", "pcp", "pcp", ""]


def test_a_router_swapped_for_one_with_another_method(world: World) -> None:
    world.router = Router(world, "upnp")
    assert world.until_mapped(30) < 5 * _NEXT_LOOK
    assert "router 192.0.2.254 speaks upnp" in world.texts()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "state"), [(Refused, "refused"), (Conflict, "conflict"), (Malformed, "pending")])
def test_a_refusal_is_told_and_asked_about_less_and_less(error: type, state: str) -> None:
    world = World()
    world.router.refuses = error
    world.run(1000)
    assert (world.state, world.held.problem) == (state, "192.0.2.254 says no")
    asked = world.maps_asked()
    gaps = [round(after - before) for before, after in itertools.pairwise(asked)]
    assert gaps == [5, 10, 20, 40, 80, 160, 300, 300]
    assert world.texts().count("relay: 192.0.2.254 says no") == 1
    world.router.refuses = None
    world.until_mapped(301)
    assert (world.state, world.held.problem, world.held.restores) == ("mapped", None, 0)


def test_a_renewal_refused_leaves_the_mapping_its_time(world: World) -> None:
    world.router.refuses = Refused
    world.run(590)
    assert (world.state, world.held.problem) == ("mapped", "192.0.2.254 says no")
    world.run(20)
    assert world.state == "refused"


def test_a_router_without_an_address(world: World) -> None:
    world.run(10)
    world.router.restart()
    world.router.refuses = NoAddress
    world.run(10)
    assert (world.state, world.keeper.addressless) == ("refused", True)
    world.router.refuses = None
    world.run(20)
    assert (world.state, world.keeper.addressless) == ("mapped", False)


def test_a_port_taken_by_another_host() -> None:
    world = World(method="upnp")
    world.run(10)
    world.router.table["udp", 41000] = ("192.0.2.9", 40000, float("inf"))
    world.run(_NEXT_LOOK)
    assert (world.state, world.held.problem) == ("conflict", "192.0.2.254: 192.0.2.9 has port 41000")
    del world.router.table["udp", 41000]
    world.until_mapped(11)


def test_a_refusal_is_asked_about_at_once_after_a_restart(world: World) -> None:
    world.router.refuses = Refused
    world.run(1200)
    world.router.refuses = None
    world.router.restart()
    assert world.until_mapped(20) < _NEXT_LOOK


# --- addresses and routers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nat-pmp", "upnp"])
def test_another_external_address_is_noticed(method: str) -> None:
    world = World(method=method)
    world.run(100)
    assert (world.keeper.address_changes, round(world.keeper.address_since)) == (0, 1000)
    world.router.address = "203.0.113.2"
    world.run(_NEXT_LOOK)
    assert world.keeper.address == world.held.granted.external_address == "203.0.113.2"
    assert world.keeper.address_changes == 1
    assert world.now - world.keeper.address_since < _NEXT_LOOK
    assert "the external address is 203.0.113.2, no longer 203.0.113.1" in world.texts()


def test_another_external_address_that_only_a_mapping_tells(world: World) -> None:
    """As with PCP: a server sets its epoch back when its address changes."""
    world.run(100)
    world.router.address = "203.0.113.2"
    world.router.restart()
    world.run(_NEXT_LOOK)
    assert (world.keeper.address, world.keeper.address_changes) == ("203.0.113.2", 1)


@pytest.mark.parametrize(("gateway", "local"), [("192.0.2.253", "192.0.2.7"), ("192.0.2.254", "192.0.2.8")])
def test_another_router_or_own_address(world: World, gateway: str, local: str) -> None:
    world.run(100)
    world.router = Router(world, gateway=gateway)
    world.local = local
    world.keeper.way(world.now, gateway, local)
    assert world.until_mapped(1) < _AT_ONCE
    assert world.held.restores == 1


def test_no_route_for_a_moment_is_nothing(world: World) -> None:
    world.keeper.way(world.now, "", "")
    world.keeper.way(world.now, "192.0.2.254", "192.0.2.7")
    world.run(10)
    assert len(world.maps_asked()) == 1


def test_what_the_last_router_answers_is_not_taken_for_the_new_ones(world: World) -> None:
    world.run(299)
    while not isinstance(action := world.keeper.next(world.now), Map):
        if action is None:
            world.now += 0.1
        else:
            world.keeper.done(world.now, world.router.answer(action))
    world.keeper.way(world.now, "192.0.2.253", "192.0.2.7")
    world.keeper.done(world.now, Unreachable("the old one"))
    assert isinstance(world.keeper.next(world.now), Find)
    assert world.keeper._failures == 0


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_lease_that_ran_out_while_the_host_slept(world: World) -> None:
    world.run(100)
    world.now += 7200
    assert world.state == "pending"
    assert world.until_mapped(1) < _AT_ONCE
    assert world.held.restores == 1
    assert "restarted" not in world.texts()


def test_a_short_sleep_is_nothing(world: World) -> None:
    world.run(100)
    world.now += 60
    world.run(10)
    assert (world.held.renewals, world.held.restores) == (0, 0)


def test_a_restart_while_the_host_slept(world: World) -> None:
    world.run(100)
    world.now += 30
    world.router.restart()
    world.now += 30
    assert world.until_mapped(1) < _AT_ONCE


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_mapping_taken_off_the_settings_is_deleted(world: World) -> None:
    world.keeper.apply(world.now, [WEB], POLL)
    world.run(1)
    assert set(world.router.table) == {("tcp", 8080)}
    assert world.keeper.remembered() == [WEB.wanted]


def test_all_mappings_taken_off_the_settings(world: World) -> None:
    world.keeper.apply(world.now, [], POLL)
    world.run(10)
    assert not world.router.table
    assert world.keeper.due() == float("inf")


def test_another_external_port_comes_after_the_old_one_is_deleted(world: World) -> None:
    other = Mapping("relay", Wanted(40000, 42000, lease=600))
    world.actions.clear()
    world.keeper.apply(world.now, [other], POLL)
    world.run(1)
    assert [type(action) for _, action in world.actions[:2]] == [Unmap, Map]
    assert set(world.router.table) == {("udp", 42000)}


def test_another_lease_is_asked_for_at_once(world: World) -> None:
    world.keeper.apply(world.now, [Mapping("relay", Wanted(40000, 41000, lease=60))], POLL)
    world.run(1)
    assert (world.held.granted.lease, world.held.renewals) == (60, 1)


def test_the_same_settings_change_nothing(world: World) -> None:
    world.keeper.apply(world.now, [RELAY], POLL)
    world.run(1)
    assert len(world.maps_asked()) == 1


def test_what_the_last_run_left_is_deleted_first() -> None:
    world = World(leftover=(WEB.wanted,))
    world.router.table["tcp", 8080] = (world.local, 80, float("inf"))
    world.run(1)
    assert set(world.router.table) == {("udp", 41000)}


def test_what_cannot_be_deleted_is_told_and_left(world: World) -> None:
    answer = world.router.answer

    def refuse(action: object) -> object:
        if isinstance(action, Unmap):
            raise Refused("no")
        return answer(action)

    world.router.answer = refuse
    world.keeper.apply(world.now, [WEB], POLL)
    world.run(1)
    assert "udp 41000 stays open in the router: no" in world.texts()
    assert world.state == "mapped"


def test_a_silent_router_is_told_of_the_deletion_later(world: World) -> None:
    world.router.alive = False
    world.keeper.apply(world.now, [], POLL)
    world.run(30)
    assert world.keeper.remembered() == [RELAY.wanted]
    world.router.alive = True
    world.run(_NEXT_LOOK)
    assert not world.router.table


# --- anything ---------------------------------------------------------------------------------------------------------

_DEEDS = {
    "restart": lambda world: world.router.restart(),
    "restart_quietly": lambda world: world.router.restart(epoch=False, boot=True),
    "die": lambda world: setattr(world.router, "alive", False),
    "live": lambda world: setattr(world.router, "alive", True),
    "refuse": lambda world: setattr(world.router, "refuses", Refused),
    "grant": lambda world: setattr(world.router, "refuses", None),
    "sleep": lambda world: setattr(world, "now", world.now + 5000),
    "announce": lambda world: world.keeper.announced(world.now, world.router.gateway),
    "address": lambda world: setattr(world.router, "address", f"203.0.113.{int(world.now) % 250}"),
    "both": lambda world: world.keeper.apply(world.now, [RELAY, WEB], POLL),
    "web": lambda world: world.keeper.apply(world.now, [WEB], POLL),
    "relay": lambda world: world.keeper.apply(world.now, [RELAY], POLL),
    "renumber": lambda world: (
        setattr(world, "local", "192.0.2.8"),
        world.router.table.clear(),
        world.keeper.way(world.now, world.router.gateway, "192.0.2.8"),
    ),
}


@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.sampled_from(sorted(_DEEDS)), st.floats(0.01, 400)), max_size=12),
)
def test_whatever_happens_all_ends_well(method: str, deeds: list[tuple[str, float]]) -> None:
    world = World(method=method)
    world.router.boot_id = 1
    for deed, pause in deeds:
        _DEEDS[deed](world)
        world.run(pause)
    world.router.alive, world.router.refuses = True, None
    world.run(331)  # the longest pause between two questions, and then some
    assert [held.state(world.now) for held in world.keeper.held] == ["mapped"] * len(world.keeper.held)
    assert all(world.router.maps(held.mapping.wanted, world.local) for held in world.keeper.held)
    assert len(world.router.table) == len(world.keeper.held)
    assert world.keeper.problems(world.now) == []
    assert all(event.level in (logging.INFO, logging.WARNING) for event in world.keeper.events)
