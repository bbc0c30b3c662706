# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mapping ports by PCP, also at servers with quirks."""

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
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import client as pcp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import messages as pcp
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import search as upnp_search
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import ssdp
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.mapping_router import (
    EXTERNAL,
    HOST,
    HOST_V6,
    OTHER,
    ROUTER,
    ROUTER_V6,
)

WANTED = Wanted(internal_port=40000, external_port=443)


@pytest.fixture
def client(router):
    return pcp_client.find(ROUTER, HOST)


def test_map_renew_and_delete(router, client):
    assert (client.method, client.gateway, client.local_address) == ("pcp", ROUTER, HOST)
    for _ in range(2):
        assert client.map(WANTED) == Granted(EXTERNAL, 443, 3600)
        assert router.held == {(17, 443): (HOST, 40000)}
    client.unmap(WANTED)
    assert router.table == {}
    client.unmap(WANTED)


def test_protocols_are_apart(router, client):
    client.map(WANTED)
    client.map(Wanted(40000, 443, "tcp"))
    client.unmap(WANTED)
    assert router.held == {(6, 443): (HOST, 40000)}


def test_what_the_router_grants_counts(router, client):
    assert client.map(Wanted(40000, 443, lease=10**6)).lease == 7200


def test_another_client_of_the_host_may_renew_and_delete(router, client):
    """The nonce is derived, so that the module and the keeper, and one that lost its files, are the same."""
    client.map(WANTED)
    again = pcp_client.find(ROUTER, HOST)
    again.map(WANTED)
    again.unmap(WANTED)
    assert router.table == {}


@pytest.mark.parametrize("quirks", [{}, {"options": False}, {"heeds": False}, {"absent_result": 8}])
@pytest.mark.parametrize("why", ["taken", "denied"])
def test_a_port_that_is_not_to_be_had(router, client, quirks, why):
    if why == "taken":
        router.table[17, 443] = (OTHER, 443, b"theirs", 60)
    else:
        router.denied.add(443)
    before = dict(router.table)
    vars(router).update(quirks)
    with pytest.raises(Conflict, match=rf"router {ROUTER} does not give external port 443/udp to this host: "):
        client.map(WANTED)
    assert router.table == before  # neither is the other's gone, nor did another port stay


@pytest.mark.parametrize("quirks", [{}, {"options": False}])
def test_another_external_port_replaces_the_first(router, client, quirks):
    vars(router).update(quirks)
    client.map(WANTED)
    moved = Wanted(40000, 444)
    if quirks:
        client.unmap(WANTED)
    assert client.map(moved) == Granted(EXTERNAL, 444, 3600)
    assert router.held == {(17, 444): (HOST, 40000)}


def test_a_mapping_of_another_program(router, client):
    router.table[17, 443] = (HOST, 40000, b"another's", 60)
    with pytest.raises(Refused, match=r"refused: .*another program on this host.* \(PCP result 2, NOT_AUTHORIZED\): "):
        client.map(WANTED)
    with pytest.raises(Refused, match="NOT_AUTHORIZED"):
        client.unmap(WANTED)


@pytest.mark.parametrize("code", sorted(set(pcp.RESULTS) - {pcp.CANNOT_PROVIDE_EXTERNAL}))
def test_every_refusal_is_translated(router, client, code):
    router.pcp_result = code
    answer = pcp.RESULTS[code]
    for call in [lambda: client.map(WANTED)] + [client.look] * (code != pcp.UNSUPPORTED_OPCODE):
        with pytest.raises(Refused) as error:
            call()
        assert str(error.value) == (
            f"the router {ROUTER} refused: {answer.words} (PCP result {code}, {answer.name}): {answer.fix}"
        )


def test_a_refusal_that_no_standard_knows(router, client):
    router.pcp_result = 200
    with pytest.raises(Refused, match="PCP result 200, unknown to its standard"):
        client.map(WANTED)


