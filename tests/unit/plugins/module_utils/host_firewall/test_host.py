# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which firewall is chosen, and what is refused for the sake of SSH."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.host import Decision, Host, Request
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import (
    CommandError,
    FirewallError,
    Port,
    valid_comment,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.ssh_ports import find_ssh_ports

RELAY = Port("udp", 40000, "relay")
LISTENERS = """\
LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* users:(("sshd",pid=1,fd=3))
LISTEN 0 128 [::]:2222 [::]:* users:(("sshd",pid=1,fd=4))
LISTEN 0 128 127.0.0.1:6010 0.0.0.0:* users:(("sshd",pid=9,fd=7))
LISTEN 0 128 *:80 *:* users:(("nginx",pid=2,fd=3))
"""
NFT_DROPS = """{"nftables": [{"table": {"family": "inet", "name": "filter"}}, {"chain": {"family": "inet",
"table": "filter", "name": "input", "hook": "input", "prio": 0, "type": "filter", "policy": "drop"}}]}"""
NFT = {"nft --version": "", "nft -j list ruleset": '{"nftables": []}'}
NFT_ON = {**NFT, "nft -j list ruleset": NFT_DROPS}
UFW = {
    "ufw --version": "",
    "ufw status verbose": "Status: inactive",
    "ufw show added": "Added user rules:\nufw allow 2222/tcp comment 'homelab.peer_relay: x'\n",
}
UFW_ON = {**UFW, "ufw status verbose": "Status: active\nDefault: deny (incoming), allow (outgoing)\n"}
FIREWALLD_ON = {
    "firewall-cmd --state": "running\n",
    "firewall-offline-cmd --version": "",
    "firewall-cmd --get-default-zone": "public\n",
    "firewall-cmd --permanent --list-all-zones": "public\n  services: ssh\n",
    "firewall-cmd --list-all-zones": "public\n  services: ssh\n",
}
SSHD = {"ss -Htlnp": LISTENERS}


def reconcile(outputs: dict[str, str], **request: Any) -> Decision:
    """The decision, in check mode, on a host where just these commands work."""

    def run(argv: list[str], stdin: str = "") -> str:
        if " ".join(argv) not in outputs:
            raise CommandError(f"{argv[0]} is not installed")
        return outputs[" ".join(argv)]

    defaults: dict[str, Any] = {"backend": "auto", "ports": [RELAY], "present": True, "enable": False, "zone": ""}
    defaults |= {"ssh_ports": [], "connection_port": None, "dry_run": True}
    return Host(run, Request(**(defaults | request))).reconcile()


@pytest.mark.parametrize(
    ("outputs", "backend"),
    [
        ({}, "none"),
        (NFT, "none"),
        (NFT | UFW, "none"),
        (NFT_ON | UFW, "nftables"),
        (NFT_ON | UFW_ON, "ufw"),
        (NFT_ON | UFW_ON | FIREWALLD_ON, "firewalld"),
    ],
)
def test_the_precedence(outputs: dict[str, str], backend: str) -> None:
    assert reconcile(outputs).backend == backend
    assert reconcile(outputs).changed == (backend != "none")


def test_another_firewall_that_drops_as_well_is_told() -> None:
    assert reconcile(NFT_ON | UFW_ON).warnings == [
        "the nftables chain inet filter input may drop 40000/udp as well; it is left alone"
    ]


def test_a_named_firewall_that_is_off_gets_its_rules_and_stays_off() -> None:
    decision = reconcile(NFT | UFW, backend="ufw")
    assert decision.changed
    assert not decision.active
    assert "ufw --force enable" not in decision.commands
    assert "off now" in decision.message


def test_turning_on_lets_ssh_in_first() -> None:
    commands = reconcile(NFT | UFW | SSHD, backend="ufw", enable=True).commands
    assert commands[-1] == "ufw --force enable"
    assert "ufw allow 2222/tcp comment 'SSH, allowed by homelab.peer_relay'" in commands
    decision = reconcile(NFT | SSHD, backend="nftables", enable=True)
    assert decision.own_chain
    assert 'tcp dport 2222 accept comment "homelab.peer_relay: SSH"' in decision.commands[-1]


@pytest.mark.parametrize("backend", ["nftables", "ufw"])
def test_turning_on_without_a_known_ssh_port_is_refused(backend: str) -> None:
    with pytest.raises(FirewallError, match="Set firewall_ssh_ports"):
        reconcile(NFT | UFW, backend=backend, enable=True, connection_port=22)


def test_turning_on_needs_a_name() -> None:
    with pytest.raises(FirewallError, match="set firewall_backend to nftables, ufw or firewalld"):
        reconcile(NFT | SSHD, enable=True)


def test_what_is_on_is_not_turned_on_again() -> None:
    assert not reconcile(NFT_ON | SSHD, backend="nftables", enable=True).own_chain


def test_what_is_not_installed() -> None:
    with pytest.raises(FirewallError, match="ufw is not installed"):
        reconcile(NFT, backend="ufw")
    assert "would be installed" in reconcile(NFT | SSHD, backend="ufw", enable=True).message


def test_closing_ssh_is_refused() -> None:
    with pytest.raises(FirewallError, match="refusing to close 2222/tcp"):
        reconcile(UFW_ON | SSHD, present=False)
    assert reconcile(UFW | SSHD, present=False).changed, "ufw is off and closes nothing"


def test_removal_where_nothing_is_installed() -> None:
    assert not reconcile({}, present=False).changed


@pytest.mark.parametrize(
    ("outputs", "connection_port", "ports"),
    [
        (SSHD, 22, [2222]),
        (SSHD | {"sshd -T": "port 22\nport 2222\naddressfamily any\n"}, 22, [22, 2222]),
        (
            {"systemctl show -p ActiveState -p Listen ssh.socket": "Listen=[::]:22 (Stream)\nActiveState=active\n"},
            1,
            [22],
        ),
        (
            {"systemctl show -p ActiveState -p Listen ssh.socket": "Listen=[::]:22 (Stream)\nActiveState=inactive\n"},
            1,
            [],
        ),
        ({"ss -Htlnp": LISTENERS.replace("sshd", "other")}, 2222, [2222]),
        ({"ss -Htlnp": LISTENERS.replace("sshd", "other")}, 22, []),
        ({}, 22, []),
    ],
)
def test_ssh_ports(outputs: dict[str, str], connection_port: int, ports: list[int]) -> None:
    def run(argv: list[str], stdin: str = "") -> str:
        if " ".join(argv) not in outputs:
            raise CommandError("failed")
        return outputs[" ".join(argv)]

    assert find_ssh_ports(run, connection_port) == ports


@pytest.mark.parametrize(
    ("text", "valid"), [("relay", True), ("a b.c:d/e+f-1", True), ('x"y', False), ("", False), ("a\n", False)]
)
def test_comments(text: str, valid: bool) -> None:
    assert valid_comment(text) == valid
