# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what `iptables-save` prints into the chains and rules that `nft` knows: for tables that nft does not show."""

from __future__ import annotations

import shlex
from typing import Any

from .nft import Chain, Rule
from .nft_text import text_of_iptables_rule
from .plan import TAG

HOOKS = {"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
VERDICTS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "reject",
    "RETURN": "return",
    "QUEUE": "queue",
    "NFQUEUE": "queue",
}
TRANSLATIONS = {"DNAT": "dnat", "REDIRECT": "redirect"}
# Options with the field that they compare; "!" stands before them.
FIELDS: dict[str, dict[str, Any]] = {
    "-p": {"meta": {"key": "l4proto"}},
    "-i": {"meta": {"key": "iifname"}},
    "-o": {"meta": {"key": "oifname"}},
    "-s": {"payload": {"protocol": "ip", "field": "saddr"}},
    "-d": {"payload": {"protocol": "ip", "field": "daddr"}},
    "--dport": {"payload": {"protocol": "th", "field": "dport"}},
    "--dports": {"payload": {"protocol": "th", "field": "dport"}},
    "--ctstate": {"ct": {"key": "state"}},
    "--state": {"ct": {"key": "state"}},
}
MODULES = ("comment", "conntrack", "icmp", "multiport", "state", "tcp", "udp")  # those that their options speak for
SELECTION: dict[str, Any] = {"selection": None}  # nothing that the reader of rules knows: some packets


def parse_save(text: str, family: str, program: str) -> list[Chain]:
    """The chains of `iptables-save`, which belong to the program ("iptables-legacy"); ValueError for other text."""
    chains: dict[tuple[str, str], Chain] = {}
    table = ""
    suffix = " (legacy)" if program.endswith("legacy") else ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            built_in = policy != "-"
            hook = HOOKS.get(name, "") if built_in else ""
            chains[table, name] = Chain(
                family, table + suffix, name, hook, policy.lower() if built_in else "accept", [], program
            )
        elif line.startswith("-A "):
            words = shlex.split(line)
            chain = chains.get((table, words[1]))
            if chain is None:
                raise ValueError(f"a rule of the chain {words[1]}, which is not there: {line}")
            chain.rules.append(parse_rule(words[2:]))
    return list(chains.values())


def parse_rule(words: list[str]) -> Rule:
    """A rule as `iptables -S` prints it, after "-A CHAIN"."""
    expressions: list[dict[str, Any]] = []
    comment, position, negated = "", 0, False
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        if word == "!":
            negated, position = True, position + 1
            continue
        if word in ("-j", "-g"):
            expressions += _verdict(value, word)
            break  # what follows are the target's own options
        if word == "--comment":
            comment = value
        elif word == "-m":
            expressions += [] if value in MODULES else [SELECTION]
        elif word in FIELDS:
            expressions.append(_match(word, value, negated))
        else:
            expressions.append(SELECTION)
            position += _length(words, position)
            negated = False
            continue
        position, negated = position + 2, False
    text = text_of_iptables_rule(words, comment) if comment.startswith(TAG) else ""
    return Rule(0, comment, expressions, text)


def _length(words: list[str], position: int) -> int:
    """An unknown option and its values."""
    end = position + 1
    while end < len(words) and not words[end].startswith("-") and words[end] != "!":
        end += 1
    return end - position


def _verdict(target: str, word: str) -> list[dict[str, Any]]:
    if target in VERDICTS:
        return [{VERDICTS[target]: None}]
    if target in TRANSLATIONS:
        return [{TRANSLATIONS[target]: None}]
    # Targets that decide nothing, such as LOG, look like chains that are not there: these end without a decision.
    return [{"goto" if word == "-g" else "jump": {"target": target}}]


def _match(word: str, value: str, negated: bool) -> dict[str, Any]:
    right: Any = value
    if word in ("--dport", "--dports"):
        right = [_port(part) for part in value.split(",")]
    elif word in ("--ctstate", "--state"):
        right = [state.lower() for state in value.split(",")]
    elif word in ("-i", "-o"):
        right = value[:-1] + "*" if value.endswith("+") else value
    elif word in ("-s", "-d"):
        address, _slash, length = value.partition("/")
        right = {"prefix": {"addr": address, "len": int(length)}} if length.isdigit() else address
    operator = "!=" if negated else "in" if isinstance(right, list) else "=="
    return {"match": {"op": operator, "left": FIELDS[word], "right": right}}


def _port(text: str) -> Any:
    low, colon, high = text.partition(":")
    if not colon:
        return int(low) if low.isdigit() else low
    return {"range": [int(low or 0), int(high or 65535)]}
