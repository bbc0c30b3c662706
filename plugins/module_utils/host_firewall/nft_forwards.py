# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which nftables rules a Linux router needs to forward ports to a host behind it.

The translation is in a table of our own. What it lets in has to pass the forward chains of everybody else, too.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .conntrack import Connection, forget_connections
from .nft import Packet, Ruleset, fate
from .nft_plan import chain_plan, dropping_chains, owner
from .nft_text import comment_text, describe_rule
from .plan import FirewallError, Plan, Port, Run, apply_plan
from .written import word

OWN_TABLE = ("ip", "peer_relay_forwards")
# Each with its priority: ahead of the router's own masquerade, where a packet's first rule wins.
HOOKS = {"prerouting": "dstnat", "postrouting": "srcnat - 1"}


class Forward(NamedTuple):
    name: str
    protocol: str
    port: int
    external_port: int
    families: list[str]


class Request(NamedTuple):
    """The forwards that are to be; none: everything of ours goes."""

    forwards: list[Forward]
    address: str
    address6: str
    wan: str
    hairpin: bool

    @property
    def ports(self) -> list[Port]:
        """What has to pass the forward chains."""
        return [
            Port(forward.protocol, forward.port, forward.name, destination)
            for forward in self.forwards
            for family, destination in (("ipv4", self.address), ("ipv6", self.address6))
            if family in forward.families
        ]

    @property
    def translated(self) -> list[Forward]:
        return [forward for forward in self.forwards if "ipv4" in forward.families]


def make_request(settings: dict[str, Any]) -> Request:
    return Request(**{**settings, "forwards": [Forward(**forward) for forward in settings["forwards"]]})


def make_plan(ruleset: Ruleset, request: Request) -> Plan:
    chains = chain_plan(ruleset, request.ports, "forward")
    before, after = _rules_there(ruleset), _rules_wanted(request)
    statements: tuple[str, ...] = ()
    if before != after:
        table = " ".join(OWN_TABLE)
        # Add, delete, add: replaces the table whether or not it was there.
        statements = (f"table {table} {{}}", f"delete table {table}", *([_table(after)] if after else []))
    return chains._replace(
        statements=statements + chains.statements,
        before=_lines(before) + chains.before,
        after=_lines(after) + chains.after,
    )


def bring_in(run: Run, plan: Plan) -> None:
    """Apply the plan, and have connections that began under the rules before go by those of now."""
    apply_plan(run, plan)
    ports = set(re.findall(r"(udp|tcp) dport (\d+) dnat to", "\n".join(plan.before + plan.after)))
    links = json.loads(run(["ip", "-json", "-4", "address", "show"]))
    own = {item["local"] for link in links for item in link.get("addr_info", []) if "local" in item}

    def is_meant(connection: Connection) -> bool:
        return connection.destination in own and (connection.protocol, str(connection.port)) in ports

    if ports:
        forget_connections(is_meant)


def refuse_what_others_hold(ruleset: Ruleset, request: Request, external_address: str) -> None:
    """Raise FirewallError for what is not ours to change."""
    for chain in ruleset.base_chains("prerouting"):
        for forward in request.translated if chain.family in ("inet", "ip") and chain[:2] != OWN_TABLE else []:
            outcome = fate(ruleset, chain, Packet(forward.protocol, forward.external_port, external_address))
            if outcome.verdict == "nat":
                raise FirewallError(
                    f"the router's nftables chain {chain} already sends {forward.external_port}/{forward.protocol} "
                    f"somewhere (rule {outcome.rule + 1}): remove that rule, or give the forward '{forward.name}' "
                    f"another external_port."
                )
    for chain in dropping_chains(ruleset, request.ports, "forward"):
        if owner(chain):
            wanted = ", ".join(map(str, request.ports))
            raise FirewallError(
                f"the router's nftables chain {chain} drops, and belongs to {owner(chain)}: "
                f"let {wanted} pass with {owner(chain)}, then run this again."
            )


def _rules_wanted(request: Request) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    for forward in request.translated:
        wan, address = f'"{word(request.wan)}"', word(request.address)
        protocol, inner, outer = word(forward.protocol), word(forward.port), word(forward.external_port)
        comment = comment_text(forward.name)
        target = f"{protocol} dport {outer} dnat to {address}:{inner} {comment}"
        rules.setdefault("prerouting", []).append(f"iifname {wan} fib daddr type local {target}")
        # What the host sends first, say after a reboot of the router, comes from the port that devices know it by.
        rules.setdefault("postrouting", []).append(
            f"oifname {wan} ip saddr {address} {protocol} sport {inner} masquerade to :{outer} {comment}"
        )
        if request.hairpin:
            # From the inside, an address of the router that is not the near one: it must be meant as the outer one.
            near = "fib daddr . iif type != local"
            rules["prerouting"].append(f"iifname != {wan} fib daddr type local {near} {target}")
            # Without the masquerade, the answer would go past the router, and from an address that was not asked.
            rules["postrouting"].append(
                f"iifname != {wan} ip daddr {address} {protocol} dport {inner} ct status dnat masquerade {comment}"
            )
    return rules


def _rules_there(ruleset: Ruleset) -> dict[str, list[str]]:
    return {
        chain.name: [describe_rule(rule) for rule in chain.rules]
        for chain in ruleset.chains.values()
        if (chain.family, chain.table) == OWN_TABLE
    }


def _table(rules: dict[str, list[str]]) -> str:
    chains = "\n".join(
        f"    chain {name} {{\n        type nat hook {name} priority {HOOKS[name]}; policy accept;\n"
        + "".join(f"        {line}\n" for line in lines)
        + "    }"
        for name, lines in rules.items()
    )
    return f"table {' '.join(OWN_TABLE)} {{\n{chains}\n}}"


def _lines(rules: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{' '.join(OWN_TABLE)} {name}: {line}" for name, lines in rules.items() for line in lines)
