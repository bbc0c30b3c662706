# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease keeper with the real miniupnpd: a port stays open, whatever the router does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from harness.keeper import Keeper
from harness.knocks import Knocks
from harness.miniupnpd import DEFAULT, GATEWAY, INSIDE, INSIDE_V6, NEIGHBOR, WAN_ADDRESS, Home
from harness.processes import wait_until

Figure = Callable[..., None]
METHODS = ["pcp", "nat-pmp", "upnp"]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
RELAY = {"name": "relay", "internal_port": 40100, "external_port": 40000}
WEB = {"name": "web", "protocol": "tcp", "internal_port": 8443}
OPEN = {("udp", 40000): (INSIDE, 40100)}
RESTORED_WITHIN = 10.0


def keeper(home: Home, *mappings: dict, **router: object) -> Keeper:
    return Keeper(home.inside, home.lab.folder, *(mappings or (RELAY,)), **router)


def lost_after(knocks: Knocks, moment: float) -> list[float]:
    return [sent for sent in knocks.lost(until=time.monotonic() - 0.5) if sent > moment]


@EVERY_METHOD
def test_the_port_is_open_and_closes_with_release(home: Home, knocks: Knocks, method: str) -> None:
    home.start()
    made = keeper(home, RELAY, WEB, method=method)
    with made:
        knocks.wait_arriving()
        mapping = made.wait_state("mapped")
        made.wait_state("mapped", "web")
        status = made.status()
        assert status["router"] == {"address": GATEWAY, "method": method}
        assert (status["external_address"], status["nat"], status["problems"]) == (WAN_ADDRESS, "public", [])
        assert (mapping["external_address"], mapping["lease_seconds"], mapping["problem"]) == (WAN_ADDRESS, 3600, None)
        assert 3590 < mapping["expires"] - time.time() <= 3600
        assert "relay: udp 40000 -> 40100 (IPv4): mapped" in made.command("status")
    assert home.mappings() == OPEN | {("tcp", 8443): (INSIDE, 8443)}, "a stop leaves them"
    made.command("release")
    assert home.mappings() == {}
    knocks.wait_silent()


@pytest.mark.parametrize(
    ("method", "sign"),
    [
        (method, sign)
        for method in METHODS
        for sign in ("announcement", "epoch", "boot id")
        if (method, sign) != ("upnp", "epoch")
    ],
)
def test_a_restart_of_the_router(home: Home, knocks: Knocks, figure: Figure, method: str, sign: str) -> None:
    """With its mappings lost. Its announcement may not arrive, and its epoch may be the machine's uptime."""
    settings = (*DEFAULT, f"system_uptime={'no' if sign == 'epoch' else 'yes'}")
    home.start(*settings)
    if sign != "announcement":
        home.inside.nft("table ip closed { chain input { type filter hook input priority 0; udp dport 5350 drop; }; }")
    with keeper(home, method=method) as made:
        knocks.wait_arriving()
        made.wait_state("mapped")
        time.sleep(4 if sign == "epoch" else 1.5)  # starts are numbered by the second, epochs have a tolerance of two
        home.stop()
        home.forget()
        home.start(*settings)
        seconds = knocks.wait_arriving(RESTORED_WITHIN)
        figure(
            f"router daemon restarted, mappings lost, {method}, noticed by {sign}",
            f"open after {seconds:.1f} s",
            "10 s",
        )
        wait_until("it counts as a loss", lambda: made.mapping()["restores"] == 1, 5)


@pytest.mark.parametrize("method", ["pcp", "upnp"])
def test_a_router_that_is_away_for_a_while(home: Home, knocks: Knocks, figure: Figure, method: str) -> None:
    home.start()
    with keeper(home, method=method) as made:
        knocks.wait_arriving()
        made.wait_state("mapped")
        home.stop()
        home.forget()
        wait_until("the silence is a problem", lambda: made.status()["problems"], 30)
        home.start()
        seconds = knocks.wait_arriving(RESTORED_WITHIN)
        figure(f"router away for a while, {method}", f"open {seconds:.1f} s after its return", "10 s")
        wait_until("nothing is wrong", lambda: not made.status()["problems"], 5)


@EVERY_METHOD
def test_a_lease_shorter_than_the_test_is_never_interrupted(
    home: Home, knocks: Knocks, figure: Figure, method: str
) -> None:
    home.start()
    with keeper(home, method=method, lease=4) as made:
        knocks.wait_arriving()
        start = time.monotonic()
        time.sleep(7)
        # The router deletes and adds the rule when it renews: a new flow in that moment may be lost, no more.
        lost, mapping = len(lost_after(knocks, start)), made.mapping()
        figure(
            f"a lease of 4 s for 7 s, {method}", f"{lost} of 350 new flows lost in {mapping['renewals']} renewals", "3"
        )
        assert lost <= 3
        assert (mapping["state"], mapping["restores"]) == ("mapped", 0)
        assert 2 <= mapping["renewals"] <= 8


