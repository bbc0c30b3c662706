# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules a Linux router needs to forward ports, and what is not ours to change."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall import conntrack, nft_forwards
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import Ruleset, parse_ruleset
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_forwards import (
    make_plan,
    make_request,
    refuse_what_others_hold,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_plan import (
    make_plan as make_input_plan,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_plan import read_ruleset
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import (
    CommandError,
    FirewallError,
    Port,
)
from ansible_collections.homelab.peer_relay.plugins.modules import nftables_forwards

TAG = "homelab.peer_relay: relay"
DROP = [{"drop": None}]
FORWARD = {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 51820, "families": ["ipv4", "ipv6"]}
SETTINGS = {
    "forwards": [FORWARD],
    "address": "192.168.1.10",
    "address6": "2001:db8::10",
    "wan": "ppp0",
    "hairpin": True,
}
REQUEST = make_request(SETTINGS)
NOTHING = make_request({**SETTINGS, "forwards": []})
IPV4_RULE = f'ip daddr 192.168.1.10 udp dport 40000 ct status dnat accept comment "{TAG}"'
IPV6_RULE = f'ip6 daddr 2001:db8::10 udp dport 40000 accept comment "{TAG}"'


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str, right: Any) -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right)


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def fib(flags: Any, op: str = "==") -> dict[str, Any]:
    return match({"fib": {"result": "type", "flags": flags}}, "local", op)


DNAT_STATUS = match({"ct": {"key": "status"}}, "dnat", "in")
DNAT = {"dnat": {"addr": "192.168.1.10", "port": 40000}}
ACCEPT_IPV4 = [payload("ip", "daddr", "192.168.1.10"), payload("udp", "dport", 40000), DNAT_STATUS, {"accept": None}]
ACCEPT_IPV6 = [payload("ip6", "daddr", "2001:db8::10"), payload("udp", "dport", 40000), {"accept": None}]


def chain(where: str, *rules: Any, hook: str = "forward", policy: str = "accept") -> list[Any]:
    """A base chain with rules, each expressions or (expressions, comment); their handles count from 1."""
    family, table, name = where.split()
    head = {"family": family, "table": table, "name": name, "hook": hook, "type": "filter", "prio": 0, "policy": policy}
    pairs = [rule if isinstance(rule, tuple) else (rule, "") for rule in rules]
    where_rule = {"family": family, "table": table, "chain": name}
    return [
        {"chain": head},
        *(
            {"rule": {**where_rule, "handle": handle, "expr": exprs, "comment": comment}}
            for handle, (exprs, comment) in enumerate(pairs, 1)
        ),
    ]


def ruleset(*chains: list[Any]) -> Ruleset:
    return parse_ruleset(json.dumps({"nftables": [item for items in chains for item in items]}))


# As nft 1.0.6 lists the table; other versions print a single flag as a list.
def own_table(near: Any = "daddr") -> list[Any]:
    outside = [meta("iifname", "ppp0"), fib(near), payload("udp", "dport", 51820), DNAT]
    inside = [
        meta("iifname", "ppp0", "!="),
        fib(near),
        fib(["daddr", "iif"], "!="),
        payload("udp", "dport", 51820),
        DNAT,
    ]
    back = [meta("iifname", "ppp0", "!="), *ACCEPT_IPV4[:3], {"masquerade": None}]
    out = [meta("oifname", "ppp0"), payload("ip", "saddr", "192.168.1.10"), payload("udp", "sport", 40000)]
    table = "ip peer_relay_forwards"
    return [
        *chain(f"{table} prerouting", (outside, TAG), (inside, TAG), hook="prerouting"),
        *chain(f"{table} postrouting", ([*out, {"masquerade": {"port": 51820}}], TAG), (back, TAG), hook="postrouting"),
    ]


def test_the_table_is_made_where_it_is_missing_and_goes_when_it_is_of_no_use() -> None:
    plan = make_plan(ruleset(), REQUEST)
    assert plan.statements[:2] == ("table ip peer_relay_forwards {}", "delete table ip peer_relay_forwards")
    assert 'iifname "ppp0" fib daddr type local udp dport 51820 dnat to 192.168.1.10:40000' in plan.statements[2]
    assert len(plan.statements) == 3  # nothing drops, so nobody's chain needs a rule
    assert make_plan(ruleset(own_table()), NOTHING).statements == plan.statements[:2]
    assert not make_plan(ruleset(), NOTHING).changed


