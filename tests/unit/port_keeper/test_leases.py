# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mappings are renewed in time, and asked for again after a refusal and after the host's sleep."""

from __future__ import annotations

import itertools

import pytest
from keeper_world import AT_ONCE, LATENCY, METHODS, NEXT_LOOK, RELAY, WEB, World
from port_keeper.lease import Mapping
from port_mapping.mapping import Conflict, Malformed, NoAddress, Refused, Wanted

# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_maps_at_once(method: str) -> None:
    world = World(RELAY, WEB, method=method)
    assert world.until_mapped(1) < AT_ONCE + LATENCY
    world.run(1)
    assert (world.state, world.lease.renewals, world.lease.restores) == ("mapped", 0, 0)
    assert world.keeper.address == "203.0.113.1"
    assert world.keeper.problems(world.now) == []


def test_renews_at_half_the_lease(world: World) -> None:
    world.run(1500)
    first, *renewals = world.maps_asked()
    assert [round(when - first) for when in renewals] == [300, 600, 900, 1200, 1500]
    assert (world.lease.renewals, world.lease.restores) == (5, 0)


@pytest.mark.parametrize("lease", [2, 3, 5, 7, 30, 120])
def test_a_lease_never_runs_out(lease: int) -> None:
    mapping = Mapping("relay", Wanted(1, 1, lease=lease))
    world = World(mapping)
    world.run(1)
    for _ in range(300):
        world.run(0.5)
        assert world.router.maps(mapping.wanted)
        assert world.state == "mapped"
    assert world.lease.restores == 0
    assert world.lease.renewals <= 151 * max(2 / lease, 0.02)


def test_a_lease_of_a_moment_floods_no_router() -> None:
    world = World()
    world.router._map = lambda entry, held, wanted: type(world.router)._map(
        world.router, entry, held, Wanted(wanted.internal_port, wanted.external_port, lease=1)
    )
    world.run(20)
    assert len(world.maps_asked()) <= 41


def test_a_longer_lease_than_asked_for_is_still_looked_after(world: World) -> None:
    world.lease.grant(world.now, type(world.lease.granted)("203.0.113.1", 41000, 10**9))
    assert world.lease.due - world.now == 300


def test_a_mapping_without_an_end_is_renewed_as_well(world: World) -> None:
    world.router.leases = False
    world.run(1000)
    assert world.lease.expires is None
    assert world.state == "mapped"
    assert len(world.maps_asked()) == 4


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "state"), [(Refused, "refused"), (Conflict, "conflict"), (Malformed, "pending")])
def test_a_refusal_is_told_and_asked_about_less_and_less(error: type, state: str) -> None:
    world = World()
    world.router.refuses = error
    world.run(1000)
    assert (world.state, world.lease.problem) == (state, "192.0.2.254 says no")
    asked = world.maps_asked()
    gaps = [round(after - before) for before, after in itertools.pairwise(asked)]
    assert gaps == [5, 10, 20, 40, 80, 160, 300, 300]
    assert world.texts().count("relay: 192.0.2.254 says no") == 1
    world.router.refuses = None
    world.until_mapped(301)
    assert (world.state, world.lease.problem, world.lease.restores) == ("mapped", None, 0)


def test_a_renewal_refused_leaves_the_mapping_its_time(world: World) -> None:
    world.router.refuses = Refused
    world.run(590)
    assert (world.state, world.lease.problem) == ("mapped", "192.0.2.254 says no")
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
    world.run(NEXT_LOOK)
    assert (world.state, world.lease.problem) == ("conflict", "192.0.2.254: 192.0.2.9 has port 41000")
    del world.router.table["udp", 41000]
    world.until_mapped(11)


def test_a_refusal_is_asked_about_at_once_after_a_restart(world: World) -> None:
    world.router.refuses = Refused
    world.run(1200)
    world.router.refuses = None
    world.router.restart()
    assert world.until_mapped(20) < NEXT_LOOK


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_lease_that_ran_out_while_the_host_slept(world: World) -> None:
    world.run(100)
    world.now += 7200
    assert world.state == "pending"
    assert world.until_mapped(1) < AT_ONCE
    assert world.lease.restores == 1
    assert "restarted" not in world.texts()


def test_a_short_sleep_is_nothing(world: World) -> None:
    world.run(100)
    world.now += 60
    world.run(10)
    assert (world.lease.renewals, world.lease.restores) == (0, 0)


def test_a_restart_while_the_host_slept(world: World) -> None:
    world.run(100)
    world.now += 30
    world.router.restart()
    world.now += 30
    assert world.until_mapped(1) < AT_ONCE