@pytest.mark.parametrize(("pcp_result", "natpmp_result"), [(7, 0), (7, 3), (8, 3)])
def test_a_router_without_a_public_address(router, client, pcp_result, natpmp_result):
    """The last is how miniupnpd says it."""
    router.pcp_result, router.natpmp_result = pcp_result, natpmp_result
    with pytest.raises(NoAddress, match=r"192\.168\.7\.1 opens no port .*carrier-grade NAT, .* cloud node"):
        client.map(WANTED)


@pytest.mark.parametrize("speaks", [{2}, {0, 2}])
def test_a_router_whose_table_is_full(router, client, speaks):
    router.pcp_result, router.speaks = 8, speaks
    with pytest.raises(Refused, match="NO_RESOURCES") as error:
        client.map(WANTED)
    assert not isinstance(error.value, NoAddress)


def test_a_server_that_does_not_know_announce(router, client):
    router.pcp_result = 4
    assert client.look() == Life(epoch=1000)


def test_nobody_can_be_asked_whose_port_it_is(client):
    with pytest.raises(HolderUnknown):
        client.holder(WANTED)


def answer(boot_id):
    return ROUTER, ssdp.Answer("urn:schemas-upnp-org:device:InternetGatewayDevice:1", f"http://{ROUTER}/", boot_id)


def test_signs_of_life(router, client, monkeypatch):
    assert client.look() == Life(epoch=1000)
    router.epoch = 5
    answers = [[answer(7)], []]
    monkeypatch.setattr(upnp_search, "search", lambda *_: iter(answers.pop(0)))
    assert client.look() == Life(epoch=5)  # this router has not answered a search once: it is not asked again
    client = pcp_client.PcpClient(ROUTER, HOST)
    assert client.look() == Life(epoch=5, boot_id=7)
    assert client.look() == Life(epoch=5)
    answers.append([answer(8)])
    assert client.look() == Life(epoch=5, boot_id=8)  # an answer was lost, that is all


# --- pinholes


@pytest.fixture
def client_v6(router):
    return pcp_client.find(ROUTER_V6, HOST_V6)


PINHOLE = Wanted(40000, 40000, family=6)


def test_pinhole(router, client_v6):
    assert client_v6.map(PINHOLE) == Granted(HOST_V6, 40000, 3600)
    client_v6.unmap(PINHOLE)
    assert router.table == {}


def test_a_pinhole_translates_nothing(router, client_v6):
    with pytest.raises(Refused, match=r"set external_port \(443\) to internal_port \(40000\) for IPv6"):
        client_v6.map(Wanted(40000, 443, family=6))


def test_a_router_that_forgets_whose_pinhole_it_is(router, client_v6):
    """As miniupnpd 2.3.1 does; then it ends by itself, as soon as the router lets it."""
    router.forgets = True
    client_v6.map(PINHOLE)
    client_v6.map(PINHOLE)
    client_v6.unmap(PINHOLE)
    assert [entry[3] for entry in router.table.values()] == [1]


# --- hostile answers


@pytest.mark.parametrize(
    ("at", "octets", "words"),
    [
        (24, b"\0" * 12, "about another mapping"),  # nonce
        (36, b"\6", "about another mapping"),
        (40, b"\0\1", "about another mapping"),
        (42, b"\0\0", "grants no port, or for no time"),
        (4, b"\0\0\0\0", "grants no port, or for no time"),
        (1, b"\x80", "kind 128"),
        (60, b"\0", "has 61 octets"),
    ],
)
def test_answers_that_do_not_fit(router, client, at, octets, words):
    router.forgery = at, octets
    with pytest.raises(Malformed, match=words):
        client.map(WANTED)


def test_a_router_that_speaks_nat_pmp_only(router):
    router.speaks = {0}
    with pytest.raises(Unreachable, match="speaks NAT-PMP"):
        pcp_client.find(ROUTER, HOST)
