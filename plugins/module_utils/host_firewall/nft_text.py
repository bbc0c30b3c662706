# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of ours as text, for nft and for iptables, and back: to see whether one that is there is as it is to be."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from .nft import Rule
from .plan import TAG, Port
from .written import WrittenError, one_line, shown, word

_ACCEPT = re.compile(
    r"(?:ip6? daddr (?P<destination>\S+) )?(?P<protocol>[a-z]+) dport (?P<port>\d+) "
    r"(?:ct status dnat )?accept comment .*"
)


def rule_text(port: Port) -> str:
    """The rule that lets a port in. Behind this host, an IPv4 address has it only for what was sent there by DNAT."""
    destination = {4: "ip daddr ", 6: "ip6 daddr "}.get(port.version, "")
    destination += f"{word(port.destination)} " if destination else ""
    translated = "ct status dnat " if port.version == 4 else ""
    return f"{destination}{word(port.protocol)} dport {word(port.port)} {translated}accept {comment_text(port.comment)}"


def comment_text(name: str) -> str:
    """The mark of a rule of ours; nft knows no escape inside of a string."""
    if '"' in name or "\\" in name:
        raise WrittenError(f"{shown(name)} has characters that a comment of nftables cannot have: leave them out")
    return f'comment "{TAG}{one_line(name)}"'


def iptables_rule(port: Port) -> list[str]:
    length = {4: 32, 6: 128}.get(port.version)
    return [
        *(["-d", f"{port.destination}/{length}"] if length else []),
        *["-p", port.protocol, "-m", port.protocol, "--dport", str(port.port)],
        *(["-m", "conntrack", "--ctstate", "DNAT"] if port.version == 4 else []),
        *["-m", "comment", "--comment", port.tag, "-j", "ACCEPT"],
    ]


def text_of_iptables_rule(words: list[str], comment: str) -> str:
    """The rule as nft would have it, when iptables has it as it is to be."""
    values = dict(pairwise(words))
    port = Port(
        values.get("-p", ""),
        int(values.get("--dport", "0").partition(":")[0]),
        comment.removeprefix(TAG),
        values.get("-d", "").partition("/")[0],
    )
    try:
        return rule_text(port) if words == iptables_rule(port) else _changed(comment)
    except WrittenError:
        return _changed(comment)


def describe_rule(rule: Rule) -> str:
    """The text of a rule of ours, as this collection writes it."""
    if rule.text:
        return rule.text
    try:
        words = [_expression(expr) for expr in rule.exprs]
    except (AttributeError, KeyError, TypeError, ValueError):
        return _changed(rule.comment)
    return f'{" ".join(words)} comment "{rule.comment}"'


def admitted_port(rule: Rule) -> Port | None:
    """The port that a rule of ours lets in, None when somebody has changed the rule."""
    found = _ACCEPT.fullmatch(describe_rule(rule))
    if not found:
        return None
    return Port(found["protocol"], int(found["port"]), rule.comment.removeprefix(TAG), found["destination"] or "")


def _changed(comment: str) -> str:
    return f'(changed by somebody) comment "{comment}"'


def _expression(expr: dict[str, Any]) -> str:
    """One expression of the kinds that rules of ours consist of; another is an error."""
    ((kind, body),) = expr.items()
    if kind in ("accept", "masquerade") and body is None:
        return kind
    if kind == "masquerade":
        return f"masquerade to :{body['port']}"
    if kind == "dnat":
        return f"dnat to {body['addr']}:{body['port']}"
    if kind != "match" or body["op"] not in ("==", "in", "!="):
        raise ValueError(kind)
    ((source, field),) = body["left"].items()
    value = body["right"]
    if not isinstance(value, (str, int)):
        raise TypeError(value)
    if source == "payload":
        left = f"{field['protocol']} {field['field']}"
    elif source == "meta":
        left, value = field["key"], f'"{value}"'
    elif source == "ct":
        left = f"ct {field['key']}"
    elif source == "fib":
        flags = field["flags"]
        left = f"fib {flags if isinstance(flags, str) else ' . '.join(flags)} {field['result']}"
    else:
        raise ValueError(source)
    return f"{left} {'!= ' if body['op'] == '!=' else ''}{value}"
