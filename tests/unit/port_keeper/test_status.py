# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document of the keeper."""

from __future__ import annotations

import json
from typing import Any

from keeper_world import RELAY, WEB, World
from port_keeper import status
from port_keeper.keeper import Keeper
from port_keeper.lease import Mapping
from port_mapping.mapping import Malformed, NoAddress, Refused, Wanted

WALL = 1_800_000_000.0
NOBODY = Keeper((), 3, 0.0)


def document(world: World, seen: str = "", *problems: str) -> dict[str, Any]:
    found = status.document([world.keeper, NOBODY], seen, problems, world.now, WALL)
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_port_that_is_open(world: World) -> None:
    found = document(world)
    assert {key: found[key] for key in ("updated", "router", "external_address", "nat", "problems")} == {
        "updated": WALL,
        "router": {"address": "192.0.2.254", "method": "pcp"},
        "external_address": "203.0.113.1",
        "nat": "public",
        "problems": [],
    }
    (mapping,) = found["mappings"]
    assert WALL + 598 < mapping["expires"] < WALL + 600
    assert mapping | {"expires": None} == {
        "name": "relay",
        "protocol": "udp",
        "family": 4,
        "internal_port": 40000,
        "external_port": 41000,
        "external_address": "203.0.113.1",
        "state": "mapped",
        "lease_seconds": 600,
        "expires": None,
        "renewals": 0,
        "restores": 0,
        "problem": None,
    }
    assert WALL - 1 < found["address_since"] < WALL
    assert status.healthy(found)
    assert status.text(found, 2) == (
        "router 192.0.2.254 by pcp, external address 203.0.113.1, 2 s ago\n"
        "relay: udp 41000 -> 40000 (IPv4): mapped, 599 s left"
    )


def test_what_the_router_is_and_does(world: World) -> None:
    world.keeper.router.model = "Acme Box 7"
    world.keeper.router.oddities = ("sends text that is not UTF-8",)
    found = document(world)
    assert (found["router_model"], found["router_oddities"]) == ("Acme Box 7", ["sends text that is not UTF-8"])
    assert status.healthy(found)
    assert found["answers_refused"] == 0
    world.router.refuses = Malformed
    world.run(400)
    assert document(world)["answers_refused"] >= 1
    assert status.text(found, 2).splitlines()[:2] == [
        "router 192.0.2.254 (Acme Box 7) by pcp, external address 203.0.113.1, 2 s ago",
        "the router sends text that is not UTF-8: understood all the same",
    ]


def test_before_the_router_has_answered() -> None:
    found = document(World())
    assert (found["router"], found["external_address"], found["address_since"], found["nat"]) == (
        None,
        "",
        None,
        "unknown",
    )
    assert (found["mappings"][0]["state"], found["mappings"][0]["expires"]) == ("pending", None)
    assert not status.healthy(found)
    assert status.text(found, 0).startswith("no router, external address unknown")


def test_a_port_that_was_refused(world: World) -> None:
    world.run(20)
    world.router.restart()
    world.router.refuses = Refused
    world.run(5)
    found = document(world, "", "something else")
    assert (found["mappings"][0]["state"], found["mappings"][0]["problem"]) == ("refused", "192.0.2.254 says no")
    assert found["problems"] == ["something else"]
    assert status.text(found, 0).splitlines()[1:] == [
        "problem: something else",
        "relay: udp 41000 -> 40000 (IPv4): refused",
        "  192.0.2.254 says no",
    ]


def test_an_address_that_is_not_on_the_internet(world: World) -> None:
    assert document(world, "198.51.100.9")["nat"] == "differs"
    world.run(20)
    world.router.restart()
    world.router.address = "100.64.0.1"
    world.run(5)
    found = document(world)
    assert found["nat"] == "cgnat"
    assert "cloud node" in found["explanation"]
    assert found["explanation"] in status.text(found, 0)


def test_a_router_that_has_no_address(world: World) -> None:
    world.run(20)
    world.router.restart()
    world.router.refuses = NoAddress
    world.run(5)
    assert document(world)["nat"] == "no_address"


def test_a_mapping_without_an_end(world: World) -> None:
    world.run(20)
    world.router.restart()
    world.router.leases = False
    world.run(5)
    mapping = document(world)["mappings"][0]
    assert (mapping["state"], mapping["lease_seconds"], mapping["expires"]) == ("mapped", 0, None)


def test_the_router_of_ipv4_comes_first_if_anybody_needs_it() -> None:
    hole = World(Mapping("relay", Wanted(1, 1, family=6)))
    hole.router.address = "2001:db8::7"
    hole.run(1)
    both = World(RELAY, WEB)
    both.run(1)
    found = status.document([both.keeper, hole.keeper], "", (), both.now, WALL)
    assert found["external_address"] == "203.0.113.1"
    assert [mapping["external_address"] for mapping in found["mappings"]] == ["203.0.113.1"] * 2 + ["2001:db8::7"]
    assert status.document([NOBODY, hole.keeper], "", (), hole.now, WALL)["external_address"] == "2001:db8::7"
