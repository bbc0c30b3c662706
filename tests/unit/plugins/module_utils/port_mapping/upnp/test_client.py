# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mapping ports by UPnP, also at routers with quirks."""

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
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.upnp_router import (
    Network,
    No,
    Router,
    refusing,
)

WANTED = Wanted(internal_port=40000, external_port=40001, lease=3600)
HOST, OTHER = "192.168.7.10", "192.168.7.11"


@pytest.fixture
def router(monkeypatch):
    router = Router()
    Network(router).join(monkeypatch)
    return router


@pytest.fixture
def client(router):
    return upnp_client.find(router.address, HOST)


def test_map_renew_and_delete(router, client):
    assert client.method, client.gateway == ("upnp", router.address)
    assert client.holder(WANTED) is None
    assert client.map(WANTED) == Granted("198.51.100.1", 40001, 3600)
    assert router.table == {(40001, "UDP"): (HOST, 40000, "homelab.peer_relay", 3600)}
    assert client.map(Wanted(40000, 40001, lease=60)) == Granted("198.51.100.1", 40001, 60)
    assert client.holder(WANTED) == (HOST, 40000, Granted("", 40001, 60))
    client.unmap(WANTED)
    assert router.table == {}
    client.unmap(WANTED)


def test_what_the_router_grants_counts(client, router):
    assert client.map(Wanted(40000, 40001, lease=0)).lease == 604800  # version 2 has no mappings without an end
    assert client.map(Wanted(40000, 40001, lease=10**9)).lease == 604800


@pytest.mark.parametrize("owner", [(OTHER, 40000), (HOST, 22)])
def test_a_foreign_mapping_is_not_touched(client, router, owner):
    router.table[40001, "UDP"] = foreign = (*owner, "game", 0)
    with pytest.raises(
        Conflict, match=rf"router 192\.168\.7\.1 maps its udp port 40001 to {owner[0]}:{owner[1]} already"
    ):
        client.map(WANTED)
    client.unmap(WANTED)
    assert router.table == {(40001, "UDP"): foreign}
    assert "AddPortMapping" not in router.asked  # some routers would have given the port away
    client.remove(WANTED)
    assert router.table == {}
    client.remove(WANTED)


def test_somebody_was_faster(client, router):
    def add(**_):
        router.table[40001, "UDP"] = (OTHER, 1, "", 0)
        raise No(718, "ConflictInMappingEntry")

    router.AddPortMapping = add
    with pytest.raises(Conflict, match=OTHER):
        client.map(WANTED)


def test_a_conflict_with_nobody(client, router):
    router.AddPortMapping = refusing(718, "ConflictInMappingEntry")
    with pytest.raises(Refused, match=r"718 ConflictInMappingEntry.*secure mode"):
        client.map(WANTED)


def test_a_rule_of_the_router(client):
    with pytest.raises(Refused, match=r"refuses AddPortMapping \(606 Action not authorized\)"):
        client.map(Wanted(40000, 80))


@pytest.mark.parametrize("code", [725, 402])
def test_routers_without_leases(client, router, code):
    def add(**new):
        if new["NewLeaseDuration"] != "0":
            raise No(code, "OnlyPermanentLeasesSupported")
        router.table[40001, "UDP"] = (HOST, 40000, "", 0)

    router.AddPortMapping = add
    assert client.map(WANTED) == Granted("198.51.100.1", 40001, 0)
    router.table.clear()
    router.AddPortMapping = refusing(code, "Always")
    with pytest.raises(Refused, match=f"{code} Always"):
        client.map(WANTED)


@pytest.mark.parametrize("code", [401, 602, 606])
def test_routers_that_cannot_be_asked(client, router, code):
    router.GetSpecificPortMappingEntry = refusing(code, "No")
    with pytest.raises(HolderUnknown):
        client.holder(WANTED)
    assert client.map(WANTED) == Granted("198.51.100.1", 40001, 3600)
    client.unmap(WANTED)  # whose it is cannot be known, so it stays
    assert router.table


@pytest.mark.parametrize("code", [402, 501, 713, 714])
def test_codes_for_a_mapping_that_is_not_there(client, router, code):
    router.GetSpecificPortMappingEntry = refusing(code, "None")
    assert client.holder(WANTED) is None


