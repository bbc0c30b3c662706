# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which gateway is taken, and which of its services."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Unreachable,
    Wanted,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import ssdp
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.upnp_router import (
    GATEWAY,
    Network,
    Router,
)

WANTED = Wanted(internal_port=40000, external_port=40001, lease=3600)
HOST = "192.168.7.10"


@pytest.fixture
def join(monkeypatch):
    return lambda *routers, **settings: Network(*routers, **settings).join(monkeypatch)


def test_asks_the_gateway_first(join):
    network = join(Router("192.168.7.2"), Router(), groups=False)
    assert upnp_client.find("192.168.7.1", HOST).gateway == "192.168.7.1"
    assert network.searches == ["192.168.7.1"]


def test_a_gateway_that_hears_the_group_only(join):
    network = join(Router("192.168.7.2"), Router(), unicast=False)
    client = upnp_client.find("192.168.7.1", HOST)
    assert client.gateway == "192.168.7.1"
    client.look()
    assert network.searches == ["192.168.7.1", "239.255.255.250", "239.255.255.250"]


def test_the_only_other_one_that_is_connected(join):
    idle, broken, useful = Router("192.168.7.2"), Router("192.168.7.3"), Router("192.168.7.4")
    idle.down.add("/ctl/0")
    broken.services = ()
    join(idle, broken, useful)
    assert upnp_client.find("192.168.7.1", HOST).gateway == "192.168.7.4"
    assert upnp_client.find("", HOST).gateway == "192.168.7.4"


def test_another_word_for_connected(join):
    router = Router("192.168.7.2")
    router.up_word = "Up"
    join(router)
    assert upnp_client.find("192.168.7.1", HOST).gateway == "192.168.7.2"


def test_a_gateway_that_describes_itself_twice(join):
    class Twice(Router):
        def answers(self):
            empty = ssdp.Answer(f"{GATEWAY}2", self.location.replace("rootDesc", "empty"), 9)
            return [empty, *super().answers()]

        def description(self, path):
            return b"<root/>" if path == "/empty.xml" else super().description(path)

    join(Twice())
    client = upnp_client.find("192.168.7.1", HOST)
    client.map(WANTED)
    assert client.look().boot_id == 7


def test_several_that_are_connected(join):
    join(Router("192.168.7.2"), Router("192.168.7.3"))
    with pytest.raises(Unreachable, match=r"several answered: 192\.168\.7\.2, 192\.168\.7\.3: set gateway to one"):
        upnp_client.find("192.168.7.1", HOST)


def test_nobody(join):
    join()
    with pytest.raises(Unreachable, match="no UPnP gateway answers: turn UPnP on"):
        upnp_client.find("192.168.7.1", HOST)


def test_a_gateway_without_port_mapping(join):
    join(Router(services=("Layer3Forwarding:1",)))
    with pytest.raises(Unreachable, match="offers no port mapping: turn it on"):
        upnp_client.find("192.168.7.1", HOST)


@pytest.mark.parametrize("services", [("WANIPConnection:1", "WANPPPConnection:1"), ("WANPPPConnection:1",) * 2])
def test_the_uplink_that_is_in_use(join, services):
    router = Router(services=services)
    router.down.add("/ctl/0")
    join(router)
    upnp_client.find("192.168.7.1", HOST).map(WANTED)
    assert router.control == "/ctl/1"


def test_a_location_on_another_host(join):
    class Liar(Router):
        location = "http://192.0.2.1:80/rootDesc.xml"

    join(Liar())
    with pytest.raises(Unreachable, match="sends us to another host"):
        upnp_client.find("192.168.7.1", HOST)
