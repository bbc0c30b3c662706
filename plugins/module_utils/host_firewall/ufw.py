# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open ports with ufw: read its rules (`ufw show added`), tell what they do with a stranger, and plan changes.

Rules of ours are known by their comment. ufw decides by the first rule that fits. A rule that is given again with
another action or comment replaces the one before, so nothing is done where somebody else has a rule for the port.
"""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import NamedTuple

from .plan import SSH_COMMENT, TAG, FirewallError, Plan, Port, Run, covers

ACTIONS = ("allow", "limit", "deny", "reject")
KEYWORDS = ("from", "to", "port", "proto", "on", "app", "comment")
APPLICATIONS = {"OpenSSH": ("22", "tcp"), "SSH": ("22", "tcp")}  # the profiles that Debian and Ubuntu ship for SSH


class Rule(NamedTuple):
    words: list[str]  # as ufw takes them, without the comment
    action: str
    ports: str  # empty: all
    protocol: str  # empty: all
    narrow: bool  # for some senders or to some addresses only
    interface: str
    comment: str

    def fits(self, port: Port) -> bool:
        return self.protocol in ("", port.protocol) and (not self.ports or covers(self.ports, port.port))

    @property
    def text(self) -> str:
        return " ".join(self.words) + (f" comment '{self.comment}'" if self.comment else "")


class Ufw(NamedTuple):
    active: bool
    rules: list[Rule]
    drops: bool  # what no rule speaks of


def read_ufw(run: Run) -> Ufw:
    status = run(["ufw", "status", "verbose"])
    defaults = next((line for line in status.splitlines() if line.startswith("Default:")), "")
    return Ufw(
        active="Status: active" in status,
        rules=parse_rules(run(["ufw", "show", "added"])),
        drops="allow (incoming)" not in defaults,
    )


def parse_rules(text: str) -> list[Rule]:
    """The rules for incoming packets that `ufw show added` lists."""
    rules = []
    for line in text.splitlines():
        try:
            words = shlex.split(line)
        except ValueError:  # ufw does not escape quotes in comments
            words = line.split()
        if len(words) > 2 and words[0] == "ufw" and words[1] in ACTIONS and "out" not in words[2:4]:
            rules.append(_rule(words[1:]))
    return rules


def _rule(words: list[str]) -> Rule:
    comment = ""
    if "comment" in words:
        at = words.index("comment")
        words, comment = words[:at], " ".join(words[at + 1 :])
    rest = [word for word in words[1:] if word not in ("in", "log", "log-all")]
    values: dict[str, str] = {}
    side = ""
    ports = protocol = ""
    for word, value in pairwise(rest):
        if word in ("from", "to"):
            side = word
        if word in KEYWORDS:
            values[f"{side} {word}" if word in ("port", "app") else word] = value
    if rest and rest[0] not in KEYWORDS:
        ports, _slash, protocol = rest[0].partition("/")  # short form
        ports, protocol = APPLICATIONS.get(ports, (ports, protocol))
    else:
        ports, protocol = APPLICATIONS.get(
            values.get("to app", ""), (values.get("to port", ""), values.get("proto", ""))
        )
        ports = ports or values.get("to app", "")
    narrow = values.get("from", "any") != "any" or values.get("to", "any") != "any"
    narrow = narrow or "from port" in values or "from app" in values
    return Rule(words, words[0], ports, protocol, narrow, values.get("on", ""), comment)


def fate(ufw: Ufw, rules: list[Rule], port: Port) -> tuple[bool, Rule | None]:
    """Whether strangers reach the port, and the rule that decides (None: the default policy)."""
    for rule in rules:
        if rule.narrow or not rule.fits(port):
            continue
        if rule.action in ("deny", "reject"):
            return False, rule
        if not rule.interface:
            return True, rule
    return not ufw.drops, None


def make_plan(ufw: Ufw, ports: list[Port], ssh_ports: list[int] | None = None) -> Plan:
    """What to do so that exactly these ports are let in by rules of ours.

    ssh_ports: ports that have to be let in as well before ufw is turned on, by rules that stay.
    """
    ours = [rule for rule in ufw.rules if rule.comment.startswith(TAG)]
    others = [rule for rule in ufw.rules if rule not in ours]
    kept: list[Rule] = []
    commands: list[list[str]] = []
    after: list[str] = []
    found: list[str] = []
    for port in [Port("tcp", number, "") for number in ssh_ports or []] + ports:
        comment = port.tag if port.comment else SSH_COMMENT
        wanted = Rule(["allow", str(port)], "allow", str(port.port), port.protocol, False, "", comment)
        opened, decisive = fate(ufw, others, port)
        if opened and decisive:
            found.append(f"{port} is open already: {decisive.text}")
            continue
        if decisive and decisive.words[1:] == wanted.words[1:]:
            raise FirewallError(
                f"ufw has the rule '{decisive.text}', which somebody made to keep {port} closed. "
                f"Remove it (ufw delete {' '.join(decisive.words)}), or leave the port out of firewall_ports."
            )
        after.append(f"ufw: {wanted.text}")
        if wanted in ufw.rules and fate(ufw, ufw.rules, port) == (True, wanted):
            kept.append(wanted)
            continue
        if decisive:
            found.append(f"ufw drops {port}: {decisive.text}")
        # In front of a rule that drops it; otherwise at the end, behind everybody's bans.
        commands.append(["ufw", *(["prepend"] if decisive else []), *wanted.words, "comment", comment])
    stale = [rule for rule in ours if rule not in kept]
    return Plan(
        commands=(*(["ufw", "--force", "delete", *rule.words] for rule in stale), *commands),
        before=tuple(f"ufw: {rule.text}" for rule in ufw.rules if rule in ours or f"ufw: {rule.text}" in after),
        after=tuple(after),
        found=tuple(found),
        closed_ports=tuple(
            Port(rule.protocol, int(rule.ports), rule.comment.removeprefix(TAG))
            for rule in stale
            if ufw.active
            and rule.ports.isdigit()
            and not fate(ufw, others, Port(rule.protocol, int(rule.ports), ""))[0]
            if not any(f"{rule.ports}/{rule.protocol}" == str(port) for port in ports)
        ),
    )