@pytest.mark.parametrize("near", ["daddr", ["daddr"]])
def test_a_table_that_is_as_it_has_to_be_stays(near: Any) -> None:
    assert not make_plan(ruleset(own_table(near)), REQUEST).changed
    assert make_plan(ruleset(own_table(near)), REQUEST._replace(wan="eth0")).changed
    assert make_plan(ruleset(own_table(near)), REQUEST._replace(hairpin=False)).changed
    assert make_plan(ruleset(own_table(near)[:-1]), REQUEST).changed


def test_a_rule_goes_before_what_drops_in_every_forward_chain() -> None:
    theirs = chain("inet filter forward", [meta("iifname", "ppp0"), *DROP])
    by_policy = chain(
        "ip old forward", [meta("iifname", "lan"), meta("oifname", "ppp0"), {"accept": None}], policy="drop"
    )
    inbound = chain("inet filter input", DROP, hook="input")
    plan = make_plan(ruleset(own_table(), theirs, by_policy, inbound), REQUEST)
    assert plan.statements == (
        f"insert rule inet filter forward handle 1 {IPV4_RULE}",
        f"insert rule inet filter forward handle 1 {IPV6_RULE}",
        f"add rule ip old forward {IPV4_RULE}",
    )


def test_a_rule_that_is_there_stays_until_nobody_needs_it() -> None:
    theirs = chain("inet filter forward", (ACCEPT_IPV4, TAG), (ACCEPT_IPV6, TAG), DROP)
    assert not make_plan(ruleset(own_table(), theirs), REQUEST).changed
    gone = make_plan(ruleset(theirs), NOTHING)
    assert gone.statements == ("delete rule inet filter forward handle 1", "delete rule inet filter forward handle 2")
    # The rules of the host's own ports are in other chains, and neither touches the other's.
    assert not make_input_plan(ruleset(theirs), [Port("udp", 40000, "relay")], None).changed


@pytest.mark.parametrize(
    "expressions",
    [
        [DNAT_STATUS, {"accept": None}],
        [payload("ip", "daddr", "192.168.1.10"), {"accept": None}],
        [payload("ip", "daddr", {"prefix": {"addr": "192.168.1.0", "len": 24}}), {"accept": None}],
        [payload("ip", "daddr", {"set": ["10.0.0.1", {"range": ["192.168.1.1", "192.168.1.99"]}]}), {"accept": None}],
        [meta("nfproto", "ipv4"), payload("udp", "dport", 40000), {"accept": None}],
    ],
)
def test_what_somebody_lets_through_needs_no_rule(expressions: list[Any]) -> None:
    ipv4_only = make_request({**SETTINGS, "forwards": [{**FORWARD, "families": ["ipv4"]}]})
    assert not make_plan(ruleset(own_table(), chain("inet filter forward", expressions, DROP)), ipv4_only).changed


@pytest.mark.parametrize(
    "expressions",
    [
        [payload("ip", "daddr", "192.168.1.11"), {"accept": None}],
        [payload("ip", "daddr", {"prefix": {"addr": "2001:db8::", "len": 32}}), {"accept": None}],
        [payload("ip", "daddr", {"prefix": {"addr": "192.168.1.0", "len": 99}}), {"accept": None}],
        [payload("ip", "daddr", {"range": ["192.168.1.10"]}), {"accept": None}],
        [meta("nfproto", "ipv6"), {"accept": None}],
        [match({"ct": {"key": "status"}}, "dnat", "!="), {"accept": None}],
    ],
)
def test_what_lets_others_through_does_not_count(expressions: list[Any]) -> None:
    ipv4_only = make_request({**SETTINGS, "forwards": [{**FORWARD, "families": ["ipv4"]}]})
    plan = make_plan(ruleset(own_table(), chain("inet filter forward", expressions, DROP)), ipv4_only)
    assert plan.statements == (f"insert rule inet filter forward handle 2 {IPV4_RULE}",)


