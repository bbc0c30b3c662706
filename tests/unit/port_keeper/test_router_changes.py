# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router restarts, is silent for a while, has another address, or is another one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from keeper_world import AT_ONCE, METHODS, NEXT_LOOK, RELAY, WEB, Router, World
from port_keeper.keeper import AskHolder, Find, Map
from port_mapping.mapping import Unreachable


@pytest.fixture
def world_of() -> Callable[..., World]:
    """A world whose router's epoch is a function of the seconds that it runs."""

    def made(method: str, epoch: Callable[[int], int]) -> World:
        world = World(method=method)
        world.router.epoch_like = epoch
        return world

    return made


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pcp", "nat-pmp"])
def test_an_epoch_gone_back_is_a_restart(method: str) -> None:
    world = World(RELAY, WEB, method=method)
    world.run(100)
    world.router.restart()
    assert world.until_mapped(20) < NEXT_LOOK
    world.run(1)
    assert [lease.restores for lease in world.keeper.leases] == [1, 1]
    assert "the router has restarted" in world.texts()
    world.run(100)
    assert world.lease.restores == 1


@pytest.mark.parametrize("method", METHODS)
def test_another_boot_id_is_a_restart(method: str) -> None:
    world = World(method=method)
    world.router.boot_id = 7
    world.router.shows = False
    world.run(100)
    world.router.restart(epoch=False, boot=True)
    assert world.until_mapped(20) < NEXT_LOOK
    assert world.lease.restores == 1


def test_a_boot_id_that_is_not_told_for_once_is_no_restart_and_hides_none(world: World) -> None:
    world.router.boot_id = 7
    world.run(10)
    world.router.boot_id = None
    world.run(10)
    world.router.boot_id = 7
    world.run(10)
    assert world.lease.restores == 0
    world.router.boot_id = None
    world.router.restart(epoch=False)
    world.run(10)
    world.router.boot_id = 8
    assert world.until_mapped(10) < NEXT_LOOK


def test_a_restart_with_silence_in_between(world: World) -> None:
    world.router.alive = False
    world.run(60)
    world.router.restart()
    world.router.alive = True
    assert world.until_mapped(20) < NEXT_LOOK
    assert world.lease.restores == 1


def test_a_router_swapped_for_one_that_runs_for_longer(world: World) -> None:
    world.router.restart(epoch=False)
    world.router.epoch_of -= 10**6
    assert world.until_mapped(20) < NEXT_LOOK


def test_an_entry_that_the_router_dropped_is_made_again() -> None:
    world = World(method="upnp")
    world.run(10)
    world.router.table.clear()
    assert world.until_mapped(20) < NEXT_LOOK
    assert world.lease.restores == 1


def test_a_router_that_does_not_list_what_it_granted() -> None:
    world = World(method="upnp")
    world.router.shows = False
    world.run(60)
    assert len(world.maps_asked()) == 1
    assert world.state == "mapped"


def test_a_router_that_cannot_be_asked_is_not_asked_again(world: World) -> None:
    world.run(60)
    assert len([action for _, action in world.actions if isinstance(action, AskHolder)]) == 1


def test_an_announcement_is_heard_at_once(world: World) -> None:
    world.run(50)
    world.router.restart()
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < AT_ONCE
    assert world.lease.restores == 1


def test_an_announcement_of_a_router_whose_life_tells_nothing_renews(world: World) -> None:
    world.run(50)
    world.router.restart(epoch=False)
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < AT_ONCE


def test_an_announcement_ends_the_wait_for_a_router_that_was_away(world: World) -> None:
    world.router.alive = False
    world.run(800)
    world.router.alive = True
    world.keeper.announced(world.now, world.router.gateway)
    assert world.until_mapped(1) < AT_ONCE


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


def test_announcements_for_hours_cost_less_and_less(world: World) -> None:
    world.run(50)
    before = len(world.maps_asked())
    for _ in range(600):
        world.keeper.announced(world.now, world.router.gateway)
        world.run(1)
    assert len(world.maps_asked()) - before <= 4 + 600 / 60 + 2
    assert world.state == "mapped"


@pytest.mark.parametrize("method", ["pcp", "nat-pmp"])
def test_an_epoch_that_stands_still_tells_nothing(world_of: Callable[..., World], method: str) -> None:
    world = world_of(method, lambda _age: 0)
    world.run(600)
    assert len(world.maps_asked()) <= 4  # two, and a renewal after each half of the lease
    assert world.keeper.oddities() == ["has an epoch that stands still, and so tells of no restart"]
    assert (world.state, world.keeper.problems(world.now)) == ("mapped", [])
    assert world.texts().count("has restarted") == 1