def test_routers_that_renew_nothing(client, router):
    add = router.AddPortMapping

    def add_once(**new):
        if router.table:
            raise No(718, "ConflictInMappingEntry")
        add(**new)

    router.AddPortMapping = add_once
    client.map(WANTED)
    assert client.map(Wanted(40000, 40001, lease=60)).lease == 60
    assert router.asked.count("DeletePortMapping") == 1


def test_routers_that_list_nothing_or_no_lease(client, router):
    router.GetSpecificPortMappingEntry = refusing(714, "NoSuchEntryInArray")
    assert client.map(WANTED).lease == 3600
    router.GetSpecificPortMappingEntry = lambda **_: {"NewInternalPort": 40000, "NewInternalClient": HOST}
    assert client.map(WANTED).lease == 3600


def test_list(client, router):
    client.map(WANTED)
    router.table[80, "TCP"] = ("nas", 8080, "we&b" * 100, 0)  # as upnpc sends it and miniupnpd tells it: not escaped
    first, second = client.mappings()
    assert first == upnp_client.Mapping("udp", 40001, HOST, 40000, 3600, "homelab.peer_relay")
    assert (second.protocol, second.internal_address) == ("tcp", "nas")


def test_list_without_end(client, router):
    router.table[40001, "UDP"] = (HOST, 40000, "", 0)
    router.GetGenericPortMappingEntry = lambda **_: {
        "NewExternalPort": 1,
        "NewProtocol": "UDP",
        **router.entry((40001, "UDP")),
    }
    assert len(list(client.mappings())) == 256


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NewInternalPort", "65536"),
        ("NewInternalPort", "-1"),
        ("NewInternalPort", ""),
        ("NewLeaseDuration", "9" * 5000),
    ],
)
def test_numbers_that_are_none(client, router, name, value):
    router.table[40001, "UDP"] = (HOST, 40000, "", 0)
    good = router.GetSpecificPortMappingEntry
    router.GetSpecificPortMappingEntry = lambda **old: good(**old) | {name: value}
    with pytest.raises(Malformed, match=name):
        client.map(WANTED)


@pytest.mark.parametrize(
    ("said", "address"), [("198.51.100.1", "198.51.100.1"), ("", ""), ("0.0.0.0", ""), ("100.64.1.2", "100.64.1.2")]
)
def test_look(client, router, said, address):
    router.external = said
    assert client.look() == Life(external_address=address, boot_id=7)


def test_no_uplink(client, router):
    router.GetExternalIPAddress = refusing(501, "ActionFailed")
    assert client.look().external_address == ""


def test_a_router_without_a_public_address(client, router):
    router.AddPortMapping = refusing(501, "ActionFailed")  # as miniupnpd does behind carrier-grade NAT
    with pytest.raises(Refused, match="501 ActionFailed"):
        client.map(WANTED)
    router.external = ""
    with pytest.raises(NoAddress, match=r"(?s)192\.168\.7\.1.*carrier-grade NAT.*cloud"):
        client.map(WANTED)


@pytest.mark.parametrize(
    "said",
    [
        "router.example",
        "1.2.3",
        "9" * 5000,
        "2001:db8::1%x&#10;[Interface]&#10;PreUp = id",
        "2001:db8::1%eth0",
        "192.0.2.1 192.0.2.2",
    ],
)
def test_external_address_that_is_none(client, router, said):
    router.external = said
    with pytest.raises(Malformed, match="names an external address that is none"):
        client.look()


def test_the_daemon_restarts_at_another_port(client, router):
    router.up = False
    with pytest.raises(Unreachable):
        client.look()
    router.up, router.port, router.boot_id = True, 6000, 8
    assert client.look().boot_id == 8
    assert client.map(WANTED).lease == 3600


def test_a_lost_answer_is_no_news(client, monkeypatch, router):
    Network(router, unicast=False, groups=False).join(monkeypatch)
    assert client.look().boot_id == 7


def test_a_router_without_boot_id(router):
    router.boot_id = None
    assert upnp_client.find(router.address, HOST).look().boot_id is None
