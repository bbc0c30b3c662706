# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other settings while the keeper runs, and whatever else may happen to it in any order."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keeper_world import METHODS, NEXT_LOOK, POLL, RELAY, WEB, World
from port_keeper.keeper import Find, Map, Unmap
from port_keeper.lease import Mapping
from port_mapping.mapping import Life, Refused, Wanted

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
    assert (world.lease.granted.lease, world.lease.renewals) == (60, 1)


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
    world.run(NEXT_LOOK)
    assert not world.router.table


def test_an_outcome_of_another_action_is_refused() -> None:
    keeper = World().keeper
    assert isinstance(keeper.next(1000.0), Find)
    with pytest.raises(TypeError, match="cannot come of Find"):
        keeper.done(1000.0, Life(epoch=1))


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
        world.keeper.update_next_hop(world.now, world.router.gateway, "192.0.2.8"),
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
    assert [lease.state(world.now) for lease in world.keeper.leases] == ["mapped"] * len(world.keeper.leases)
    assert all(world.router.maps(lease.mapping.wanted, world.local) for lease in world.keeper.leases)
    assert len(world.router.table) == len(world.keeper.leases)
    assert world.keeper.problems(world.now) == []
    assert all(event.level in (logging.INFO, logging.WARNING) for event in world.keeper.events)
