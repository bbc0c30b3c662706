# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What programs on the hosts say."""

from __future__ import annotations

import json

from ansible_collections.homelab.peer_relay.plugins.module_utils import relay, relay_probe
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall import firewalld, nft, ufw
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import Port
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard import wg, wg_quick

from targets.disk import STATUS
from targets.network import FROM_RELAY, REAL, RELAY, TO_RELAY
from targets.target import JSON_WORDS, Target


def relay_answers(data: bytes) -> None:
    relay.query(lambda *words: (0, data.decode(errors="replace"), ""))


def wg_dump(data: bytes) -> None:
    wg.parse_dump(data.decode(errors="replace"))


def wg_endpoint(data: bytes) -> None:
    wg.parse_endpoint(data.decode(errors="replace"))


def probe_answer(data: bytes) -> None:
    """What comes back for a probe that a device carried."""
    index = relay_probe.answered(data, RELAY.public)
    assert index is None or 0 <= index < 2**32


def route_json(data: bytes) -> None:
    assert isinstance(relay_probe.read_route(data.decode(errors="replace")), str)


def wg_quick_file(data: bytes) -> None:
    wg_quick.read_back(data.decode(errors="replace"))


PACKETS = [
    nft.Packet("udp", 40000),
    nft.Packet("tcp", None),
    nft.Packet("udp", 40000, "192.168.1.10", translated=True),
]


def nft_json(data: bytes) -> None:
    ruleset = nft.parse_ruleset(data.decode(errors="replace"))
    for chain in ruleset.base_chains("input"):
        for packet in PACKETS:
            nft.fate(ruleset, chain, packet)


def ufw_rules(data: bytes) -> None:
    rules = ufw.parse_rules(data.decode(errors="replace"))
    ufw.fate(ufw.Ufw(True, rules, True), rules, Port("udp", 40000, ""))


def firewalld_blocks(data: bytes) -> None:
    firewalld.parse_blocks(data.decode(errors="replace"))


KEY = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
DUMP = (
    f"{KEY}\t{KEY}\t51820\toff\n"
    f"{KEY}\t(none)\t192.0.2.1:40000\t10.77.0.1/32,fd77::1/128\t1700000000\t100\t200\t25\n"
    f"{KEY}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
)
QUICK = f"""[Interface]
Address = 10.77.0.2/32, fd77::2/128
ListenPort = 51820
MTU = 1420
PostUp = wg set %i private-key /etc/wireguard/%i.key
[Peer]
PublicKey = {KEY}
Endpoint = [2001:db8::1]:40000
AllowedIPs = 10.77.0.1/32, 0.0.0.0/0
PersistentKeepalive = 25
"""
_MATCH = {"left": {"payload": {"protocol": "udp", "field": "dport"}}, "op": "==", "right": {"set": [40000, [1, 2]]}}
RULESET = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {
            "chain": {
                "family": "inet",
                "table": "filter",
                "name": "input",
                "handle": 1,
                "type": "filter",
                "hook": "input",
                "prio": 0,
                "policy": "drop",
            }
        },
        {"chain": {"family": "inet", "table": "filter", "name": "other", "handle": 2}},
        {"set": {"family": "inet", "table": "filter", "name": "ports", "elem": [40000, {"range": [1, 9]}]}},
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "input",
                "handle": 3,
                "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new"]}}, {"accept": None}],
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "input",
                "handle": 4,
                "expr": [{"match": _MATCH}, {"jump": {"target": "other"}}],
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "other",
                "handle": 5,
                "expr": [
                    {"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["udp", {"drop": None}]]}}},
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                            "right": "@ports",
                        }
                    },
                    {"reject": {"type": "icmp"}},
                ],
            }
        },
    ]
}
UFW = b"""Added user rules (see 'ufw status' for running firewall):
ufw allow 22/tcp
ufw limit from 192.0.2.0/24 to any port 40000 proto udp comment 'peer_relay'
ufw deny in on eth0 to any app OpenSSH
ufw allow out 53
ufw reject 1000:2000/udp
"""
FIREWALLD = b"""public (active)
  target: default
  interfaces: eth0
  services: dhcpv6-client ssh
  ports: 40000/udp 1000-2000/tcp
  rich rules:
\trule family="ipv4" source address="192.0.2.0/24" drop

home
  target: ACCEPT
"""

TARGETS = {
    "relay_answers": Target(
        relay_answers, (relay.RelayError,), [json.dumps(STATUS | {"findings": []}).encode()], JSON_WORDS
    ),
    "wg_dump": Target(wg_dump, (wg.WireGuardError,), [DUMP.encode()], [b"\t", b"\n", b"(none)", b"off", b"[::1]:1"]),
    "wg_endpoint": Target(wg_endpoint, (wg.WireGuardError,), [b"192.0.2.1:40000", b"[2001:db8::1]:1", b"a.b:2"]),
    "probe_answer": Target(probe_answer, (), [FROM_RELAY["response"], TO_RELAY["response"], REAL[-1]]),
    "ip_route": Target(
        route_json, (relay_probe.ProbeError,), [b'[{"dst":"192.0.2.1","dev":"eth0","flags":[]}]'], JSON_WORDS
    ),
    "wg_quick": Target(wg_quick_file, (wg.WireGuardError, ValueError), [QUICK.encode()], [b"[Peer]\n", b" = ", b"\n"]),
    "nft": Target(nft_json, (nft.RulesetError,), [json.dumps(RULESET).encode()], [b'"udp"', b'"@ports"', *JSON_WORDS]),
    "ufw": Target(ufw_rules, (), [UFW], [b"ufw ", b" to ", b" from ", b" any", b" port ", b"/", b":", b",", b"'"]),
    "firewalld": Target(firewalld_blocks, (), [FIREWALLD], [b"  ", b": ", b"\n", b"ports: ", b"-", b"/udp"]),
}
