# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ufw: what its rules do with strangers, and which commands open the relay's port."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import FirewallError, Plan, Port
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.ufw import Ufw, make_plan, parse_rules
from hypothesis import given
from hypothesis import strategies as st

RELAY = Port("udp", 40000, "relay")
OURS = "ufw allow 40000/udp comment 'homelab.peer_relay: relay'"
ALLOW = ["ufw", "allow", "40000/udp", "comment", "homelab.peer_relay: relay"]
DELETE = ["ufw", "--force", "delete", "allow", "40000/udp"]


def plan(*lines: str, ports: tuple[Port, ...] = (RELAY,), ssh: tuple[int, ...] = ()) -> Plan:
    listing = "\n".join(["Added user rules (see 'ufw status' for running firewall):", *lines])
    return make_plan(Ufw(True, parse_rules(listing), drops=True), list(ports), list(ssh))


@pytest.mark.parametrize(
    "line",
    [
        "(None)",
        "ufw allow 22/tcp",
        "ufw allow OpenSSH",
        "ufw allow 40000/tcp",
        "ufw allow 40001:40010/udp",
        "ufw allow out 40000/udp",
        "ufw allow in on eth0 to any port 40000 proto udp",
        "ufw allow from 192.0.2.0/24 to any port 40000 proto udp",
        "ufw deny from 192.0.2.66",
        "ufw deny 53",
        "ufw route allow in on eth0 out on eth1",
        "ufw allow from any port 53 to any proto udp",
        "ufw allow 22/tcp comment 'it's broken'",
    ],
)
def test_the_port_is_added_at_the_end(line: str) -> None:
    assert plan(line).commands == (ALLOW,)


@pytest.mark.parametrize("line", ["ufw deny in on eth0", "ufw reject to any proto udp", "ufw deny 1024:65535/udp"])
def test_the_port_goes_before_a_rule_that_drops_it(line: str) -> None:
    assert plan(line).commands == (["ufw", "prepend", *ALLOW[1:]],)
    assert plan(line, OURS).commands == (DELETE, ["ufw", "prepend", *ALLOW[1:]])
    assert not plan(OURS, line).changed


@pytest.mark.parametrize("line", ["ufw allow 40000/udp", "ufw limit 40000", "ufw allow 39000:41000/udp"])
def test_a_rule_of_somebody_is_left_alone(line: str) -> None:
    assert not plan(line).changed
    assert plan(line).found == (f"40000/udp is open already: {line.removeprefix('ufw ')}",)
    assert not plan(line, ports=()).changed


def test_a_rule_that_closes_the_port_on_purpose_is_refused() -> None:
    with pytest.raises(FirewallError, match=r"deny 40000/udp.*ufw delete deny 40000/udp"):
        plan("ufw deny 40000/udp")


def test_the_second_time_and_removal() -> None:
    assert not plan(OURS).changed
    assert plan(OURS, ports=()).commands == (DELETE,)
    assert plan(OURS, ports=(Port("udp", 40001, "relay"),)).commands[0] == DELETE


def test_ssh_is_let_in_first_unless_it_is() -> None:
    assert plan(ssh=(2222,)).commands == (
        ["ufw", "allow", "2222/tcp", "comment", "SSH, allowed by homelab.peer_relay"],
        ALLOW,
    )
    for line in ("ufw allow OpenSSH", "ufw limit 22/tcp", "ufw allow 22"):
        assert plan(line, ssh=(22,)).commands == (ALLOW,)
    assert len(plan("ufw allow from 192.0.2.1 to any port 22 proto tcp", ssh=(22,)).commands) == 2


def test_removal_tells_which_ports_it_closes() -> None:
    ssh = "ufw allow 22/tcp comment 'homelab.peer_relay: SSH'"
    assert plan(ssh).closed_ports == (Port("tcp", 22, "SSH"),)
    assert plan(ssh, "ufw allow OpenSSH").closed_ports == ()


@given(st.lists(st.lists(st.sampled_from(
    ["ufw", "allow", "deny", "in", "out", "on", "from", "to", "any", "port", "proto", "udp", "40000/udp", "app",
     "comment", "'homelab.peer_relay: x'", "'", "log", "1:2"]
)).map(" ".join)))  # fmt: skip
def test_any_listing_has_a_plan(lines: list[str]) -> None:
    try:
        assert isinstance(plan(*lines), Plan)
    except FirewallError as error:
        assert "40000/udp" in str(error)
