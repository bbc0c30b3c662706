# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk through an nftables ruleset, on expressions as nft 1.0.6 prints them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import (
    Packet,
    Ruleset,
    RulesetError,
    fate,
    parse_ruleset,
)
from hypothesis import given
from hypothesis import strategies as st

UDP = Packet("udp", 40000)
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def payload(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def state(right: Any, op: str = "in") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": right}}


def vmap(key: dict[str, Any], *entries: list[Any]) -> dict[str, Any]:
    return {"vmap": {"key": key, "data": {"set": list(entries)}}}


def listing(*rules: list[Any], policy: str = "accept", family: str = "inet", **chains: list[list[Any]]) -> str:
    """What nft prints for an input chain with these rules, and other chains by name."""
    where = {"family": family, "table": "filter"}
    items: list[Any] = [{"metainfo": {"json_schema_version": 1}}, {"table": {"family": family, "name": "filter"}}]
    items.append({"chain": {**where, "name": "input", "hook": "input", "prio": 0, "type": "filter", "policy": policy}})
    items += [{"chain": {**where, "name": name}} for name in chains]
    handle = 10
    for name, exprs_list in [("input", list(rules)), *chains.items()]:
        for exprs in exprs_list:
            handle += 1
            items.append({"rule": {**where, "chain": name, "handle": handle, "expr": exprs}})
    return json.dumps({"nftables": items})


def input_fate(*rules: list[Any], packet: Packet = UDP, **more: Any) -> tuple[str, int]:
    ruleset = parse_ruleset(listing(*rules, **more))
    return tuple(fate(ruleset, ruleset.base_chains("input")[0], packet))


@pytest.mark.parametrize(
    "exprs",
    [
        [DROP],
        [{"counter": {"packets": 0, "bytes": 0}}, {"log": {"prefix": "x"}}, {"reject": None}],
        [{"xt": {"type": "target", "name": "REJECT"}}],
        [{"xt": None}],  # a target of iptables, as nft 1.0.2 prints it
        [meta("iifname", "eth0"), DROP],
        [meta("iifname", "lo", "!="), DROP],
        [meta("l4proto", "udp"), DROP],
        [meta("l4proto", {"set": ["tcp", 17]}), DROP],
        [payload("ip", "protocol", "udp"), DROP],
        [payload("ip", "saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}, "!="), DROP],
        [payload("udp", "dport", {"range": [1024, 65535]}), DROP],
        [payload("udp", "dport", {"set": [53, {"range": [39000, 41000]}]}), DROP],
        [payload("udp", "dport", 53, "!="), DROP],
        [payload("th", "dport", 40000), DROP],
        [state(["new", "untracked"]), DROP],
        [state("established", "!="), DROP],
        [vmap({"meta": {"key": "l4proto"}}, ["udp", DROP])],
        [vmap({"concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]},
              [{"concat": ["udp", 40000]}, DROP])],
        [{"jump": {"target": "walls"}}],
        [{"goto": {"target": "walls"}}],
    ],
    ids=str,
)  # fmt: skip
def test_what_drops_strangers(exprs: list[Any]) -> None:
    assert input_fate([meta("l4proto", "icmp"), ACCEPT], exprs, walls=[[DROP]]) == ("drop", 1)


@pytest.mark.parametrize(
    "exprs",
    [
        [meta("iif", "lo"), DROP],
        [meta("l4proto", "tcp"), DROP],
        [payload("tcp", "dport", 40000), DROP],
        [payload("icmp", "type", "echo-request"), DROP],
        [payload("udp", "dport", 53), DROP],
        [payload("udp", "dport", {"range": [1, 1023]}), DROP],
        [payload("ip", "saddr", "@bans"), DROP],
        [payload("ip6", "saddr", "2001:db8::1"), DROP],
        [state("invalid"), DROP],
        [{"limit": {"rate": 10, "per": "second", "inv": True}}, DROP],
        [{"xt": {"type": "match", "name": "set"}}, DROP],
        [{"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": False}}, DROP],
        [{"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin"]]},
                    "right": ["fin"]}}, DROP],
        [vmap({"ct": {"key": "state"}}, ["established", ACCEPT], ["invalid", DROP])],
        [payload("ip", "saddr", "192.0.2.1"), {"jump": {"target": "walls"}}],
        [{"jump": {"target": "services"}}],
        [{"jump": {"target": "loop"}}],
        [{"jump": {"target": "missing"}}],
    ],
    ids=str,
)  # fmt: skip
def test_what_leaves_strangers_alone(exprs: list[Any]) -> None:
    services = [[payload("tcp", "dport", 22), ACCEPT], [{"return": None}], [DROP]]
    loop = [[{"jump": {"target": "loop"}}]]
    assert input_fate(exprs, walls=[[DROP]], services=services, loop=loop) == ("accept", 1)
    assert input_fate(exprs, policy="drop", walls=[[DROP]], services=services, loop=loop) == ("drop", 1)


