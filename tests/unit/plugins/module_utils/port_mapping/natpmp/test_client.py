# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mapping ports by NAT-PMP."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Conflict,
    Granted,
    HolderUnknown,
    Life,
    Malformed,
    NoAddress,
    Refused,
    Unreachable,
    Wanted,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import client as natpmp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import messages as natpmp
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.mapping_router import (
    EXTERNAL,
    HOST,
    OTHER,
    ROUTER,
)

WANTED = Wanted(internal_port=40000, external_port=443)


@pytest.fixture
def client(router):
    return natpmp_client.find(ROUTER, HOST)


def test_map_renew_and_delete(router, client):
    assert (client.method, client.gateway, client.local_address) == ("nat-pmp", ROUTER, HOST)
    for _ in range(2):
        assert client.map(WANTED) == Granted(EXTERNAL, 443, 3600)
        assert router.held == {(17, 443): (HOST, 40000)}
    client.map(Wanted(40000, 443, "tcp"))
    client.unmap(WANTED)
    client.unmap(WANTED)
    assert router.held == {(6, 443): (HOST, 40000)}


def test_another_external_port_replaces_the_first(router, client):
    client.map(WANTED)
    assert client.map(Wanted(40000, 444)) == Granted(EXTERNAL, 444, 3600)
    assert router.held == {(17, 444): (HOST, 40000)}


@pytest.mark.parametrize("why", ["taken", "denied"])
def test_a_port_that_is_not_to_be_had(router, client, why):
    if why == "taken":
        router.table[17, 443] = (OTHER, 443, b"", 60)
    else:
        router.denied.add(443)
    before = dict(router.table)
    with pytest.raises(Conflict, match=f"router {ROUTER} does not give external port 443/udp to this host: "):
        client.map(WANTED)
    assert router.table == before


@pytest.mark.parametrize("code", sorted(natpmp.RESULTS))
def test_every_refusal_is_translated(router, client, code):
    router.natpmp_result = code
    answer = natpmp.RESULTS[code]
    for call in (lambda: client.map(WANTED), lambda: client.unmap(WANTED), client.look):
        with pytest.raises(Refused) as error:
            call()
        assert str(error.value) == (
            f"the router {ROUTER} refused: {answer.words} (NAT-PMP result {code}, {answer.name}): {answer.fix}"
        )


def test_a_router_without_a_public_address(router):
    router.natpmp_result = 3
    client = natpmp_client.find(ROUTER, HOST)
    assert client.look() == Life("", epoch=1000)
    with pytest.raises(NoAddress, match=r"192\.168\.7\.1 opens no port .*carrier-grade NAT, .* cloud node"):
        client.map(WANTED)
    client.unmap(WANTED)


def test_signs_of_life(router, client):
    assert client.look() == Life(EXTERNAL, epoch=1000)
    router.external = "0.0.0.0"
    assert client.look() == Life("", epoch=1000)


def test_nobody_can_be_asked_whose_port_it_is(client):
    with pytest.raises(HolderUnknown):
        client.holder(WANTED)


@pytest.mark.parametrize(
    ("at", "octets", "words"),
    [
        (8, b"\0\1", "about port 1"),
        (10, b"\0\0", "no port, or for no time"),
        (12, b"\0\0\0\0", "no port, or for no time"),
        (1, b"\x82", "kind 130"),
        (16, b"\0", "17 octets"),
    ],
)
def test_answers_that_do_not_fit(router, client, at, octets, words):
    router.forgery = at, octets
    with pytest.raises(Malformed, match=words):
        client.map(WANTED)


def test_a_router_that_speaks_pcp_only(router):
    router.speaks = {2}
    with pytest.raises(Unreachable, match="successor PCP"):
        natpmp_client.find(ROUTER, HOST)
