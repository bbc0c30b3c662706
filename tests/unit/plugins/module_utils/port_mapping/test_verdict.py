# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an external address is good for."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.verdict import no_address, verdict
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("external", "seen", "kind"),
    [
        ("8.8.8.8", "", "public"),
        ("203.0.113.7", "203.0.113.7", "public"),
        ("2001:db8::1", "", "public"),
        ("2001:db8::1", "2001:DB8:0::1", "public"),
        ("203.0.113.7", "203.0.113.8", "differs"),
        ("100.64.0.1", "", "cgnat"),
        ("100.127.255.255", "203.0.113.8", "cgnat"),
        ("100.128.0.0", "", "public"),
        ("100.63.255.255", "", "public"),
        ("10.0.0.1", "", "double_nat"),
        ("172.16.0.1", "203.0.113.8", "double_nat"),
        ("172.31.255.255", "", "double_nat"),
        ("172.32.0.0", "", "public"),
        ("192.168.178.20", "", "double_nat"),
        ("169.254.7.7", "", "double_nat"),
        ("192.0.0.2", "", "ds_lite"),
        ("192.0.0.8", "", "public"),
        ("0.0.0.0", "", "unknown"),
        ("127.0.0.1", "", "unknown"),
        ("255.255.255.255", "", "unknown"),
        ("fd00::1", "", "unknown"),
        ("fe80::1", "", "unknown"),
        ("::1", "", "unknown"),
        ("", "", "unknown"),
        ("", "203.0.113.8", "unknown"),
        ("banana", "", "unknown"),
    ],
)
def test_kind(external, seen, kind):
    assert verdict(external, seen).kind == kind


@pytest.mark.parametrize("external", ["100.64.0.1", "10.0.0.1", "192.0.0.2"])
def test_what_to_do_when_nobody_can_reach_it(external):
    explanation = verdict(external).explanation
    assert f"external address {external} " in explanation
    assert "nobody outside can reach a port of this router" in explanation
    for fix in ("cloud node", "public IPv4 address", "bridge mode", "IPv6 pinhole"):
        assert fix in explanation


def test_a_router_that_tells_no_address():
    kind, explanation = no_address("192.168.1.1")
    assert kind == "no_address"
    assert "router 192.168.1.1 opens no port" in explanation
    assert "cloud node" in explanation


def test_the_other_address_is_named():
    assert "sees this host as 203.0.113.8" in verdict("203.0.113.7", "203.0.113.8").explanation


def test_without_an_address_there_is_nothing_to_explain():
    assert verdict("") == ("unknown", "")


@given(st.ip_addresses(), st.ip_addresses())
def test_every_address_has_an_explanation(external, seen):
    assert str(external) in verdict(str(external), str(seen)).explanation
    assert "{" not in verdict(str(external)).explanation
