# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the router, as the kernel tells it."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import routes
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
IPV4 = (
    "pr0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"  # a tunnel: no router
    "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    "wlan0\t00000000\tFE02000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
    "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    "eth0\t00000000\t0201A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n"  # half of everything, as VPNs have it
)
ROUTE_V6 = "{dest} {length} 00000000000000000000000000000000 00 {hop} {metric} 00000001 00000000 {flags} {device}\n"
ANY, ROUTER, GLOBAL = "0" * 32, "fe80000000000000" + "0" * 15 + "1", "20010db8" + "0" * 23 + "1"


def v6(dest=ANY, length="00", hop=ROUTER, metric="00000400", flags="00450003", device="    eth0"):
    return ROUTE_V6.format(dest=dest, length=length, hop=hop, metric=metric, flags=flags, device=device)


def test_ipv4():
    assert routes.parse_ipv4(HEADER + IPV4) == [(100, "192.168.1.1"), (600, "10.0.2.254")]


def test_a_tunnels_gateway_is_no_router(monkeypatch):
    """As of VPNs that set a default route via their own end: such a device has no address of the link layer."""
    kinds = {"eth0": 1, "tun0": 65534, "ppp0": 512, "gre0": 778}
    monkeypatch.setattr(routes, "_hardware", lambda interface: (kinds[interface], b""))
    lines = "".join(f"{device}\t00000000\t0100080A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" for device in kinds)
    assert routes.parse_ipv4(HEADER + lines) == [(0, "10.8.0.1")]
    assert len(routes.parse_ipv6("".join(v6(device=device) for device in kinds))) == 1


def test_the_network_of_an_address():
    assert routes.parse_network(HEADER + IPV4, "192.168.1.11") == ("eth0", "192.168.1.0/24")
    assert routes.parse_network(HEADER + IPV4, "203.0.113.1") == ("", "")
    closer = "br0\t0B01A8C0\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    assert routes.parse_network(HEADER + IPV4 + closer, "192.168.1.11") == ("br0", "192.168.1.11/32")
    assert routes.parse_network("", "192.168.1.11") == ("", "")


def test_the_way_of_this_host():
    way = routes.next_hop(4, "127.0.0.1")
    assert (way.gateway, way.address) == ("127.0.0.1", "127.0.0.1")


def test_ipv6():
    table = (
        v6(dest=GLOBAL, length="40", hop=ANY, flags="00000001")
        + v6()
        + v6(hop=GLOBAL, metric="00000064", device="eth1")
        + v6(hop=ANY, device="pr0", flags="00000001")
        + v6(hop=ANY, metric="ffffffff", flags="00200200", device="lo")  # the kernel's own refusal
        + v6(length="01")
    )
    assert routes.parse_ipv6(table) == [(1024, "fe80::1%eth0"), (100, "2001:db8::1")]


@pytest.mark.parametrize("parse", [routes.parse_ipv4, routes.parse_ipv6])
@pytest.mark.parametrize("table", ["", HEADER, "eth0\n", "\n\n"])
def test_no_routes(parse, table):
    if table != HEADER or parse is routes.parse_ipv4:
        assert parse(table) == []


def tables(monkeypatch, text):
    monkeypatch.setattr(routes.Path, "read_text", lambda *_, **__: text)


def test_the_route_with_the_smallest_metric_counts(monkeypatch):
    tables(monkeypatch, v6(metric="00000400") + v6(hop=GLOBAL, metric="00000064"))
    assert routes.default_gateway(6) == "2001:db8::1"
    tables(monkeypatch, HEADER + IPV4)
    assert routes.default_gateway(4) == "192.168.1.1"


@pytest.mark.parametrize("family", [4, 6])
def test_no_router(monkeypatch, family):
    tables(monkeypatch, "")
    with pytest.raises(Unreachable, match=f"no default route for IPv{family} over a router: .* name the gateway"):
        routes.default_gateway(family)


def test_a_kernel_without_ipv6(monkeypatch):
    def read_text(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(routes.Path, "read_text", read_text)
    with pytest.raises(Unreachable, match="no default route for IPv6"):
        routes.default_gateway(6)


def test_local_address():
    assert routes.local_address("127.0.0.1", 4) == "127.0.0.1"


@pytest.mark.parametrize(
    ("gateway", "family"), [("banana", 4), ("fe80::1", 4), ("192.0.2.1", 6), ("router.example", 4), ("", 6)]
)
def test_what_is_no_gateway(gateway, family):
    with pytest.raises(Unreachable, match=f"gateway {gateway} cannot be reached by IPv{family}"):
        routes.local_address(gateway, family)
