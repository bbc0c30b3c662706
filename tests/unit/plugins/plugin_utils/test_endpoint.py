# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who tells where the relay is reached."""

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.relay_endpoint import relay_endpoint

FORWARDED = {
    "backend": "auto",
    "external_address": "203.0.113.7",
    "external_port": 41000,
    "inner_address": "192.168.1.10",
    "inner_port": 40000,
}


def endpoint(**variables) -> dict:
    return relay_endpoint({"inventory_hostname": "relay1", **variables})


def refusal(**variables) -> str:
    with pytest.raises(AnsibleFilterError) as caught:
        endpoint(**variables)
    return str(caught.value)


def test_an_inventory_without_any_of_it():
    found = endpoint()
    assert found == {
        "host": "relay1",
        "port": 40000,
        "text": "relay1:40000",
        "inner_host": "",
        "inner_port": 0,
        "inner_text": "",
        "origin": "inventory",
    }


@pytest.mark.parametrize(
    ("variables", "text", "origin"),
    [
        ({"ansible_host": "192.0.2.1"}, "192.0.2.1:40000", "inventory"),
        ({"ansible_host": "192.0.2.1", "relay_listen_port": "41"}, "192.0.2.1:41", "inventory"),
        ({"ansible_host": "192.0.2.1", "port_forward_result": FORWARDED}, "203.0.113.7:41000", "router"),
        ({"port_forward_result": FORWARDED | {"external_address": ""}, "ansible_host": "a"}, "a:41000", "inventory"),
        ({"port_forward_result": FORWARDED, "relay_endpoint": "home.example"}, "home.example:41000", "given"),
        ({"port_forward_result": FORWARDED, "relay_external_port": 443}, "203.0.113.7:443", "router"),
        ({"port_forward_result": FORWARDED | {"external_port": 0}}, "203.0.113.7:40000", "router"),
        ({"relay_endpoint": "2001:DB8:0::1"}, "[2001:db8::1]:40000", "given"),
        ({"relay_endpoint": "", "ansible_host": "192.0.2.1"}, "192.0.2.1:40000", "inventory"),
    ],
)
def test_the_order_of_who_tells(variables, text, origin):
    found = endpoint(**variables)
    assert (found["text"], found["origin"]) == (text, origin)


def test_the_inner_place():
    found = endpoint(port_forward_result=FORWARDED)
    assert (found["inner_host"], found["inner_port"], found["inner_text"]) == (
        "192.168.1.10",
        40000,
        "192.168.1.10:40000",
    )
    given = endpoint(port_forward_result=FORWARDED, relay_endpoint="home.example")
    assert given["inner_text"] == "192.168.1.10:40000", "whoever tells the public one"
    six = endpoint(port_forward_result=FORWARDED | {"inner_address": "FD00::10"})
    assert six["inner_text"] == "[fd00::10]:40000", "as wg prints it"


def test_an_inner_place_that_is_no_other():
    same = {
        "external_address": "2001:db8::10",
        "external_port": 40000,
        "inner_address": "2001:db8::10",
        "inner_port": 40000,
    }
    assert endpoint(port_forward_result=same)["inner_text"] == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"relay_endpoint": "home.example:41000"},
            ["relay1: relay_endpoint is 'home.example:41000'", "relay_external_port"],
        ),
        ({"relay_endpoint": "[2001:db8::1]"}, ["relay_endpoint", "without brackets"]),
        ({"relay_endpoint": "home example"}, ["neither an address nor a name"]),
        ({"relay_endpoint": "-v"}, ["neither an address nor a name"]),
        ({"relay_external_port": "70000"}, ["relay_external_port is '70000'", "1 to 65535"]),
        ({"relay_listen_port": "many"}, ["relay_listen_port is 'many'"]),
        ({"port_forward_result": FORWARDED | {"inner_port": 0}}, ["port_forward_result.inner_port is 0"]),
    ],
)
def test_what_is_refused(variables, words):
    message = refusal(**variables)
    assert all(word in message for word in words), message
