# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend opnsense, which speaks HTTP by ansible.builtin.uri, against a stand-in for the router's API."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from role import ADDRESS, ADDRESS6, Role
from standins.opnsense import KEY, SECRET, OPNsense
from standins.web import Authority, Web

BOTH = [{"name": "relay", "port": 40000, "external_port": 443, "families": ["ipv4", "ipv6"]}]


@pytest.fixture
def router(web: Web) -> OPNsense:
    router = web.application = OPNsense()
    ports = {"destination": {"network": "wanip", "port": "8443"}, "target": "192.168.88.9", "local_port": "443"}
    router.rule("d_nat", interface="wan", protocol="tcp", descr="web server", **ports)
    router.rule("filter", interface="lan", description="Default allow LAN to any rule")
    return router


@pytest.fixture
def role(tmp_path: Path, web: Web, authority: Authority, router: OPNsense) -> Role:
    variables = {
        "port_forward_backend": "opnsense",
        "port_forward_opnsense_url": web.url,
        "port_forward_opnsense_key": KEY,
        "port_forward_opnsense_secret": SECRET,
        "port_forward_opnsense_ca_file": str(authority.certificate),
    }
    return Role(tmp_path, variables, {})


def own(router: OPNsense, controller: str) -> dict[str, dict]:
    """The rules of the role, by the ends of their descriptions."""
    mark = "homelab.peer_relay home: "
    rows = {row.get("descr", row.get("description", "")): row for row in router.tables[controller].values()}
    return {name.removeprefix(mark): row for name, row in rows.items() if name.startswith(mark)}


def test_the_control_node_asks_for_no_sudo_whatever_the_inventory_says(role: Role) -> None:
    """A variable of all hosts beats the keyword become; this one would make every call on the control node fail."""
    role.of_all = {"ansible_become": True, "ansible_become_exe": "/nowhere/sudo"}
    role.environment["ANSIBLE_BECOME_ALLOW_SAME_USER"] = "true"  # or root would not ask for root
    assert role.run(ansible_become=False, port_forward_forwards=BOTH).changed == 1


def test_a_host_that_has_been_taken_over_gets_no_credentials(role: Role, router: OPNsense, tmp_path: Path) -> None:
    """Whatever module runs there, its answer carries a fact of the name of one of the role's variables."""
    facts = {"port_forward_opnsense_url": "https://192.0.2.66", "default_ipv4": {"address": ADDRESS}}
    evil = tmp_path / "python"
    evil.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps({'ansible_facts': facts})}'\n", encoding="utf-8")
    evil.chmod(0o755)
    said = role.error(ansible_python_interpreter=str(evil), port_forward_forwards=BOTH)
    assert "home reports port_forward_opnsense_url as a fact, which only the inventory decides" in said
    assert router.writes == []


def test_the_whole_life(role: Role, router: OPNsense) -> None:
    before = copy.deepcopy(router.tables)
    assert role.run("--check", port_forward_forwards=BOTH).changed == 1
    assert router.writes == []

    run = role.run("-vvv", port_forward_forwards=BOTH)
    assert run.changed == 1  # one task for the three rules
    assert own(router, "d_nat")["relay"].items() >= {
        ("interface", "wan"),
        ("protocol", "udp"),
        ("destination.network", "wanip"),
        ("destination.port", "443"),
        ("target", ADDRESS),
        ("local-port", "40000"),
        ("natreflection", "purenat"),
        ("pass", "rule"),
    }
    assert own(router, "source_nat")["relay hairpin"]["destination_net"] == ADDRESS
    assert own(router, "filter")["relay"].items() >= {("destination_net", ADDRESS6), ("destination_port", "40000")}
    assert router.applied
    assert run.result["external_address"] == "203.0.113.26"
    assert (run.result["inner_address"], run.result["hairpin"]) == (ADDRESS, True)
    assert KEY not in run.output
    assert SECRET not in run.output

    assert role.run(port_forward_forwards=BOTH).changed == 0

    router.source_nat_mode = "automatic"
    run = role.run()
    assert run.changed == 1  # the hole for IPv6 is no longer wanted, and the port is another
    assert run.result["hairpin"] is False
    assert own(router, "filter") == {}
    assert own(router, "d_nat")["relay"]["destination.port"] == "40000"

    router.source_nat_mode = "hybrid"
    assert role.run(port_forward_state="absent").changed == 1
    assert router.tables == before
    assert router.applied


def test_what_it_refuses(role: Role, router: OPNsense) -> None:
    https = [{"name": "https", "protocol": "tcp", "port": 443, "external_port": 8443}]
    error = role.error(port_forward_forwards=https)
    assert "tcp port 8443 already, and forwards it to 192.168.88.9 (description 'web server')" in error
    error = role.error(port_forward_opnsense_secret="wrong-secret")
    assert "The key or its secret is wrong" in error
    assert "wrong-secret" not in error
    assert "needs OPNsense 26.1" in role.error(
        port_forward_opnsense_url=role.variables["port_forward_opnsense_url"] + "/old"
    )
    assert "Option not in list" in role.error(port_forward_opnsense_lan="opt9")
