# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which rules an nftables ruleset needs so that ports are reachable, and bring them in.

An accept in one table does not undo a drop in another, so a rule goes into every chain of a hook that drops the port,
just before the rule that does: bans and limits that stand further up stay in force. Ours are known by their comment.
"""

from __future__ import annotations

import shlex

from . import netfilter
from .iptables import parse_save
from .nft import OWN_TABLE, Chain, Packet, Rule, Ruleset, fate, parse_ruleset
from .nft_text import admitted_port, describe_rule, iptables_rule, rule_text, text_of_iptables_rule
from .plan import CommandError, Plan, Port, Run

# What a host needs besides its open ports: replies, itself, ICMP, and the answers to its own DHCP requests.
OWN_CHAIN = """\
table inet peer_relay_firewall {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif "lo" accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp dport 546 accept
{rules}
    }}
}}"""
OWN_CHAIN_FIXED_RULES = 5
PROGRAMS = (("iptables", "ip"), ("ip6tables", "ip6"))
LEGACY_TABLES = ("filter", "nat", "mangle", "raw", "security")


def owner(chain: Chain) -> str:
    """The firewall manager whose chain this is, or nobody (""). Its chains are its own business."""
    if chain.table == "firewalld":
        return "firewalld"
    jumps = [expr["jump"] for rule in chain.rules for expr in rule.exprs if isinstance(expr.get("jump"), dict)]
    targets = [str(jump.get("target")) for jump in jumps]
    if {"INPUT_ZONES", "FORWARD_IN_ZONES"} & set(targets):  # firewalld with its iptables backend
        return "firewalld"
    return "ufw" if any(target.startswith(("ufw-", "ufw6-")) for target in targets) else ""


def read_ruleset(run: Run) -> Ruleset:
    """The ruleset, that of iptables included, whichever of its two kinds and whichever programs are here."""
    ruleset = _read_nftables(run)
    unseen = list(ruleset.unseen)
    for program, family in PROGRAMS:
        tables = _legacy_tables(run, family)
        # The kernel makes the tables when somebody first asks for them, so ask for those alone that are there.
        if tables and not _add_saved(run, ruleset, program, "legacy", family):
            unseen.append(f"{program}-legacy {', '.join(tables)}")
    return ruleset._replace(unseen=tuple(unseen))


def _read_nftables(run: Run) -> Ruleset:
    try:
        text = run(["nft", "-j", "list", "ruleset"])
    except CommandError:
        if _works(run, ["nft", "--version"]):
            raise
        ruleset = Ruleset({}, {})
        for program, family in PROGRAMS:
            _add_saved(run, ruleset, program, "nft", family)
        seen = {chain[:2] for chain in ruleset.chains.values()}
        hidden = [table for table in netfilter.nftables_tables() if table not in seen]
        return ruleset._replace(unseen=tuple(f"nftables {family} {name}" for family, name in hidden))
    ruleset = parse_ruleset(text)
    # Rules of iptables' chains with their comments, which nft does not print.
    for family, program in (("ip", "iptables-nft"), ("ip6", "ip6tables-nft")):
        for name in ("INPUT", "FORWARD"):
            chain = ruleset.chains.get((family, "filter", name))
            if chain and chain.hook:
                try:
                    listing = run([program, "-w", "-S", name])
                except CommandError:  # no iptables here, or not a chain that it understands: an ordinary one then
                    continue
                ruleset.chains[family, "filter", name] = as_iptables_chain(chain, listing, program)
    return ruleset


def _add_saved(run: Run, ruleset: Ruleset, program: str, kind: str, family: str) -> bool:
    """Add what iptables itself tells; whether it does."""
    try:
        text = run([f"{program}-{kind}-save"])
    except CommandError:
        return False
    for chain in parse_save(text, family, f"{program}-{kind}"):
        ruleset.chains[chain[:3]] = chain
    return True


def _works(run: Run, argv: list[str]) -> bool:
    try:
        run(argv)
    except CommandError:
        return False
    return True


def _legacy_tables(run: Run, family: str) -> list[str]:
    """Those that legacy iptables has made in the kernel."""
    try:
        names = run(["cat", f"/proc/net/{family}_tables_names"]).split()
    except CommandError:  # a kernel without them
        return []
    return [name for name in names if name in LEGACY_TABLES]


def as_iptables_chain(chain: Chain, listing: str, program: str) -> Chain:
    """The chain with what `iptables -S` tells about its rules, in the same order: comments, and the text of ours."""
    lines = [shlex.split(line)[2:] for line in listing.splitlines() if line.startswith("-A ")]
    if len(lines) != len(chain.rules):
        return chain
    rules = []
    for rule, words in zip(chain.rules, lines, strict=True):
        comment = words[words.index("--comment") + 1] if "--comment" in words else ""
        rule = rule._replace(comment=comment)
        if rule.ours:
            rule = rule._replace(text=text_of_iptables_rule(words, comment))
        rules.append(rule)
    return chain._replace(rules=rules, program=program)


def dropping_chains(ruleset: Ruleset, ports: list[Port], hook: str = "input") -> list[Chain]:
    """Base chains that drop one of the ports."""
    packets = [packet_for(port) for port in ports]
    return [chain for chain in ruleset.base_chains(hook) if _drops(ruleset, chain, packets)]


def blocking_chains(ruleset: Ruleset, ports: list[Port]) -> list[Chain]:
    """Input chains that drop one of the ports, or that drop whatever no rule of theirs speaks of."""
    packets = [packet_for(port) for port in ports] + [Packet("udp", None), Packet("tcp", None)]
    return [chain for chain in ruleset.base_chains("input") if _drops(ruleset, chain, packets)]


def packet_for(port: Port) -> Packet:
    return Packet(port.protocol, port.port, port.destination, translated=port.version == 4)


def _drops(ruleset: Ruleset, chain: Chain, packets: list[Packet]) -> bool:
    return any(fate(ruleset, chain, packet).verdict == "drop" for packet in packets)


def has_own_chain(ruleset: Ruleset) -> bool:
    return (*OWN_TABLE, "input") in ruleset.chains


def make_plan(ruleset: Ruleset, ports: list[Port], own_chain: list[Port] | None) -> Plan:
    """What to do so that exactly these ports are let in by rules of ours (none: remove all that is ours).

    own_chain: a chain of our own that drops all but these further ports (SSH) is to be there; None: it is not.
    """
    chains = chain_plan(ruleset, ports, "input")
    own = _OwnChain(ruleset, None if own_chain is None else own_chain + ports)
    return chains._replace(
        statements=chains.statements + own.statements(),
        before=chains.before + own.before,
        after=chains.after + own.after,
    )


def chain_plan(ruleset: Ruleset, ports: list[Port], hook: str) -> Plan:
    """What to do to other people's chains so that these let exactly the ports in."""
    edits = [_ChainEdit(ruleset, chain, ports) for chain in ruleset.base_chains(hook) if not owner(chain)]
    return Plan(
        statements=tuple(line for edit in edits if not edit.chain.program for line in edit.statements()),
        commands=tuple(command for edit in edits if edit.chain.program for command in edit.commands()),
        before=tuple(line for edit in edits for line in edit.before),
        after=tuple(line for edit in edits for line in edit.after),
        found=tuple(line for edit in edits for line in edit.found),
        closed_ports=tuple(port for edit in edits for port in edit.closed_ports),
    )


