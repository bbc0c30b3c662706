# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pinholes for IPv6 by UPnP."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Granted,
    HolderUnknown,
    Life,
    Malformed,
    Refused,
    Unreachable,
    Wanted,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.upnp_router import (
    Network,
    Router,
    refusing,
)

HOST6 = "2001:db8:7::10"

PINHOLE = Wanted(40000, 40000, family=6)


@pytest.fixture
def router6(monkeypatch):
    router = Router("fe80::1%eth0")
    Network(router).join(monkeypatch)
    return router


@pytest.fixture
def client6(router6):
    return upnp_client.find("fe80::1%eth0", HOST6, 6)


def test_pinhole(client6, router6):
    assert client6.look() == Life(HOST6, boot_id=7)
    assert client6.map(PINHOLE) == Granted(HOST6, 40000, 3600)
    assert router6.pinholes == {(HOST6, 40000, 17): (1, 3600)}
    assert client6.map(Wanted(40000, 40000, family=6, lease=0)).lease == 86400
    assert router6.pinholes == {(HOST6, 40000, 17): (1, 86400)}
    with pytest.raises(HolderUnknown):
        client6.holder(PINHOLE)
    upnp_client.find("fe80::1%eth0", HOST6, 6).unmap(PINHOLE)  # nothing needs to be remembered
    assert router6.pinholes == {}
    client6.unmap(PINHOLE)


def test_pinhole_for_tcp(client6, router6):
    client6.map(Wanted(40000, 40000, family=6, protocol="tcp"))
    assert list(router6.pinholes) == [(HOST6, 40000, 6)]


def test_pinhole_refused(client6):
    with pytest.raises(Refused, match="606 Action not authorized"):
        client6.map(Wanted(80, 80, family=6))
    with pytest.raises(Refused, match="a pinhole translates no ports"):
        client6.map(Wanted(80, 8080, family=6))


def test_firewall_that_is_off(client6, router6):
    router6.AddPinhole = refusing(702, "FirewallDisabled")
    assert client6.map(PINHOLE) == Granted(HOST6, 40000, 3600)
    client6.unmap(PINHOLE)


def test_pinholes_that_nobody_may_open(client6, router6):
    router6.AddPinhole = refusing(703, "InboundPinholeNotAllowed")
    with pytest.raises(Refused, match="703 InboundPinholeNotAllowed"):
        client6.map(PINHOLE)
    client6.unmap(PINHOLE)


@pytest.mark.parametrize("said", ["", "-1", "x", "9" * 5000])
def test_pinhole_number_that_is_none(client6, router6, said):
    router6.AddPinhole = lambda **_: {"UniqueID": said}
    with pytest.raises(Malformed, match="names a pinhole"):
        client6.map(PINHOLE)


def test_ipv6_router_that_is_gone(client6, router6):
    router6.up = False
    with pytest.raises(Unreachable):
        client6.look()


def test_ipv6_router_without_pinholes(monkeypatch):
    Network(Router("fe80::1%eth0", services=("WANIPConnection:2",))).join(monkeypatch)
    with pytest.raises(Unreachable, match="offers no IPv6 pinholes"):
        upnp_client.find("fe80::1%eth0", HOST6, 6)