@EVERY_METHOD
def test_a_restart_of_the_keeper_interrupts_nothing(home: Home, knocks: Knocks, method: str) -> None:
    home.start()
    made = keeper(home, method=method)
    with made:
        knocks.wait_arriving()
        made.wait_state("mapped")
    start = time.monotonic()
    with made:
        made.wait_state("mapped")
        time.sleep(1)
        assert made.mapping()["problem"] is None
    assert len(lost_after(knocks, start)) <= 3


@EVERY_METHOD
def test_another_external_address_is_told(home: Home, figure: Figure, method: str) -> None:
    home.start()
    with keeper(home, method=method) as made:
        made.wait_state("mapped")
        wait_until("the address", lambda: made.status()["external_address"] == WAN_ADDRESS, 5)
        home.move("11.22.33.121")
        seconds = wait_until("the other", lambda: made.status()["external_address"] == "11.22.33.121", 20)
        figure(f"another external address, {method}", f"told after {seconds:.1f} s", "")
        status = made.status()
        assert (status["address_changes"], status["mappings"][0]["state"]) == (1, "mapped")
        assert time.time() - status["address_since"] < 20


@EVERY_METHOD
def test_a_port_of_somebody_else_is_a_conflict_until_it_is_free(home: Home, method: str) -> None:
    home.start()
    with Keeper(home.neighbor, home.lab.folder / "..", RELAY, method="upnp") as other:
        other.wait_state("mapped")
        with keeper(home, method=method) as made:
            mapping = made.wait_state("conflict")
            assert "40000" in mapping["problem"]
            if method == "upnp":
                assert NEIGHBOR in mapping["problem"]
            other.stop()
            other.command("release")
            made.wait_state("mapped", seconds=25)


def test_a_rule_of_the_router_that_says_no(home: Home) -> None:
    home.start(*DEFAULT, "deny 40000 0.0.0.0/0 0-65535", "allow 1024-65535 192.168.1.0/24 1024-65535")
    with keeper(home, method="upnp") as made:
        assert "rule" in made.wait_state("refused")["problem"]


def test_other_settings_are_taken_over(home: Home, knocks: Knocks) -> None:
    home.start()
    with keeper(home) as made:
        knocks.wait_arriving()
        made.mappings = [WEB]
        made.reload()
        made.wait_state("mapped", "web")
        wait_until("the other is deleted", lambda: home.mappings() == {("tcp", 8443): (INSIDE, 8443)}, 5)
        knocks.wait_silent()
        made.mappings = [RELAY | {"external_port": 0}]
        made.reload()
        wait_until("the error is told", lambda: "external_port = 0" in str(made.status()["problems"]), 5)
        assert home.mappings() == {("tcp", 8443): (INSIDE, 8443)}


def test_what_was_taken_off_while_the_keeper_was_away_is_deleted(home: Home) -> None:
    home.start()
    made = keeper(home, RELAY, WEB)
    with made:
        made.wait_state("mapped", "web")
        made.wait_state("mapped")
    made.mappings = [RELAY]
    with made:
        wait_until("web is deleted", lambda: home.mappings() == OPEN, 5)


@pytest.mark.parametrize("method", ["pcp", "upnp"])
def test_a_hole_for_ipv6_beside_a_port_for_ipv4(home: Home, method: str) -> None:
    home.start()
    hole = {"name": "relay", "internal_port": 40000, "family": 6}
    with keeper(home, RELAY, hole, method=method) as made:
        wait_until("both", lambda: [m["state"] for m in made.status()["mappings"]] == ["mapped", "mapped"], 10)
        assert [m["external_address"] for m in made.status()["mappings"]] == [WAN_ADDRESS, INSIDE_V6]
        with Knocks(home.outside, (INSIDE_V6, 40000), home.inside, (INSIDE_V6, 40000)) as knocks:
            knocks.wait_arriving()
            time.sleep(4)
            home.stop()
            home.forget()
            home.start()
            knocks.wait_arriving(RESTORED_WITHIN)


def test_a_silent_router_delays_neither_status_nor_stop(home: Home) -> None:
    """Its machine takes what it is sent, and says nothing."""
    home.start()
    with keeper(home) as made:
        made.wait_state("mapped")
        home.router.nft('insert rule inet router input iifname "lan0" drop')
        ages = []
        for _ in range(30):
            time.sleep(0.5)
            ages.append(time.time() - made.status()["updated"])
        assert max(ages) < 11
        start = time.monotonic()
        assert made.stop() == 0
        assert time.monotonic() - start < 2
