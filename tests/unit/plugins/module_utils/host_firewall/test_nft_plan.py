# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules go into an nftables ruleset, where, and by which program."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import Ruleset, parse_ruleset
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_plan import (
    blocking_chains,
    dropping_chains,
    make_plan,
    read_ruleset,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import CommandError, Port

RELAY = Port("udp", 40000, "relay")
TLS = Port("tcp", 443, "fallback")
SSH = Port("tcp", 22, "SSH")
DROP: dict[str, Any] = {"drop": None}
RELAY_TEXT = 'udp dport 40000 accept comment "homelab.peer_relay: relay"'


def admit(port: Port) -> list[Any]:
    left = {"payload": {"protocol": port.protocol, "field": "dport"}}
    return [{"match": {"op": "==", "left": left, "right": port.port}}, {"accept": None}]


def items(
    *rules: tuple[Any, ...], policy: str = "accept", chain: str = "inet filter input", hook: str = "input"
) -> list[Any]:
    """A base chain with rules, each (handle, expressions) or (handle, expressions, comment)."""
    family, table, name = chain.split()
    where = {"family": family, "table": table}
    head = {"chain": {**where, "name": name, "hook": hook, "type": "filter", "prio": 0, "policy": policy}}
    return [
        {"table": {"family": family, "name": table}},
        head,
        *(
            {"rule": {**where, "chain": name, "handle": rule[0], "expr": rule[1], "comment": "".join(rule[2:])}}
            for rule in rules
        ),
    ]


def ruleset(*chains: list[Any]) -> Ruleset:
    return parse_ruleset(json.dumps({"nftables": [item for chain in chains for item in chain]}))


def test_a_rule_goes_before_the_one_that_drops_or_to_the_end() -> None:
    by_rule = items((5, admit(SSH)), (6, [DROP]), chain="ip guard input")
    by_policy = items((7, admit(SSH)), policy="drop")
    plan = make_plan(ruleset(by_rule, by_policy, items(chain="ip6 open input")), [RELAY], None)
    assert plan.statements == (
        f"insert rule ip guard input handle 6 {RELAY_TEXT}",
        f"add rule inet filter input {RELAY_TEXT}",
    )
    assert plan.found == (
        "ip guard input drops 40000/udp: rule 2 of 2, handle 6",
        "inet filter input drops 40000/udp: policy drop",
    )


def test_a_rule_that_is_there_stays() -> None:
    plan = make_plan(ruleset(items((5, admit(RELAY), RELAY.tag), (6, [DROP]))), [RELAY], None)
    assert not plan.changed
    assert plan.before == plan.after == (f"inet filter input: {RELAY_TEXT}",)


def test_a_rule_behind_a_new_drop_moves_before_it() -> None:
    plan = make_plan(ruleset(items((6, [DROP]), (5, admit(RELAY), RELAY.tag))), [RELAY], None)
    assert plan.statements == (
        "delete rule inet filter input handle 5",
        f"insert rule inet filter input handle 6 {RELAY_TEXT}",
    )


def test_a_second_copy_and_a_changed_rule_go() -> None:
    rules = [(1, admit(RELAY), RELAY.tag), (2, admit(RELAY), RELAY.tag), (3, [DROP], RELAY.tag)]
    plan = make_plan(ruleset(items(*rules, policy="drop")), [RELAY], None)
    assert plan.statements == ("delete rule inet filter input handle 2", "delete rule inet filter input handle 3")


def test_a_port_that_somebody_lets_in_needs_no_rule() -> None:
    assert not make_plan(ruleset(items((5, admit(RELAY)), policy="drop")), [RELAY], None).changed


def test_removal_tells_which_ports_it_closes() -> None:
    open_by_us = items((5, admit(SSH), SSH.tag), policy="drop")
    plan = make_plan(ruleset(open_by_us), [], None)
    assert plan.statements == ("delete rule inet filter input handle 5",)
    assert plan.closed_ports == (SSH,)
    open_anyway = items((5, admit(SSH), SSH.tag), (6, admit(SSH)), policy="drop")
    assert make_plan(ruleset(open_anyway), [], None).closed_ports == ()


def test_chains_of_ufw_and_firewalld_are_theirs() -> None:
    ufw = items((5, [{"jump": {"target": "ufw-before-input"}}]), policy="drop", chain="ip filter INPUT")
    firewalld = items((5, [{"reject": None}]), chain="inet firewalld filter_INPUT")
    plan = make_plan(ruleset(ufw, firewalld), [RELAY], None)
    assert not plan.changed
    assert [str(chain) for chain in blocking_chains(ruleset(ufw, firewalld), [])] == [
        "ip filter INPUT",
        "inet firewalld filter_INPUT",
    ]


def test_other_hooks_are_told_apart() -> None:
    rules = ruleset(
        items(policy="drop", chain="inet filter forward", hook="forward"), items((5, [DROP]), hook="prerouting")
    )
    assert blocking_chains(rules, [RELAY]) == []
    assert [str(chain) for chain in dropping_chains(rules, [RELAY], "prerouting")] == ["inet filter input"]


def test_our_own_chain() -> None:
    plan = make_plan(ruleset(), [RELAY], [SSH])
    assert plan.statements[:2] == ("table inet peer_relay_firewall {}", "delete table inet peer_relay_firewall")
    assert "policy drop" in plan.statements[2]
    assert 'tcp dport 22 accept comment "homelab.peer_relay: SSH"' in plan.statements[2]
    assert RELAY_TEXT in plan.statements[2]
    fixed: list[Any] = [(handle, [{"accept": None}]) for handle in range(5)]
    ours = [(6, admit(SSH), SSH.tag), (7, admit(RELAY), RELAY.tag)]
    there = ruleset(items(*fixed, *ours, policy="drop", chain="inet peer_relay_firewall input"))
    assert not make_plan(there, [RELAY], [SSH]).changed
    assert make_plan(there, [RELAY, TLS], [SSH]).changed
    assert make_plan(there, [], None).statements == ("delete table inet peer_relay_firewall",)
    without_a_rule = ruleset(items(*fixed[1:], *ours, policy="drop", chain="inet peer_relay_firewall input"))
    assert make_plan(without_a_rule, [RELAY], [SSH]).changed


IPTABLES = items(
    (2, [{"xt": {"type": "match", "name": "conntrack"}}, {"accept": None}]),
    (3, [admit(RELAY)[0], {"xt": {"type": "match", "name": "comment"}}, {"counter": None}, {"accept": None}]),
    (4, [{"counter": None}, {"xt": {"type": "target", "name": "REJECT"}}]),
    chain="ip filter INPUT",
)
IPTABLES_LISTING = """\
-P INPUT ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p udp -m udp --dport 40000 -m comment --comment "homelab.peer_relay: relay" -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
"""
PROGRAM = ["iptables-nft", "-w"]


def read(listing: str | None, chain: list[Any] = IPTABLES) -> Ruleset:
    def run(argv: list[str], stdin: str = "") -> str:
        if argv[0] == "nft":
            return json.dumps({"nftables": chain})
        if listing is None:
            raise CommandError("iptables-nft is not installed")
        return listing

    return read_ruleset(run)


def test_rules_of_iptables_are_known_by_its_own_listing() -> None:
    assert not make_plan(read(IPTABLES_LISTING), [RELAY], None).changed
    plan = make_plan(read(IPTABLES_LISTING), [], None)
    assert plan.commands == ([*PROGRAM, "-D", "INPUT", "2"],)
    assert plan.closed_ports == (RELAY,)


def test_rules_of_iptables_are_inserted_by_number() -> None:
    plan = make_plan(read(IPTABLES_LISTING), [TLS, SSH], None)
    assert [command[:5] for command in plan.commands] == [
        [*PROGRAM, "-D", "INPUT", "2"],
        [*PROGRAM, "-I", "INPUT", "2"],
        [*PROGRAM, "-I", "INPUT", "3"],
    ]
    assert plan.commands[1][5:] == [
        *("-p", "tcp", "-m", "tcp", "--dport", "443"),
        *("-m", "comment", "--comment", "homelab.peer_relay: fallback", "-j", "ACCEPT"),
    ]


def test_a_rule_of_iptables_that_somebody_changed_is_made_anew() -> None:
    plan = make_plan(read(IPTABLES_LISTING.replace("40000", "40000:40010")), [RELAY], None)
    assert [command[2:5] for command in plan.commands] == [["-D", "INPUT", "2"], ["-I", "INPUT", "2"]]


def test_without_iptables_its_chain_is_an_ordinary_one() -> None:
    for listing in (None, "-P INPUT ACCEPT\n"):  # not installed; a listing of other tables (the legacy variant)
        plan = make_plan(read(listing, items((6, [DROP]), chain="ip filter INPUT")), [RELAY], None)
        assert plan.statements == (f"insert rule ip filter INPUT handle 6 {RELAY_TEXT}",)