class _ChainEdit:
    """The change of one chain of somebody else's."""

    def __init__(self, ruleset: Ruleset, chain: Chain, ports: list[Port]):
        self.chain = chain
        self.kept: list[Rule] = []
        self.missing: list[tuple[Port, int]] = []  # with the index of the rule to stand before
        self.found: list[str] = []
        self.after: list[str] = []
        ours = [(index, rule) for index, rule in enumerate(chain.rules) if rule.ours]
        self.before = [f"{chain}: {describe_rule(rule)}" for _index, rule in ours]
        for port in ports:
            if port.version and chain.family not in ("inet", {4: "ip", 6: "ip6"}[port.version]):
                continue
            outcome = fate(ruleset, chain, packet_for(port))
            if outcome.verdict != "drop":
                continue
            self.found.append(f"{chain} drops {port}: {_reason(chain, outcome.rule)}")
            self.after.append(f"{chain}: {rule_text(port)}")
            good = [rule for index, rule in ours if index < outcome.rule and describe_rule(rule) == rule_text(port)]
            if good:
                self.kept.append(good[0])
            else:
                self.missing.append((port, outcome.rule))
        self.stale = [rule for _index, rule in ours if rule not in self.kept]
        self.closed_ports = [
            port
            for port in filter(None, (admitted_port(rule) for rule in self.stale))
            if not any(packet_for(port) == packet_for(wanted) for wanted in ports)
            and fate(ruleset, chain, packet_for(port)).verdict == "drop"
        ]

    def statements(self) -> list[str]:
        lines = [f"delete rule {self.chain} handle {rule.handle}" for rule in self.stale]
        for port, index in self.missing:
            if index < len(self.chain.rules):
                lines.append(f"insert rule {self.chain} handle {self.chain.rules[index].handle} {rule_text(port)}")
            else:
                lines.append(f"add rule {self.chain} {rule_text(port)}")
        return lines

    def commands(self) -> list[list[str]]:
        """By iptables itself: its older versions cannot read rules that nft wrote."""
        program = [self.chain.program, "-w"]
        # By number, from the end: the one form that fits whatever somebody made of the rule.
        numbers = [number for number, rule in enumerate(self.chain.rules, 1) if rule in self.stale]
        lines = [[*program, "-D", self.chain.name, str(number)] for number in reversed(numbers)]
        for done, (port, index) in enumerate(self.missing):
            ahead = sum(rule not in self.stale for rule in self.chain.rules[:index])
            done_ahead = sum(other <= index for _port, other in self.missing[:done])
            lines.append([*program, "-I", self.chain.name, str(ahead + done_ahead + 1), *iptables_rule(port)])
        return lines


class _OwnChain:
    """Our own input chain: whether it is there, and is as it is to be."""

    def __init__(self, ruleset: Ruleset, ports: list[Port] | None):
        self.chain = ruleset.chains.get((*OWN_TABLE, "input"))
        self.ports = ports
        name = " ".join((*OWN_TABLE, "input"))
        rules = self.chain.rules if self.chain else []
        self.before = tuple(f"{name}: {describe_rule(rule)}" for rule in rules if rule.ours)
        self.after = tuple(f"{name}: {rule_text(port)}" for port in ports or [])

    def statements(self) -> tuple[str, ...]:
        table = " ".join(OWN_TABLE)
        if self.ports is None:
            return (f"delete table {table}",) if self.chain else ()
        if (
            self.chain
            and self.chain.policy == "drop"
            and len(self.chain.rules) == OWN_CHAIN_FIXED_RULES + len(self.ports)
            and self.before == self.after
        ):
            return ()
        # Add, delete, add: replaces the table whether or not it was there.
        return (
            f"table {table} {{}}",
            f"delete table {table}",
            OWN_CHAIN.format(rules="\n".join(f"        {rule_text(port)}" for port in self.ports)),
        )


def _reason(chain: Chain, index: int) -> str:
    if index == len(chain.rules):
        return "policy drop"
    rule = f"rule {index + 1} of {len(chain.rules)}"
    return f"{rule}, handle {chain.rules[index].handle}" if chain.rules[index].handle else rule
