# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's packet filters do with what it forwards between a tunnel and the networks behind the host."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from .nft import Chain, Packet, Ruleset, fate
from .nft_plan import owner, read_ruleset
from .plan import CommandError, Run

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]  # noqa: UP007 -- pylint
# Somewhere out there, for an exit node.
OUTSIDE = {4: "9.9.9.9", 6: "2620:fe::fe"}
MAX_NAMED = 256  # addresses that rules name, such as those of containers


class Obstacle(NamedTuple):
    chain: Chain
    rule: int  # or the chain's length, for its policy
    packet: Packet

    @property
    def way(self) -> str:
        came, goes = self.packet.links
        return f"from {came} to {self.packet.destination}" if came else f"from {self.packet.source} to {goes}"


class Forwarding:
    """interface: the tunnel's. overlay, subnets: networks in it, and behind this host ("0.0.0.0/0" for everything)."""

    def __init__(self, run: Run, interface: str, overlay: list[str], subnets: list[str]):
        self.run = run
        self.interface = interface
        self.overlay = [ipaddress.ip_network(text) for text in overlay]
        self.subnets = [ipaddress.ip_network(text) for text in subnets]
        self.ruleset = read_ruleset(run)

    def obstacles(self) -> list[Obstacle]:
        """For each chain, the first packet that it drops."""
        found: dict[tuple[str, str, str], Obstacle] = {}
        for packet in self._packets():
            for hook in ("prerouting", "forward"):
                for chain in self.ruleset.base_chains(hook):
                    version = {"ip": 4, "ip6": 6}.get(chain.family, 0)
                    other_family = version and version != ipaddress.ip_address(packet.destination).version
                    own = (chain.family, chain.table) == ("inet", self.interface)
                    if own or other_family or chain[:3] in found:
                        continue
                    outcome = fate(self.ruleset, chain, packet)
                    if outcome.verdict == "drop":
                        found[chain[:3]] = Obstacle(chain, outcome.rule, packet)
        return list(found.values())

    def _packets(self) -> Iterator[Packet]:
        for network in self.overlay:
            device = str(network[2])
            for address in self._destinations(network.version):
                link = self._link(address)
                for protocol in ("tcp", "udp"):
                    yield Packet(protocol, None, address, source=device, links=(self.interface, link))
                    yield Packet(protocol, None, device, source=address, links=(link, self.interface), established=True)

    def _destinations(self, version: int) -> list[str]:
        found: list[str] = []
        for subnet in self.subnets:
            if subnet.version != version:
                continue
            found.append(OUTSIDE[version] if not subnet.prefixlen else self._somebody_in(subnet))
            # Such as the addresses of containers, each of which Docker keeps others away from.
            named = [address for address in _addresses_of(self.ruleset, version) if address in subnet]
            found += [str(address) for address in named[:MAX_NAMED]] if subnet.prefixlen else []
        return list(dict.fromkeys(found))

    def _somebody_in(self, subnet: Network) -> str:
        """An address that is not this host's own."""
        some = [str(subnet[index]) for index in range(min(4, subnet.num_addresses))]
        return next((address for address in some[1:] if self._link(address) != "lo"), some[-1])

    def _link(self, address: str) -> str:
        """Where packets to the address leave; empty when nobody knows."""
        try:
            routes = json.loads(self.run(["ip", "-j", "route", "get", address]) or "[]")
        except (CommandError, ValueError):
            return ""
        return str(routes[0].get("dev", "")) if routes else ""


def _addresses_of(ruleset: Ruleset, version: int) -> list[Any]:
    """The addresses that rules name as a destination."""
    found = []
    for chain in ruleset.chains.values():
        for rule in chain.rules:
            for expr in rule.exprs:
                match = expr["match"] if isinstance(expr.get("match"), dict) else {}
                left = match.get("left")
                payload = left.get("payload") if isinstance(left, dict) else None
                if isinstance(payload, dict) and payload.get("field") == "daddr":
                    found += _first_addresses(match.get("right"), version)
    return list(dict.fromkeys(found))


def _first_addresses(right: Any, version: int) -> list[Any]:
    values = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    found = []
    for value in values if isinstance(values, list) else [values]:
        text = value.get("prefix", {}).get("addr") if isinstance(value, dict) and "prefix" in value else value
        try:
            address = ipaddress.ip_address(str(text))
        except ValueError:
            continue
        found += [address] if address.version == version else []
    return found


def programs_for(obstacles: list[Obstacle]) -> list[str]:
    """The iptables programs whose FORWARD chain drops, and has to accept the interface's packets first."""
    return sorted({item.chain.program for item in obstacles if item.chain.program and item.chain.hook == "forward"})


def describe(obstacle: Obstacle, interface: str) -> str:
    """What a person reads and does about it."""
    chain = obstacle.chain
    rule = "its policy" if obstacle.rule == len(chain.rules) else f"rule {obstacle.rule + 1} of {len(chain.rules)}"
    text = f"The chain {chain} drops what is forwarded {obstacle.way} ({rule}). "
    if owner(chain) == "firewalld":
        fix = f"firewall-cmd --permanent --zone=trusted --add-interface={interface} && firewall-cmd --reload"
        return f"{text}It is firewalld's: run {fix}"
    if chain.hook == "prerouting" and chain.name == "PREROUTING":
        return (
            f"{text}Docker 28 and later make such rules, to keep others away from its containers' addresses: publish "
            f"the port and reach it at this device, or set allow-direct-routing to true in /etc/docker/daemon.json."
        )
    where = f"{chain.family} {chain.table} {chain.name}"
    return (
        f"{text}Have it accept what comes from and goes to {interface}: nft insert rule {where} iifname {interface} "
        f"accept, the same with oifname, and both where that table is kept."
    )
