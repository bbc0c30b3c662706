# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read an nftables ruleset (`nft -j list ruleset`); tell what a base chain does with a new packet from a stranger."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .plan import TAG

OWN_TABLE = ("inet", "peer_relay_firewall")

# How much of the packets in question an expression matches. A rule matches as much as its narrowest expression.
NEVER, SOME, BROAD, ALWAYS = range(4)
# SOME: a selection by sender, rate or state (bans, limits), which a new accept must not override.
# BROAD: a selection that strangers fall into, such as an interface or "state new".

MAX_DEPTH = 16  # the kernel's own limit of nested jumps
STATEMENTS = {"counter", "log", "mangle", "notrack", "comment", "set", "map", "flow", "secmark", "ct helper"}
TRANSPORTS = {"tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp"}
PROTOCOL_NUMBERS = {6: "tcp", 17: "udp"}
TRANSLATIONS = ("dnat", "redirect")
VERDICTS = ("accept", "drop", "reject", "return", "jump", "goto", "continue", "queue")


class RulesetError(ValueError):
    """The text is not a ruleset as nft prints it."""


class Packet(NamedTuple):
    """A new packet; without a port, any port that no rule speaks of."""

    protocol: str
    port: int | None
    destination: str = ""  # an address that rules may name; empty: some address of this host
    translated: bool = False  # a DNAT rule has sent it there
    source: str = ""  # an address; empty: a stranger's
    established: bool = False  # an answer
    links: tuple[str, str] = ("", "")  # where it comes in, and goes out; empty: any but "lo"


class Rule(NamedTuple):
    handle: int
    comment: str
    exprs: list[dict[str, Any]]
    text: str = ""  # where iptables, which keeps the rule, has told it

    @property
    def ours(self) -> bool:
        return self.comment.startswith(TAG)


class Chain(NamedTuple):
    family: str
    table: str
    name: str
    hook: str  # empty: not a base chain
    policy: str
    rules: list[Rule]
    program: str = ""  # the iptables that keeps it, and has to write it; empty: nft

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Ruleset(NamedTuple):
    chains: dict[tuple[str, str, str], Chain]
    sets: dict[tuple[str, str, str], list[Any]]
    unseen: tuple[str, ...] = ()  # tables that the kernel has, and no program here can read

    def base_chains(self, hook: str) -> list[Chain]:
        """Base chains of a hook that sees IP packets, without our own table."""
        return [
            chain
            for chain in self.chains.values()
            if chain.hook == hook and chain.family in ("inet", "ip", "ip6") and (chain.family, chain.table) != OWN_TABLE
        ]


class Outcome(NamedTuple):
    """What becomes of a packet in a chain, and the index of the rule that decides (the chain's length: its end)."""

    verdict: str  # "accept", "drop", "nat" (sent elsewhere), or "end": the chain ends without a decision
    rule: int


def parse_ruleset(text: str) -> Ruleset:
    try:
        items = json.loads(text)["nftables"]
        ruleset = Ruleset({}, {})
        for item in items:
            kind, body = next(iter(item.items()))
            if kind == "chain":
                key = (body["family"], body["table"], body["name"])
                ruleset.chains[key] = Chain(*key, str(body.get("hook", "")), str(body.get("policy", "accept")), [])
            elif kind == "rule":
                rule = Rule(
                    int(body["handle"]), str(body.get("comment", "")), [e for e in body["expr"] if isinstance(e, dict)]
                )
                ruleset.chains[body["family"], body["table"], body["chain"]].rules.append(rule)
            elif kind in ("set", "map"):
                ruleset.sets[body["family"], body["table"], body["name"]] = list(body.get("elem", []))
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        raise RulesetError(f"not a ruleset as 'nft -j list ruleset' prints it: {error!r}") from error
    return ruleset