def test_a_port_that_somebody_forwards_already_is_refused() -> None:
    elsewhere = [payload("udp", "dport", 51820), {"dnat": {"addr": "192.168.1.77"}}]
    held = ruleset(chain("ip nat prerouting", [meta("iifname", "ppp0"), *elsewhere], hook="prerouting"))
    with pytest.raises(FirewallError, match=re.escape("ip nat prerouting already sends 51820/udp somewhere (rule 1)")):
        refuse_what_others_hold(held, REQUEST, "198.51.100.21")
    by_address = ruleset(
        chain("ip nat prerouting", [payload("ip", "daddr", "198.51.100.21"), *elsewhere], hook="prerouting")
    )
    with pytest.raises(FirewallError):
        refuse_what_others_hold(by_address, REQUEST, "198.51.100.21")
    refuse_what_others_hold(by_address, REQUEST, "198.51.100.22")
    refuse_what_others_hold(ruleset(own_table()), REQUEST, "198.51.100.21")
    refuse_what_others_hold(held, NOTHING, "")


def test_a_chain_of_ufw_that_drops_is_refused() -> None:
    ufw = chain("ip filter FORWARD", [{"jump": {"target": "ufw-before-forward"}}], policy="drop")
    with pytest.raises(FirewallError, match=r"belongs to ufw: let 40000/udp of 192\.168\.1\.10"):
        refuse_what_others_hold(ruleset(ufw), REQUEST, "198.51.100.21")


def test_a_chain_of_iptables_is_written_by_iptables() -> None:
    items = chain("ip filter FORWARD", [{"xt": None}, {"accept": None}], [{"xt": None}], policy="drop")
    listing = (
        "-P FORWARD DROP\n"
        "-A FORWARD -d 192.168.1.10/32 -p udp -m udp --dport 40000 -m conntrack --ctstate DNAT "
        f'-m comment --comment "{TAG}" -j ACCEPT\n-A FORWARD -j REJECT\n'
    )

    def run(argv: list[str], stdin: str = "") -> str:
        if argv[0] == "nft":
            return json.dumps({"nftables": own_table() + items})
        if argv == ["iptables-nft", "-w", "-S", "FORWARD"]:
            return listing
        raise CommandError(f"{argv[0]} is not installed")

    assert not make_plan(read_ruleset(run), REQUEST).changed
    moved = make_plan(read_ruleset(run), REQUEST._replace(address="192.168.1.11"))
    assert [command[2:5] for command in moved.commands] == [["-D", "FORWARD", "1"], ["-I", "FORWARD", "1"]]
    assert moved.commands[1][5:7] == ["-d", "192.168.1.11/32"]


def test_connections_of_before_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a kernel was recorded to say of a connection from 192.168.1.20 to 198.51.100.21, UDP port 51820."""
    orig = bytes.fromhex(
        "1400018008000100c0a8011408000200c6336415"  # the addresses
        "1c000280050001001100000006000200c350000006000300ca6c0000"  # the protocol and the ports
    )
    found = conntrack.read_connection(struct.pack("=HH", 4 + len(orig), 0x8001) + orig)
    assert found == conntrack.Connection("udp", "198.51.100.21", 51820, orig)
    asked = []
    monkeypatch.setattr(nft_forwards, "forget_connections", asked.append)
    own = [{"addr_info": [{}, {"local": "198.51.100.21"}, {"local": "192.168.1.1"}]}]
    nft_forwards.bring_in(lambda argv, stdin="": json.dumps(own), make_plan(ruleset(), REQUEST))
    (matches,) = asked
    assert matches(found)
    assert not matches(found._replace(destination="203.0.113.5"))  # of somebody behind the router, to elsewhere
    assert not matches(found._replace(port=40000))
    assert not matches(found._replace(protocol="tcp"))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00\x00\x00\x00", b"\xff\xff\x01\x80" + bytes(9)])
def test_a_message_that_names_no_connection(data: bytes) -> None:
    assert conntrack.read_connection(data) is None


def test_the_way_outside_is_that_of_the_best_default_route() -> None:
    routes = [{"dev": "wwan0", "metric": 700}, {"dev": "ppp0", "metric": 100}, {"nexthops": []}]
    assert nftables_forwards.default_interface(lambda argv: json.dumps(routes)) == "ppp0"
    with pytest.raises(FirewallError, match="no default route"):
        nftables_forwards.default_interface(lambda argv: "[]")
    links = [{"addr_info": [{}, {"local": "198.51.100.21"}]}]
    assert nftables_forwards.address_of(lambda argv: json.dumps(links), "ppp0") == "198.51.100.21"
    assert nftables_forwards.address_of(lambda argv: "[]", "ppp0") == ""
