# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of forwards, checked and complete, and what is said of a router's address."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.nat_verdict import nat_verdict
from ansible_collections.homelab.peer_relay.plugins.filter.port_forwards import port_forwards

RELAY = {"name": "relay", "port": 40000}


def test_what_is_left_out_is_filled_in() -> None:
    whole = {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 40000, "families": ["ipv4"]}
    assert port_forwards([RELAY]) == [whole]
    text = {"name": "relay", "port": "40000", "external_port": "51820"}  # a template's numbers may be text
    assert port_forwards([text]) == [{**whole, "external_port": 51820}]
    both = port_forwards([RELAY, {"name": "web", "port": 40000, "protocol": "tcp", "families": ["ipv6"]}])
    assert [forward["protocol"] for forward in both] == ["udp", "tcp"]


@pytest.mark.parametrize(
    ("forwards", "words"),
    [
        ([], "set port_forward_state to absent"),
        ([{"name": "The relay", "port": 1}], "name 'The relay' is not up to 20"),
        ([{"name": "x" * 21, "port": 1}], "is not up to 20"),
        ([{"port": 1}], "name '' is not"),
        ([{"name": "relay"}], "port None of the forward 'relay' is not between 1 and 65535"),
        ([{**RELAY, "external_port": 65536}], "external_port 65536"),
        ([{**RELAY, "protocol": "sctp"}], "protocol 'sctp' of the forward 'relay' is not one of udp, tcp"),
        ([{**RELAY, "families": ["ip"]}], "families 'ip'"),
        ([RELAY, {**RELAY, "external_port": 1}], "the forwards 'relay' and 'relay' have the same name"),
        ([RELAY, {"name": "b", "port": 1, "external_port": 40000}], "'relay' and 'b' have the same external port"),
    ],
)
def test_refusals(forwards: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(words)):
        port_forwards(forwards)


def test_the_verdict_on_an_address() -> None:
    assert nat_verdict("8.8.8.8")["kind"] == "public"
    assert nat_verdict("100.64.3.7")["kind"] == "cgnat"
    assert "cloud" in nat_verdict("192.168.178.2")["explanation"]
    assert nat_verdict("")["kind"] == "unknown"


def test_what_is_no_address_is_refused_and_what_is_one_has_one_form():
    assert nat_verdict("2001:DB8:0::1")["address"] == "2001:db8::1"
    assert nat_verdict(None)["address"] == ""
    for text in ("2001:db8::1%x\n[Interface]", "8.8.8.8\n", "8.8.8.8/24", "router.example"):
        with pytest.raises(AnsibleFilterError, match=r"Nothing of the answer is used: .* set relay_endpoint"):
            nat_verdict(text)
