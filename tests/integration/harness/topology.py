# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a wan, sites behind routers that do NAT and refuse what nobody asked for, and a host for the relay.

wan (bridge) --- relay host   203.0.113.10, 203.0.113.11, 2001:db8:ffff::10
             --- router 1     203.0.113.21   NAT for 192.168.1.0/24; 2001:db8:1::/64 routed
             --- router 2     203.0.113.22   ...
             --- stranger     203.0.113.66   and all of 198.18.0.0/15
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.netns import Namespace, link
from harness.processes import Process

RELAY_V4 = ("203.0.113.10", "203.0.113.11")
RELAY_V6 = "2001:db8:ffff::10"
STRANGER_V4 = "203.0.113.66"
STRANGER_NETWORK = "198.18.0.0/15"

_ROUTER_RULES = """
flush ruleset
table inet router {{
  chain input {{
    type filter hook input priority filter; policy drop
    ct state established,related accept
    iifname != "wan*" accept
    meta l4proto ipv6-icmp accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    iifname "lan0" accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr 192.168.0.0/16 oifname "wan*" meta l4proto udp masquerade to :{low}-{high}
    ip saddr 192.168.0.0/16 oifname "wan*" masquerade
  }}
}}
"""


class Site:
    """A router and the network behind it."""

    def __init__(self, lab: Lab, number: int):
        self.lab = lab
        self.number = number
        self.wan_v4 = f"203.0.113.{20 + number}"
        self.wan_v6 = f"2001:db8:ffff::{20 + number}"
        self.router = lab.namespace(f"router{number}")
        self._hosts = 0
        self._mappings = 0
        lab.attach(self.router, "wan0")
        self.router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.router.ip(
            "link add lan0 type bridge",
            "link set lan0 up",
            f"addr add 192.168.{number}.1/24 dev lan0",
            f"addr add 2001:db8:{number}::1/64 dev lan0 nodad",
        )
        self._wan_up()
        lab.wan.ip(f"route add 2001:db8:{number}::/64 via {self.wan_v6}")

    def _wan_up(self) -> None:
        """Give the WAN side its addresses, and translations other source ports than before."""
        self._mappings += 1
        low = 10000 + 5000 * self._mappings
        self.router.nft(_ROUTER_RULES.format(low=low, high=low + 4999))
        self.router.ip(
            f"addr replace {self.wan_v4}/24 dev wan0",
            f"addr replace {self.wan_v6}/64 dev wan0 nodad",
            "route replace default via 203.0.113.1",
            "route replace default via 2001:db8:ffff::1",
        )

    def host(self, label: str, v4: bool = True, v6: bool = False) -> Namespace:
        """Add a host to the site's network."""
        host = self.lab.namespace(label)
        self.join(host, v4, v6)
        return host

    def join(self, host: Namespace, v4: bool = True, v6: bool = False) -> None:
        """Plug a host into this site's network; a host that was elsewhere has moved."""
        self._hosts += 1
        port = f"port{self._hosts}"
        with contextlib.suppress(RuntimeError):
            host.ip("link del eth0")
        link(self.router, port, host, "eth0")
        self.router.ip(f"link set {port} master lan0")
        if v4:
            host.ip(
                f"addr add 192.168.{self.number}.{10 + self._hosts}/24 dev eth0",
                f"route add default via 192.168.{self.number}.1",
            )
        if v6:
            host.ip(
                f"addr add 2001:db8:{self.number}::{10 + self._hosts}/64 dev eth0 nodad",
                f"route add default via 2001:db8:{self.number}::1",
            )

    def new_ports(self) -> None:
        """Forget every translation; new ones get other ports. Interface down is what makes the kernel forget them."""
        self.router.ip("link set wan0 down", "link set wan0 up")
        self._wan_up()

    def new_address(self) -> None:
        """The provider gives the router another address; translations of the old one are void."""
        self.router.ip(f"addr del {self.wan_v4}/24 dev wan0")
        self.wan_v4 = f"203.0.113.{120 + self.number}"
        self._wan_up()

    def _drop(self, match: str) -> None:
        self.router.nft(
            "table inet loss; delete table inet loss\n"
            "table inet loss { chain forward { type filter hook forward priority -10; " + match + "; }; }"
        )

    def lose(self, percent: int) -> None:
        """Drop that share of the packets that cross the router, at random."""
        self._drop(f"numgen random mod 100 < {percent} drop")

    def partition(self) -> None:
        """Cut the site off."""
        self._drop("drop")

    def heal(self) -> None:
        """End loss and partition."""
        self._drop("accept")

    def reorder(self, host: Namespace, percent: int) -> None:
        """Send that share of a host's packets over a second, slower line to the router."""
        self._hosts += 1
        port = f"port{self._hosts}"
        link(self.router, port, host, "slow0")
        self.router.ip(f"link set {port} master lan0")
        host.run(
            *["tc", "qdisc", "add", "dev", "slow0", "root", "tbf", "rate", "2mbit", "burst", "1600", "latency", "200ms"]
        )
        host.ip(
            f"route add default via 192.168.{self.number}.1 dev slow0 onlink table 100", "rule add fwmark 1 table 100"
        )
        host.nft(
            "table ip reorder { chain output { type route hook output priority mangle; "
            f"ip protocol udp numgen random mod 100 < {percent} meta mark set 1; }}; }}"
        )


class Lab:
    """Everything of one test; `remove` ends its processes and deletes its namespaces."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[Process] = []
        self._namespaces: list[Namespace] = []
        self._sites = 0
        self._ports = 0
        self.wan = self.namespace("wan")
        self.wan.sysctl(
            net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1, net__ipv4__conf__all__send_redirects=0
        )
        self.wan.ip(
            "link add wan0 type bridge",
            "link set wan0 up",
            "addr add 203.0.113.1/24 dev wan0",
            "addr add 2001:db8:ffff::1/64 dev wan0 nodad",
            f"route add {STRANGER_NETWORK} via {STRANGER_V4}",
        )
        self.relay_host = self.namespace("relay")
        self.attach(self.relay_host, "eth0")
        self.relay_host.ip(
            *(f"addr add {address}/24 dev eth0" for address in RELAY_V4),
            f"addr add {RELAY_V6}/64 dev eth0 nodad",
            "route add default via 203.0.113.1",
            "route add default via 2001:db8:ffff::1",
        )

    def namespace(self, label: str) -> Namespace:
        namespace = Namespace(label, self.folder)
        self._namespaces.append(namespace)
        return namespace

    def attach(self, namespace: Namespace, interface: str) -> None:
        """Plug a namespace into the wan."""
        self._ports += 1
        port = f"port{self._ports}"
        link(self.wan, port, namespace, interface)
        self.wan.ip(f"link set {port} master wan0")

    def site(self) -> Site:
        self._sites += 1
        return Site(self, self._sites)

    def stranger(self) -> Namespace:
        """A host on the wan that may send from any address of the strangers' network and gets the answers."""
        host = self.namespace("stranger")
        self.attach(host, "eth0")
        host.ip(
            f"addr add {STRANGER_V4}/24 dev eth0",
            f"route add local {STRANGER_NETWORK} dev lo",
            "route add default via 203.0.113.1",
        )
        return host

    def start(self, process: Process) -> Process:
        self.processes.append(process)
        return process

    def remove(self) -> None:
        for process in reversed(self.processes):
            process.stop()
        for namespace in self._namespaces:
            namespace.remove()
