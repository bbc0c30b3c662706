# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend routeros with the real modules of community.routeros, against a stand-in for the router's API."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from role import ADDRESS, ADDRESS6, Role
from standins.routeros import PASSWORD, RouterOS, Server
from standins.web import Authority

NAT, FILTER, FILTER6 = "/ip/firewall/nat", "/ip/firewall/filter", "/ipv6/firewall/filter"
BOTH = [{"name": "relay", "port": 40000, "external_port": 443, "families": ["ipv4", "ipv6"]}]


@pytest.fixture
def router() -> RouterOS:
    """MikroTik's default configuration, with a firewall that drops forwarded ports too."""
    router = RouterOS()
    router.row("/interface/list/member", list="LAN", interface="bridge")
    router.row("/interface/list/member", list="WAN", interface="ether1")
    router.row("/ip/address", address="192.168.88.1/24", interface="bridge")
    router.row("/ip/address", address="203.0.113.88/24", interface="ether1", dynamic="true")
    router.row(NAT, chain="srcnat", action="masquerade", comment="defconf: masquerade")
    router.row(FILTER, chain="forward", action="fasttrack-connection", comment="defconf: fasttrack")
    router.row(FILTER, chain="forward", action="accept", comment="defconf: accept established")
    router.row(FILTER, chain="forward", action="drop", comment="drop everything else")
    router.row(FILTER6, chain="forward", action="drop", comment="drop everything else")
    return router


@pytest.fixture
def role(tmp_path: Path, authority: Authority, router: RouterOS) -> Iterator[Role]:
    with Server(router, authority.context()) as server:
        variables = {
            "port_forward_backend": "routeros",
            "port_forward_routeros_host": "127.0.0.1",
            "port_forward_routeros_port": server.port,
            "port_forward_routeros_password": PASSWORD,
            "port_forward_routeros_ca_file": str(authority.certificate),
            "port_forward_routeros_lan": "192.168.88.0/24",
        }
        yield Role(tmp_path, variables, {})


def own(router: RouterOS, path: str) -> dict[str, dict]:
    """The rules of the role, by the ends of their comments."""
    mark = "homelab.peer_relay home: "
    return {row["comment"].removeprefix(mark): row for row in router.menus[path] if mark in row["comment"]}


def test_the_whole_life(role: Role, router: RouterOS) -> None:
    before = copy.deepcopy(router.menus)
    assert role.run("--check", port_forward_forwards=BOTH).changed == 3
    assert router.writes == []

    run = role.run("--diff", port_forward_forwards=BOTH)
    assert run.changed == 5  # three lists of rules, and a move in two
    nat = own(router, NAT)
    assert nat["relay"].items() >= {
        ("action", "dst-nat"),
        ("dst-address-type", "local"),
        ("protocol", "udp"),
        ("dst-port", "443"),
        ("to-addresses", ADDRESS),
        ("to-ports", "40000"),
    }
    assert nat["relay hairpin"].items() >= {("action", "masquerade"), ("src-address", "192.168.88.0/24")}
    assert router.rules(FILTER)[2:] == ["homelab.peer_relay home: relay", "drop everything else"]
    assert router.rules(FILTER6) == ["homelab.peer_relay home: relay", "drop everything else"]
    assert own(router, FILTER6)["relay"]["dst-address"] == f"{ADDRESS6}/128"
    assert run.result["external_address"] == "203.0.113.88"
    assert (run.result["inner_address"], run.result["hairpin"]) == (ADDRESS, True)
    assert '"to-ports": 40000' in run.output
    assert PASSWORD not in run.output

    assert role.run(port_forward_forwards=BOTH).changed == 0

    assert role.run(port_forward_hairpin=False).changed == 2  # the NAT, and no more IPv6
    assert list(own(router, NAT)) == ["relay"]
    assert own(router, NAT)["relay"]["in-interface-list"] == "WAN"
    assert own(router, FILTER6) == {}

    assert role.run(port_forward_state="absent").changed == 2
    assert router.menus == before


def test_what_it_refuses(role: Role, router: RouterOS) -> None:
    router.row(NAT, chain="dstnat", action="dst-nat", protocol="udp", dst_port="40000", to_addresses="192.168.88.9")
    assert "udp port 40000 already, and forwards it to 192.168.88.9" in role.error()
    assert "interface list OUTSIDE is empty" in role.error(port_forward_routeros_wan_list="OUTSIDE")
    error = role.error(port_forward_routeros_password="wrong secret")
    assert "invalid user name or password" in error
    assert "wrong secret" not in error
    assert router.writes == []


def test_a_port_that_somebody_else_has_in_any_form(role: Role, router: RouterOS) -> None:
    foreign = (
        {"protocol": "udp", "dst_port": "40000-40100"},
        {"protocol": "udp", "dst_port": "443,39000-40000"},
        {"protocol": "udp", "dst_port": "!53"},
        {"protocol": "udp"},
        {"in_interface": "ether1"},  # a host for everything
        {"in_interface_list": "WAN", "protocol": "17"},
        {"in_interface": "!bridge", "protocol": "!tcp"},
    )
    for number, values in enumerate(foreign, 10):
        router.row(NAT, chain="dstnat", action="dst-nat", to_addresses=f"192.168.88.{number}", **values)
    error = role.error()
    for number, values in enumerate(foreign, 10):
        assert f"udp port 40000 already, and forwards it to 192.168.88.{number} " in error, values
    assert router.writes == []


def test_ports_beside_ours_are_nobodys_business(role: Role, router: RouterOS) -> None:
    for foreign in (
        {"protocol": "udp", "dst_port": "40001-40100,53", "action": "dst-nat", "to_addresses": "192.168.88.9"},
        {"protocol": "tcp", "dst_port": "40000", "action": "dst-nat", "to_addresses": "192.168.88.9"},
        {"in_interface": "bridge", "action": "redirect"},
        {"in_interface_list": "LAN", "action": "redirect"},
        {"src_address": "198.51.100.7", "action": "dst-nat", "to_addresses": "192.168.88.9"},
    ):
        router.row(NAT, chain="dstnat", **foreign)
    role.run()


@pytest.mark.parametrize("address", ["2001:db8::1%x\nPreUp = id", "{{ 7 * 7 }}"])
def test_an_external_address_that_is_none(role: Role, router: RouterOS, address: str) -> None:
    router.menus["/ip/address"][1]["address"] = f"{address}/24"
    error = role.error()
    assert "Nothing of the answer is used" in error
    assert "set relay_endpoint" in error
    assert "'49'" not in error


def test_options_may_be_text(role: Role, router: RouterOS) -> None:
    """As INI inventories and -e give them."""
    role.run("-e", "port_forward_hairpin=false")
    assert list(own(router, NAT)) == ["relay"]
    role.variables.pop("port_forward_routeros_port")
    run = role._run("-e", "port_forward_routeros_tls=no", "-vvv")
    assert '"port": 8728' in run.output
