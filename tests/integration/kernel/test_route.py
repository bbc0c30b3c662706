# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which interface the kernel would send, asked of a real one."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.kernel import PORT
from harness.netns import Namespace, link
from harness.processes import wait_until
from peer_relay import addresses
from peer_relay.dataplane.kernel.entry import NextHop
from peer_relay.dataplane.kernel.route import Network, NoRoute

_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_CHANGES = [
    "addr add 10.1.0.3/24 dev eth0",
    "addr del 10.1.0.1/24 dev eth0",
    "route add 10.4.0.0/16 via 10.1.0.2",
    "-6 route add 2001:db8:4::/48 via 2001:db8:1::2",
    "rule add from 10.4.0.1 table 7",
    "-6 rule add from 2001:db8:4::1 table 7",
    "link set eth0 mtu 1450",
    "link set eth0 down",
]


class Routes:
    """The relay, a router behind it, and a link beyond that which takes smaller packets."""

    def __init__(self, folder: Path):
        self.hosts = [Namespace(label, folder) for label in ("relay", "router", "far")]
        self.relay, self.router, self.far = self.hosts
        link(self.relay, "eth0", self.router, "near")
        link(self.router, "behind", self.far, "eth0")
        self.relay.ip(
            "addr add 10.1.0.1/24 dev eth0",
            "addr add 2001:db8:1::1/64 dev eth0 nodad",
            "route add 10.2.0.0/24 via 10.1.0.2",
            "route add 2001:db8:2::/64 via 2001:db8:1::2",
            "route add 10.5.0.0/16 via 10.1.0.2 mtu 1300",
            "route add blackhole 10.6.0.0/16",
            "route add unreachable 2001:db8:6::/64",
        )
        self.router.ip("addr add 10.1.0.2/24 dev near", "addr add 2001:db8:1::2/64 dev near nodad")
        self.router.ip("addr add 10.2.0.1/24 dev behind", "addr add 2001:db8:2::1/64 dev behind nodad")
        self.router.ip("link set behind mtu 1350")
        self.router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        with self.relay.inside():
            self.network = Network()
            self.eth0 = socket.if_nametoindex("eth0")

    def next_hop(self, destination: str, local: str) -> NextHop:
        return self.network.next_hop(addresses.pack(destination, 5), addresses.pack(local, PORT))

    def changed(self) -> bool:
        """As the service does it: wait for the file descriptor, then take everything."""
        with contextlib.suppress(OSError):
            return bool(select.select([self.network], [], [], 1)[0]) and self.network.changed()
        return False

    def remove(self) -> None:
        self.network.close()
        for host in self.hosts:
            host.remove()


@pytest.fixture
def routes(tmp_path: Path) -> Iterator[Routes]:
    made = Routes(tmp_path)
    yield made
    made.remove()


@pytest.mark.parametrize(
    ("destination", "local", "mtu"),
    [
        ("10.1.0.2", "10.1.0.1", 1500),
        ("10.2.0.9", "10.1.0.1", 1500),
        ("10.5.0.9", "10.1.0.1", 1300),
        ("2001:db8:1::2", "2001:db8:1::1", 1500),
        ("2001:db8:2::9", "2001:db8:1::1", 1500),
    ],
)
def test_ways(routes: Routes, destination: str, local: str, mtu: int) -> None:
    assert routes.next_hop(destination, local) == (routes.eth0, mtu)


@pytest.mark.parametrize(
    ("destination", "local", "reason"),
    [
        ("10.1.0.1", "10.1.0.1", "it is on this host"),
        ("127.0.0.1", "10.1.0.1", "it is on this host"),
        ("2001:db8:1::1", "2001:db8:1::1", "it is on this host"),
        ("::1", "2001:db8:1::1", "it is on this host"),
        ("10.9.0.1", "10.1.0.1", "there is no route to it"),
        ("10.6.0.1", "10.1.0.1", "there is no route to it"),
        ("10.1.0.255", "10.1.0.1", "there is no route to it"),
        ("224.0.0.5", "10.1.0.1", "there is no route to it"),
        ("2001:db8:9::1", "2001:db8:1::1", "there is no route to it"),
        ("2001:db8:6::1", "2001:db8:1::1", "there is no route to it"),
        ("10.1.0.2", "10.1.0.7", "the relay no longer has the address 10.1.0.7"),
        ("2001:db8:1::2", "2001:db8:1::7", "the relay no longer has the address 2001:db8:1::7"),
    ],
)
def test_no_ways(routes: Routes, destination: str, local: str, reason: str) -> None:
    with pytest.raises(NoRoute, match=reason):
        routes.next_hop(destination, local)


@pytest.mark.parametrize("change", _CHANGES)
def test_changes_are_told(routes: Routes, change: str) -> None:
    wait_until("what came before is through", lambda: not routes.network.changed(), 10, 0.05)
    routes.relay.run("ip", *change.split())
    assert routes.changed()


def test_a_flood_of_changes(routes: Routes) -> None:
    """More than the socket has room for: that there were changes is still told, and it goes on."""
    routes.network.changed()
    commands = [f"route add 10.{7 + number // 250}.{number % 250}.0/24 via 10.1.0.2" for number in range(5000)]
    routes.relay.ip(*commands)
    assert routes.changed()
    assert not routes.network.changed()
    assert routes.next_hop("10.7.3.1", "10.1.0.1") == (routes.eth0, 1500)


def test_changes_count(routes: Routes) -> None:
    routes.next_hop("10.1.0.2", "10.1.0.1")
    routes.relay.ip("addr add 10.1.0.3/24 dev eth0", "link set eth0 mtu 1450")
    assert routes.changed()
    assert routes.next_hop("10.1.0.2", "10.1.0.3") == (routes.eth0, 1450)
    routes.relay.ip("link set eth0 down")
    assert routes.changed()
    with pytest.raises(NoRoute, match="there is no route to it"):
        routes.next_hop("10.1.0.2", "10.1.0.1")


@pytest.mark.parametrize(
    ("destination", "local", "level", "option"),
    [
        ("10.2.0.9", "10.1.0.1", socket.IPPROTO_IP, _IP_MTU_DISCOVER),
        ("2001:db8:2::9", "2001:db8:1::1", socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER),
    ],
)
def test_a_learned_path_mtu(routes: Routes, destination: str, local: str, level: int, option: int) -> None:
    """A router has said that less fits: userspace sends the larger ones, in fragments."""
    assert routes.next_hop(destination, local).mtu == 1500
    with (
        routes.relay.inside(),
        socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET, socket.SOCK_DGRAM) as end,
    ):
        end.bind((local, PORT))
        end.setsockopt(level, option, _PMTUDISC_DO)
        end.sendto(bytes(1440), (destination, 5))
    wait_until("the path MTU is learned", lambda: routes.next_hop(destination, local).mtu == 1350, 5)


def test_interfaces(routes: Routes) -> None:
    routes.relay.ip(
        "link add bridge0 type bridge", "link add one type veth peer name other", "link set one master bridge0"
    )
    assert routes.changed()
    found = {each.name: each for each in routes.network.interfaces()}
    assert found["eth0"][:5] == (routes.eth0, "eth0", 1500, True, "ethernet")
    assert {name: each.refused for name, each in found.items()} == {
        "lo": "it is the loopback",
        "eth0": "",
        "bridge0": "",
        "one": "it is a port of a bridge",
        "other": "",
    }
    assert not found["other"].up
