# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a wan, sites behind routers that do NAT and refuse what nobody asked for, and a host for the relay.

wan (bridge) --- relay host   203.0.113.10, 203.0.113.11, 2001:db8:ffff::10
             --- router 1     203.0.113.21   NAT for 192.168.1.0/24; 2001:db8:1::/64 routed
             --- router 2     203.0.113.22   ...
             --- stranger     203.0.113.66   and all of 198.18.0.0/15
"""

from __future__ import annotations

from pathlib import Path

from harness.netns import Namespace, link
from harness.processes import Process

RELAY_V4 = ("203.0.113.10", "203.0.113.11")
RELAY_V6 = "2001:db8:ffff::10"
STRANGER_V4 = "203.0.113.66"
STRANGER_NETWORK = "198.18.0.0/15"

_LAN_MAC = "02:00:00:00:00:01"

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
        self.ports: dict[str, str] = {}  # host -> the router's end of its link
        self._hosts = 0
        self._mappings = 0
        lab.attach(self.router, "wan0")
        self.router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.router.ip(
            f"link add lan0 address {_LAN_MAC} type bridge",
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
            "link set wan0 up",  # not before the rules are there: a device that goes on sending gets no port of before
            f"addr replace {self.wan_v4}/24 dev wan0",
            f"addr replace {self.wan_v6}/64 dev wan0 nodad",
            "route replace default via 203.0.113.1",
            "route replace default via 2001:db8:ffff::1",
        )

    def host(self, label: str, v4: bool = True, v6: bool = False) -> Namespace:
        """Add a host to the site's network."""
        host = self.lab.namespace(label)
        port = self._new_port()
        link(self.router, port, host, "eth0")
        self._plug(host, port, v4, v6)
        return host

    def welcome(self, host: Namespace, home: Site) -> None:
        """Let a host of another site roam to this one: its interface stays and gets other addresses."""
        port = self._new_port()
        home.router.ip(f"link set {home.ports[host.label]} netns {self.router.name} name {port}")
        self.router.ip(f"link set {port} up")
        host.ip("addr flush dev eth0")
        self._plug(host, port, True, False)

    def _new_port(self) -> str:
        self._hosts += 1
        return f"port{self._hosts}"

    def _plug(self, host: Namespace, port: str, v4: bool, v6: bool) -> None:
        self.ports[host.label] = port
        self.router.ip(f"link set {port} master lan0")
        number = 10 + self._hosts
        if v4:
            host.ip(
                f"addr add 192.168.{self.number}.{number}/24 dev eth0",
                f"route add default via 192.168.{self.number}.1",
            )
        if v6:
            host.ip(
                f"addr add 2001:db8:{self.number}::{number}/64 dev eth0 nodad",
                f"route add default via 2001:db8:{self.number}::1",
            )

    def new_ports(self) -> None:
        """Forget every translation; new ones get other ports. Interface down is what makes the kernel forget them."""
        self.router.ip("link set wan0 down")
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

    def partition_from(self, *addresses: str) -> None:
        """Cut the site off from some addresses or networks."""
        versions = (("ip6" if ":" in address else "ip", address) for address in addresses)
        self._drop("; ".join(f"{ip} saddr {address} drop; {ip} daddr {address} drop" for ip, address in versions))

    def lose_large(self, address: str, above: int = 1400) -> None:
        """Lose packets from and to an address that have more bytes, without a word."""
        self._drop("; ".join(f"ip {way} {address} meta length > {above} drop" for way in ("saddr", "daddr")))

    def narrow(self, mtu: int = 1400) -> None:
        """Let the router say "too big" to larger packets for its network, as with PPPoE."""
        self.router.ip(f"link set lan0 mtu {mtu}")

    def block_udp(self, but_dns: bool = False) -> None:
        """Let no UDP across the router, as some networks do, or none but the DNS's."""
        self._drop(
            "udp dport 53 accept; udp sport 53 accept; meta l4proto udp drop" if but_dns else "meta l4proto udp drop"
        )

    def heal(self) -> None:
        """End loss, partition and blocks."""
        self._drop("accept")

    def reorder(self, host: Namespace, percent: int) -> None:
        """Send that share of a host's packets over a second, slower line to the router."""
        port = self._new_port()
        link(self.router, port, host, "slow0")
        self.router.ip(f"link set {port} master lan0")
        # Nothing comes back over the second line: wireguard-go answers on the interface that it was reached by.
        host.sysctl(net__ipv4__conf__slow0__arp_ignore=8)
        host.ip(
            f"neigh add 192.168.{self.number}.1 lladdr {_LAN_MAC} dev slow0",
            f"route add default via 192.168.{self.number}.1 dev slow0 onlink table 100",
            "rule add fwmark 1 table 100",
        )
        line = ["rate", "200kbit", "burst", "1600", "latency", "1s"]
        host.run("tc", "qdisc", "add", "dev", "slow0", "root", "tbf", *line)
        host.nft(
            "table ip reorder { chain output { type route hook output priority mangle; "
            f"ip daddr 203.0.113.0/24 numgen random mod 100 < {percent} meta mark set 1; }}; }}"
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
