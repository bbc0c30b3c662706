# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packet filters do with forwarded packets. The listings are what iptables-save prints on such hosts."""

from __future__ import annotations

import json

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall import netfilter
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.forwarding import (
    Forwarding,
    describe,
    programs_for,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import CommandError

# Images of a cloud.
REJECT = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
{rules}-A FORWARD -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""
OURS = """\
-A FORWARD -o pr0 -m comment --comment "homelab.peer_relay: pr0" -j ACCEPT
-A FORWARD -i pr0 -m comment --comment "homelab.peer_relay: pr0" -j ACCEPT
"""
SOMEBODYS = """\
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 10.77.0.0/16 -d 192.168.1.0/24 -i pr+ -j ACCEPT
"""
DOCKER = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
"""


def forwarding(save: str, *subnets: str, kind: str = "legacy", readable: bool = True) -> Forwarding:
    def run(argv: list[str], stdin: str = "") -> str:
        if argv[0] == "ip":
            return json.dumps([{"dev": "docker0" if argv[-1].startswith("172.17.") else "lan0"}])
        if argv == ["cat", "/proc/net/ip_tables_names"] and kind == "legacy":
            return "filter\nraw\n"
        if argv == [f"iptables-{kind}-save"] and readable:
            return save
        raise CommandError(f"{argv[0]} is not installed")

    return Forwarding(run, "pr0", ["10.77.0.0/16", "fd77::/64"], list(subnets))


@pytest.fixture(autouse=True)
def _no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netfilter, "nftables_tables", lambda: [("ip", "filter"), ("ip", "raw")])


@pytest.mark.parametrize("kind", ["legacy", "nft"])
@pytest.mark.parametrize("ours", ["", OURS])
def test_a_rule_at_the_end_drops_whatever_the_policy(kind: str, ours: str) -> None:
    """Ours, which the interface's file inserts, change nothing of that: they are to stay."""
    found = forwarding(REJECT.format(rules=ours), "192.168.1.0/24", kind=kind).obstacles()
    assert programs_for(found) == [f"iptables-{kind}"]
    (obstacle,) = found
    assert obstacle.way == "from pr0 to 192.168.1.1"


def test_what_somebody_lets_pass_is_no_obstacle() -> None:
    save = REJECT.format(rules=SOMEBODYS)
    assert forwarding(save, "192.168.1.0/24").obstacles() == []
    assert programs_for(forwarding(save, "192.168.2.0/24").obstacles()) == ["iptables-legacy"]


def test_answers_have_to_pass_as_well() -> None:
    save = REJECT.format(rules=SOMEBODYS.replace("RELATED,ESTABLISHED", "INVALID"))
    (obstacle,) = forwarding(save, "192.168.1.0/24").obstacles()
    assert obstacle.way == "from 192.168.1.1 to pr0" or obstacle.packet.established


def test_docker_keeps_others_from_the_addresses_of_its_containers() -> None:
    found = {obstacle.chain.name: obstacle for obstacle in forwarding(DOCKER, "172.17.0.0/16").obstacles()}
    assert set(found) == {"PREROUTING", "FORWARD"}
    told = describe(found["PREROUTING"], "pr0")
    assert "from pr0 to 172.17.0.2" in told
    assert "allow-direct-routing" in told
    lan = forwarding(DOCKER, "192.168.1.0/24").obstacles()
    assert [obstacle.chain.name for obstacle in lan] == ["FORWARD"], "the LAN is not Docker's"


@pytest.mark.parametrize("kind", ["legacy", "nft"])
def test_rules_that_no_program_reads_are_told(kind: str) -> None:
    found = forwarding(DOCKER, "192.168.1.0/24", kind=kind, readable=False)
    assert found.obstacles() == []
    expected = {"legacy": "iptables-legacy filter, raw", "nft": "nftables ip filter"}[kind]
    assert expected in found.ruleset.unseen