def fate(ruleset: Ruleset, chain: Chain, packet: Packet) -> Outcome:
    """What a base chain does with a packet from a stranger, our own rules left out of account."""
    outcome = _Walk(ruleset, packet, chain).chain(chain, 0)
    if outcome.verdict != "end":
        return outcome
    return Outcome("drop" if chain.policy == "drop" else "accept", outcome.rule)


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet, base: Chain):
        self.ruleset = ruleset
        self.packet = packet
        self.base = base

    def chain(self, chain: Chain, depth: int) -> Outcome:
        # An end that is certain stops the walk; one that is only likely matters where the policy behind it drops.
        likely_end_drops = depth == 0 and chain.policy == "drop"
        for index, rule in enumerate(chain.rules):
            if rule.ours:
                continue
            for level, verdict, target in self.verdicts(rule):
                result = verdict
                if verdict in ("jump", "goto") and level >= BROAD:
                    result = self.jump(target, depth)
                    if result == "end" and verdict == "jump":
                        continue
                elif verdict == "return":
                    result = "end"
                if result in ("drop", "nat") and level >= BROAD:
                    return Outcome(result, index)
                if result == "accept" and level == ALWAYS:
                    return Outcome("accept", index)
                if result == "end" and (level == ALWAYS or (level == BROAD and likely_end_drops)):
                    return Outcome("end", index)
        return Outcome("end", len(chain.rules))

    def jump(self, target: str, depth: int) -> str:
        chain = self.ruleset.chains.get((self.base.family, self.base.table, target))
        if chain is None or depth >= MAX_DEPTH:
            return "end"
        return self.chain(chain, depth + 1).verdict

    def verdicts(self, rule: Rule) -> Iterator[tuple[int, str, str]]:
        """The rule's verdicts, each with how much it applies to, and a jump's target."""
        level = ALWAYS
        for expr in rule.exprs:
            for name, body in expr.items():
                if name in VERDICTS:
                    yield (level, *_verdict(name, body))
                elif name in TRANSLATIONS:
                    yield level, "nat", ""
                elif name == "vmap" and isinstance(body, dict):
                    for key, verdict in self.map_entries(body.get("data")):
                        for kind, detail in verdict.items():
                            yield (min(level, self.compare(body.get("key"), "==", key)), *_verdict(kind, detail))
                elif name == "xt":
                    if _is_xt_reject(body, last=expr is rule.exprs[-1]):
                        yield level, "drop", ""
                    level = min(level, _xt_level(body))
                elif name == "match" and isinstance(body, dict):
                    level = min(level, self.compare(body.get("left"), body.get("op", "=="), body.get("right")))
                elif name not in STATEMENTS:
                    level = min(level, SOME)

    def map_entries(self, data: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        for entry in self.values(data, expand=False):
            if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict):
                for key in self.values(entry[0]):
                    yield key, entry[1]

    def values(self, right: Any, expand: bool = True) -> Iterator[Any]:
        """The single values of a right side: of a set (named or not) its elements, otherwise the value itself."""
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self.ruleset.sets.get((self.base.family, self.base.table, right[1:]), [])}
        if isinstance(right, dict) and "set" in right:
            right = right["set"] if isinstance(right["set"], list) else [right["set"]]
            for value in right:
                if expand:
                    yield from self.values(value)
                else:
                    yield value
        elif isinstance(right, list) and expand:
            for value in right:
                yield from self.values(value)
        elif isinstance(right, dict) and isinstance(right.get("elem"), dict):
            yield right["elem"].get("val")
        else:
            yield right

    def compare(self, left: Any, op: str, right: Any) -> int:
        """How much of the packets `left op right` matches."""
        if not isinstance(left, dict):
            return SOME
        if isinstance(left.get("&"), list) and left["&"]:  # masked bits of a field
            return min(SOME, self.compare(left["&"][0], op, right))
        if isinstance(left.get("concat"), list):
            return self.concat(left["concat"], right) if op in ("==", "in") else SOME
        values = list(self.values(right))
        negated = op == "!="
        if op not in ("==", "in", "!="):
            return SOME
        kind, body = next(iter(left.items()), ("", None))
        key = body.get("key") if isinstance(body, dict) else None
        if kind == "meta" and key == "l4proto":
            return self.protocol(values, negated)
        if kind == "meta" and key in ("iif", "iifname", "oif", "oifname"):
            link = self.packet.links["oif" in key]
            if link:
                found = any(_is_link(value, link) for value in values)
                return NEVER if found == negated else ALWAYS
            return ALWAYS if values == ["lo"] and negated else NEVER if values == ["lo"] else BROAD
        if kind == "meta" and key == "nfproto":
            return self.version(values, negated)
        if kind == "ct" and key == "state" and self.packet.established:
            return ALWAYS if ("established" in values) != negated else NEVER
        if kind == "ct" and key == "state":
            return BROAD if ("new" in values) != negated else SOME
        if kind == "ct" and key == "status" and values == ["dnat"]:
            return ALWAYS if self.packet.translated != negated else NEVER
        if kind == "payload" and isinstance(body, dict):
            return self.payload(str(body.get("protocol")), str(body.get("field")), values, negated)
        return SOME

    def concat(self, parts: list[Any], right: Any) -> int:
        best = NEVER
        for value in self.values(right):
            others = value.get("concat") if isinstance(value, dict) else None
            if not isinstance(others, list) or len(others) != len(parts):
                return SOME
            levels = [self.compare(part, "==", other) for part, other in zip(parts, others, strict=True)]
            best = max(best, min(levels, default=SOME))
        return best

    def payload(self, protocol: str, field: str, values: list[Any], negated: bool) -> int:
        if protocol in TRANSPORTS and protocol != self.packet.protocol:
            return NEVER
        if protocol in ("th", self.packet.protocol) and field == "dport":
            if self.packet.port is None:
                return BROAD if negated else SOME
            found = any(_covers(value, self.packet.port) for value in values)
            return NEVER if found == negated else ALWAYS
        if (protocol, field) in (("ip", "protocol"), ("ip6", "nexthdr")):
            return min(BROAD, self.protocol(values, negated))
        if field == "saddr" and self.packet.source:
            found = any(_covers_address(value, self.packet.source) for value in values)
            return NEVER if found == negated else ALWAYS
        if field == "saddr" and negated:
            return BROAD  # "everybody but": strangers are meant
        if field == "daddr" and self.packet.destination:
            found = any(_covers_address(value, self.packet.destination) for value in values)
            return NEVER if found == negated else ALWAYS
        return SOME

    def version(self, values: list[Any], negated: bool) -> int:
        if not self.packet.destination:
            return BROAD
        name = "ipv6" if ":" in self.packet.destination else "ipv4"
        return NEVER if (name in values) == negated else ALWAYS

    def protocol(self, values: list[Any], negated: bool) -> int:
        names = [PROTOCOL_NUMBERS.get(value, value) if isinstance(value, int) else value for value in values]
        return NEVER if (self.packet.protocol in names) == negated else ALWAYS