def test_an_epoch_that_begins_to_count_is_believed_again(world_of: Callable[..., World]) -> None:
    world = world_of("nat-pmp", lambda _age: 0)
    world.run(60)
    del world.router.epoch_like
    world.run(60)
    assert world.keeper.oddities() == []
    world.router.restart()
    assert world.until_mapped(20) < NEXT_LOOK


@pytest.mark.parametrize(
    "epoch",
    [
        lambda age: age * 2,
        lambda age: age // 20,
        lambda age: int(age * 1000),
        lambda age: age % 7,
        lambda age: 2**32 - 1 - age,
        lambda age: (age * 2654435761) % 2**32,
    ],
)
@pytest.mark.parametrize("method", ["pcp", "nat-pmp"])
def test_an_epoch_that_makes_no_sense_costs_little(
    world_of: Callable[..., World], method: str, epoch: Callable[[int], int]
) -> None:
    world = world_of(method, epoch)
    world.run(600)
    assert len(world.maps_asked()) <= 4 + 600 / 60 + 3
    assert world.keeper.oddities(), "told"
    assert world.state == "mapped"
    assert world.texts().count("has restarted") <= 5


def test_a_boot_id_that_is_always_another_costs_little() -> None:
    world = World(method="upnp")
    world.router.shows = False
    for number in range(600):
        world.router.boot_id = number
        world.run(1)
    assert len(world.maps_asked()) <= 4 + 600 / 60 + 3
    assert world.state == "mapped"


@pytest.mark.parametrize("method", ["nat-pmp", "upnp"])
def test_an_address_that_is_always_another_is_not_followed_all_the_time(method: str) -> None:
    world = World(method=method)
    for number in range(600):
        world.router.address = f"203.0.113.{number % 250}"
        world.run(1)
    assert world.keeper.address_changes <= 4 + 600 / 60
    assert world.keeper.oddities() == ["tells of one external address after the other"]
    world.router.address = "203.0.113.251"
    world.run(70)
    assert world.keeper.address == "203.0.113.251"


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
    assert (world.state, world.lease.restores) == ("mapped", 0)


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
    assert world.until_mapped(20) < NEXT_LOOK


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
    assert world.until_mapped(30) < 5 * NEXT_LOOK
    assert "router 192.0.2.254 speaks upnp" in world.texts()


# --- addresses and routers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nat-pmp", "upnp"])
def test_another_external_address_is_noticed(method: str) -> None:
    world = World(method=method)
    world.run(100)
    assert (world.keeper.address_changes, round(world.keeper.address_since)) == (0, 1000)
    world.router.address = "203.0.113.2"
    world.run(NEXT_LOOK)
    assert world.keeper.address == world.lease.granted.external_address == "203.0.113.2"
    assert world.keeper.address_changes == 1
    assert world.now - world.keeper.address_since < NEXT_LOOK
    assert "the external address is 203.0.113.2, no longer 203.0.113.1" in world.texts()


def test_another_external_address_that_only_a_mapping_tells(world: World) -> None:
    """As with PCP: a server sets its epoch back when its address changes."""
    world.run(100)
    world.router.address = "203.0.113.2"
    world.router.restart()
    world.run(NEXT_LOOK)
    assert (world.keeper.address, world.keeper.address_changes) == ("203.0.113.2", 1)


@pytest.mark.parametrize(("gateway", "local"), [("192.0.2.253", "192.0.2.7"), ("192.0.2.254", "192.0.2.8")])
def test_another_router_or_own_address(world: World, gateway: str, local: str) -> None:
    world.run(100)
    world.router = Router(world, gateway=gateway)
    world.local = local
    world.keeper.update_next_hop(world.now, gateway, local)
    assert world.until_mapped(1) < AT_ONCE
    assert world.lease.restores == 1


def test_no_route_for_a_moment_is_nothing(world: World) -> None:
    world.keeper.update_next_hop(world.now, "", "")
    world.keeper.update_next_hop(world.now, "192.0.2.254", "192.0.2.7")
    world.run(10)
    assert len(world.maps_asked()) == 1


def test_what_the_last_router_answers_is_not_taken_for_the_new_ones(world: World) -> None:
    world.run(299)
    while not isinstance(action := world.keeper.next(world.now), Map):
        if action is None:
            world.now += 0.1
        else:
            world.keeper.done(world.now, world.router.answer(action))
    world.keeper.update_next_hop(world.now, "192.0.2.253", "192.0.2.7")
    world.keeper.done(world.now, Unreachable("the old one"))
    assert isinstance(world.keeper.next(world.now), Find)
    assert world.keeper._failures == 0
