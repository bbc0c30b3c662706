# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which protocol is chosen, and what is said when there is none."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import discovery, routes
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.mapping_router import (
    HOST,
    HOST_V6,
    ROUTER,
    ROUTER_V6,
)


@pytest.fixture
def router(router, monkeypatch):
    router.upnp = None

    def find_upnp(gateway, local_address, family):
        if router.upnp is None:
            raise Unreachable("answers no search")
        return router.upnp

    monkeypatch.setattr(upnp_client, "find", find_upnp)
    return router


@pytest.mark.parametrize(
    ("speaks", "upnp", "method"),
    [({0, 2}, True, "pcp"), ({2}, True, "pcp"), ({0}, True, "nat-pmp"), (set(), True, "upnp")],
)
def test_the_first_that_answers(router, speaks, upnp, method):
    class Upnp:
        method = "upnp"

    router.speaks, router.upnp = speaks, Upnp() if upnp else None
    assert discovery.find().method == method


def test_a_named_method_is_the_only_one(router):
    assert discovery.find("nat-pmp").method == "nat-pmp"
    with pytest.raises(Unreachable, match=r"\(upnp: answers no search\)"):
        discovery.find("upnp")


def test_a_refusal_to_look_leads_to_the_next(router):
    router.pcp_result = 2
    assert discovery.find().method == "nat-pmp"


def test_a_named_gateway(router, monkeypatch):
    monkeypatch.delattr(routes, "default_gateway")
    assert discovery.find(gateway=ROUTER).gateway == ROUTER


def test_pinholes(router):
    client = discovery.find(family=6)
    assert (client.method, client.gateway, client.local_address) == ("pcp", ROUTER_V6, HOST_V6)
    with pytest.raises(Unreachable, match="NAT-PMP knows IPv4 only"):
        discovery.find("nat-pmp", family=6)


def test_nobody_answers(router):
    router.speaks = set()
    with pytest.raises(Unreachable) as error:
        discovery.find()
    said = str(error.value)
    for method in discovery.METHODS:
        assert f"{method}: " in said
    assert f"router {ROUTER} opens no port" in said
    assert "turn on UPnP or NAT-PMP/PCP in the router's settings, or choose another backend" in said


def test_a_survey_tells_of_each(router):
    router.speaks = {0}
    attempts = list(discovery.survey(ROUTER, HOST, 4, discovery.METHODS))
    assert [(attempt.method, bool(attempt.client), bool(attempt.problem)) for attempt in attempts] == [
        ("pcp", False, True),
        ("nat-pmp", True, False),
        ("upnp", False, True),
    ]
