# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router and the own address that it can forward to, whichever way the traffic takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from harness.keeper import Keeper
from harness.knocks import Knocks
from harness.miniupnpd import GATEWAY, INSIDE, INSIDE_V6, WAN_ADDRESS, Home
from harness.modules import run_module
from harness.processes import run, wait_until
from harness.wireguard import Device

FAR, FAR_V6 = "203.0.113.10", "2001:db8:ffff::10"
VPN, VPN_V6 = "10.8.0.2", "fd08::2"


@pytest.fixture
def vpn(home: Home) -> Device:
    """WireGuard on the host inside, whose only peer is at a provider in the Internet."""
    made = Device(home.lab, home.inside, "vpn", [f"{VPN}/32", f"{VPN_V6}/128"])
    peer = run("wg", "pubkey", stdin=run("wg", "genkey"))
    made.add_peer(peer.strip(), f"{FAR}:51820", ["0.0.0.0/0", "::/0"])
    made.up([])
    return made


def ip(home: Home, version: str, command: str) -> None:
    home.inside.run("ip", version, *command.split())


def as_wg_quick_does(home: Home, device: str) -> None:
    """Routes in a table of their own, policy rules before the main table, and the tunnel's own packets excepted."""
    home.inside.run("wg", "set", device, "fwmark", "51820")
    for version in ("-4", "-6"):
        ip(home, version, f"route add default dev {device} table 51820")
        ip(home, version, "rule add not fwmark 51820 table 51820")
        ip(home, version, "rule add table main suppress_prefixlength 0")


def as_openvpn_does(home: Home, device: str) -> None:
    """Two halves of everything, beside the default route."""
    home.inside.ip(
        f"route add 0.0.0.0/1 dev {device}",
        f"route add 128.0.0.0/1 dev {device}",
        f"route add 2000::/4 dev {device}",
        f"route add 3000::/4 dev {device}",
    )


def as_some_managers_do(home: Home, device: str) -> None:
    """A default route of a smaller metric, over what the tunnel calls its gateway."""
    home.inside.ip(
        f"route add 10.8.0.1 dev {device}",
        "route del default",
        f"route add default via {GATEWAY} metric 600",
        f"route add default via 10.8.0.1 dev {device} metric 50",
    )
    ip(home, "-6", f"route add default dev {device} metric 50")


def source(home: Home, far: str) -> str:
    """What Ansible takes for the default address."""
    return json.loads(home.inside.run("ip", "-json", "route", "get", far))[0]["prefsrc"]


@pytest.mark.parametrize("routes", [as_wg_quick_does, as_openvpn_does, as_some_managers_do])
def test_a_vpn_that_takes_all_traffic_is_no_router(
    home: Home, vpn: Device, routes: Callable[[Home, str], None]
) -> None:
    routes(home, vpn.interface)
    assert (source(home, FAR), source(home, FAR_V6)) == (VPN, VPN_V6), "the VPN takes all"
    found = run_module(home.inside, "lan_info")
    assert found["ipv4"] | {"mac": ""} == {
        "gateway": GATEWAY,
        "address": INSIDE,
        "interface": "eth0",
        "network": "192.168.1.0/24",
        "mac": "",
        "problem": "",
    }
    assert found["ipv4"]["mac"] in home.inside.run("ip", "link", "show", "eth0")
    assert (found["ipv6"]["address"], found["ipv6"]["problem"]) == (INSIDE_V6, "")


@pytest.mark.parametrize("method", ["pcp", "nat-pmp", "upnp"])
def test_the_port_is_opened_for_the_address_in_the_network(home: Home, vpn: Device, method: str) -> None:
    """And by the keeper, whose questions do not go into the tunnel either."""
    as_wg_quick_does(home, vpn.interface)
    home.start()
    with Keeper(home.inside, home.lab.folder, {"name": "relay", "internal_port": 40100}, method=method) as made:
        made.wait_state("mapped")
        assert made.status()["external_address"] == WAN_ADDRESS
        assert home.mappings() == {("udp", 40100): (INSIDE, 40100)}


def test_without_a_router_the_reason_is_told(home: Home) -> None:
    for version in ("-4", "-6"):
        ip(home, version, "route del default")
    found = run_module(home.inside, "lan_info")
    assert (found["ipv4"]["address"], found["ipv6"]["address"]) == ("", "")
    assert "no default route for IPv4 over a router" in found["ipv4"]["problem"]
    assert "no default route for IPv6 over a router" in found["ipv6"]["problem"]


@pytest.fixture
def stable(home: Home) -> str:
    """A host with privacy extensions: it prefers an address that is another one tomorrow."""
    address = "2001:db8:1::aaaa"
    home.inside.sysctl(net__ipv6__conf__eth0__use_tempaddr=2)
    home.inside.ip(f"addr del {INSIDE_V6}/64 dev eth0", f"addr add {address}/64 dev eth0 mngtmpaddr nodad")
    # Its default route went with the last address.
    ip(home, "-6", "route replace default via 2001:db8:1::1 dev eth0")
    wait_until("a temporary address", lambda: source(home, FAR_V6) not in (address, ""), 10)
    return address


def test_a_temporary_address_is_not_the_one_to_open_a_hole_for(home: Home, stable: str) -> None:
    assert source(home, FAR_V6) != stable
    assert run_module(home.inside, "lan_info")["ipv6"]["address"] == stable
    home.start()
    hole = {"name": "relay", "internal_port": 40000, "family": 6}
    with Keeper(home.inside, home.lab.folder, hole) as made:
        made.wait_state("mapped")
        assert made.mapping()["external_address"] == stable
        with Knocks(home.outside, (stable, 40000), home.inside, (stable, 40000)) as knocks:
            knocks.wait_arriving()
