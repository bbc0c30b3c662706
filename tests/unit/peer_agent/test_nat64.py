# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 addresses through a NAT64."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from peer_agent.endpoints import Endpoint
from peer_agent.host import nat64
from peer_agent.host.names import RelayEndpoints
from peer_agent.settings import HostPort

RELAY = Endpoint("192.0.2.33", 40000)
# RFC 6052 section 2.4, with the same address.
EXAMPLES = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100:0",
    "2001:db8:122:344::/96": "2001:db8:122:344::c000:221",
    "64:ff9b::/96": "64:ff9b::c000:221",
}


@pytest.mark.parametrize(("prefix", "address"), EXAMPLES.items())
def test_the_examples_of_rfc_6052(prefix: str, address: str) -> None:
    assert nat64.synthesize(RELAY, IPv6Network(prefix)) == Endpoint(address, 40000)


@pytest.mark.parametrize("prefix", EXAMPLES)
@pytest.mark.parametrize("known", ["192.0.0.170", "192.0.0.171"])
def test_a_prefix_is_found_by_what_was_made_of_it(prefix: str, known: str) -> None:
    network = IPv6Network(prefix)
    answer = [Endpoint(known, 9), nat64.synthesize(Endpoint(known, 9), network)]
    assert nat64.prefixes(answer) == [network]


def test_what_is_made_of_nothing_known_is_no_prefix() -> None:
    assert nat64.prefixes([Endpoint("192.0.0.170", 9), Endpoint("2001:db8::1", 9)]) == []


def test_only_an_address_that_cannot_be_used_goes_through_it() -> None:
    prefix = IPv6Network("64:ff9b::/96")
    through = Endpoint("64:ff9b::c000:221", 40000)
    places = RelayEndpoints([HostPort(*RELAY)], RELAY, {})
    assert not places.next(lambda _: True, [prefix]), "IPv4 works"
    assert not places.next(lambda endpoint: endpoint.address.version == 6), "no NAT64 is known"
    assert places.next(lambda endpoint: endpoint.address.version == 6, [prefix])
    assert places.current == through
    assert places.next(lambda endpoint: endpoint.address.version == 4, [prefix]), "elsewhere"
    assert places.current == RELAY
