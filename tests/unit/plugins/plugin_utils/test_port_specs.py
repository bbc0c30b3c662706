# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports and protocols of somebody else's rules, in the forms that routers write."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.port_holders import port_holders
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.openwrt import (
    OpenwrtError,
    Section,
    refuse_what_does_not_fit,
    wanted_sections,
)
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.port_specs import covers, has_protocol


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        ("40000", True),
        (40000, True),
        ("40000-40100", True),
        ("39000:40000", True),
        ("443,40000", True),
        ("443, 39999-40001", True),
        ("", True),
        (None, True),
        ("any", True),
        ("!53", True),
        ("40001", False),
        ("39000-39999", False),
        ("443,80", False),
        ("!40000-40100", False),
        ("https", False),
        ("my_alias", None),
        ("443,my_alias", None),
        ("40000,my_alias", True),
        ("!my_alias", None),
    ],
)
def test_ports(spec, holds):
    assert covers(spec, 40000) is holds


def test_names_of_services():
    assert covers("https", 443)
    assert covers("http,HTTPS", 443)


@pytest.mark.parametrize("spec", ["udp", "UDP", "TCP/UDP", "tcp/udp", "17", "", None, "any", "all", "!tcp", "!6"])
def test_protocols(spec):
    assert has_protocol(spec, "udp")
    assert not has_protocol("tcp", "udp")
    assert not has_protocol("!udp", "udp")


def test_what_only_the_router_knows_is_told_apart():
    rules = [{"p": "web", "protocol": "udp"}, {"p": "40000", "protocol": "tcp/udp"}, {"p": "web", "protocol": "icmp"}]
    forward = {"protocol": "udp", "external_port": "40000"}
    assert port_holders(rules, forward, "p") == rules[1:2]
    assert port_holders(rules, forward, "p", unknown=True) == rules[:1]


@pytest.mark.parametrize(
    "options",
    [
        {"src_dport": "39000-40100"},
        {"src_dport": "443 40000"},
        {"src_dport": "! 53"},
        {},
        {"src": "*", "src_dport": "40000"},
        {"proto": "17", "src_dport": "40000"},
        {"proto": "all"},
    ],
)
def test_openwrts_redirects(options):
    forward = {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 40000, "families": ["ipv4"]}
    wanted = wanted_sections([forward], "192.168.1.10", "", "wan", "lan", True)
    there = {zone: Section("zone", {"name": zone}) for zone in ("wan", "lan")}
    there["theirs"] = Section("redirect", {"src": "wan", "proto": "tcp udp", "dest_ip": "192.168.1.9", **options})
    with pytest.raises(OpenwrtError, match=r"already sends 40000/udp to 192\.168\.1\.9"):
        refuse_what_does_not_fit(there, wanted, "wan", "lan")