def test_an_accept_counts_only_when_it_lets_everybody_in() -> None:
    port = payload("udp", "dport", 40000)
    assert input_fate([port, ACCEPT], policy="drop") == ("accept", 0)
    assert input_fate([meta("iifname", "eth0"), port, ACCEPT], policy="drop") == ("drop", 1)
    assert input_fate([payload("ip", "saddr", "192.0.2.1"), port, ACCEPT], policy="drop") == ("drop", 1)


def test_a_port_that_no_rule_speaks_of() -> None:
    rules = [[payload("udp", "dport", 40000), ACCEPT], [payload("udp", "dport", 53), DROP]]
    assert input_fate(*rules, packet=Packet("udp", None)) == ("accept", 2)
    assert input_fate(*rules, packet=Packet("udp", None), policy="drop") == ("drop", 2)
    assert input_fate([payload("udp", "dport", 53, "!="), DROP], packet=Packet("udp", None)) == ("drop", 0)


def test_a_likely_return_from_a_chain_whose_policy_drops() -> None:
    rules = [[meta("iifname", "eth0"), {"return": None}], [ACCEPT]]
    assert input_fate(*rules, policy="drop") == ("drop", 0)
    assert input_fate(*rules) == ("accept", 1)


def test_named_sets_and_maps() -> None:
    text = json.loads(listing([payload("udp", "dport", "@ports"), DROP]))
    for elements, verdict in [([53, {"elem": {"val": 40000, "timeout": 9}}], "drop"), ([53], "accept")]:
        ports = {"set": {"family": "inet", "table": "filter", "name": "ports", "type": "x", "elem": elements}}
        ruleset = parse_ruleset(json.dumps({"nftables": [*text["nftables"], ports]}))
        assert fate(ruleset, ruleset.base_chains("input")[0], UDP).verdict == verdict


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"nftables": 1}', '{"nftables": [{"rule": {}}]}', "[" * 9999]
)
def test_what_is_not_a_ruleset(text: str) -> None:
    with pytest.raises(RulesetError, match="nft -j list ruleset"):
        parse_ruleset(text)


WORDS = [
    *("match", "op", "left", "right", "payload", "protocol", "field", "meta", "key", "ct", "set", "elem", "val"),
    *("range", "concat", "&", "vmap", "data", "xt", "jump", "goto", "target", "accept", "drop", "return"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["udp", "lo", "new", "@s", "input", "dport", "x"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=12,
)


STATEMENTS = st.dictionaries(st.sampled_from(["match", "vmap", "xt", "jump", "drop"]), JSON, max_size=2)


@given(st.lists(st.lists(STATEMENTS, max_size=3), max_size=3))
def test_any_expression_has_a_fate(rules: list[Any]) -> None:
    ruleset = parse_ruleset(listing(*rules))
    assert fate(ruleset, ruleset.base_chains("input")[0], UDP).verdict in ("accept", "drop")


@given(JSON)
def test_any_json_is_a_ruleset_or_an_error(value: Any) -> None:
    with suppress(RulesetError):
        assert isinstance(parse_ruleset(json.dumps({"nftables": value})), Ruleset)