def _verdict(kind: str, body: Any) -> tuple[str, str]:
    target = str(body.get("target", "")) if isinstance(body, dict) else ""
    return ("drop" if kind == "reject" else kind), target


def _covers(value: Any, port: int) -> bool:
    """Whether a value of a port match is, or holds, the port. A number out of anybody's reach is no port."""
    if isinstance(value, dict) and isinstance(value.get("range"), list) and len(value["range"]) == 2:
        low, high = value["range"]
        return isinstance(low, int) and isinstance(high, int) and low <= port <= high
    return bool(value == port)


def _is_link(value: Any, link: str) -> bool:
    """Whether a value of an interface match is the interface, or a pattern that fits it."""
    return isinstance(value, str) and (value == link or (value.endswith("*") and link.startswith(value[:-1])))


def _covers_address(value: Any, address: str) -> bool:
    """Whether a value of an address match is, or holds, the address."""
    low = high = value
    try:
        if isinstance(value, dict) and isinstance(value.get("prefix"), dict):
            prefix = value["prefix"]
            network = ipaddress.ip_network((str(prefix.get("addr")), int(prefix.get("len"))), strict=False)
            low, high = network[0], network[-1]
        elif isinstance(value, dict) and isinstance(value.get("range"), list):
            low, high = value["range"]
        bounds = [ipaddress.ip_address(str(bound)) for bound in (low, high)]
        own = ipaddress.ip_address(address)
    except (ValueError, TypeError, OverflowError):
        return False
    return {bound.version for bound in bounds} == {own.version} and int(bounds[0]) <= int(own) <= int(bounds[1])


def _xt_level(body: Any) -> int:
    """A match of iptables: nft prints its name only, so all but comments count as a selection."""
    return ALWAYS if isinstance(body, dict) and body.get("name") == "comment" else SOME


def _is_xt_reject(body: Any, last: bool) -> bool:
    """A REJECT target of iptables. Before 1.0.6 nft does not print its name: then the worse is assumed."""
    if isinstance(body, dict):
        return body.get("type") == "target" and body.get("name") in ("REJECT", "DROP")
    return last
