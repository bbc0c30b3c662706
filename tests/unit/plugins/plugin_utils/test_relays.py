# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several relays: their names and addresses, and what devices make of them."""

import base64
import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_devices import overlay_devices
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_interface import overlay_interface
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_relays import overlay_relays
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_targets import overlay_targets
from ansible_collections.homelab.peer_relay.plugins.filter.reachability_rows import reachability_rows
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import Interface, render

NETWORKS = ["10.77.0.0/16", "fd77:7065:6572::/64"]
PEERS = {"laptop": {"peer_addresses": ["10.77.1.1"]}, "nas": {"peer_addresses": ["10.77.1.2"]}}


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def inventory(**relays):
    """The variables of hosts: these relays, each set up in this run unless it says otherwise, and two devices."""
    hosts = {
        name: {
            "inventory_hostname": name,
            "ansible_host": f"192.0.2.{number}",
            "relay_public_key": key(90 + number),
            **variables,
        }
        for number, (name, variables) in enumerate(relays.items(), 1)
    }
    failed = {name: {k: v for k, v in variables.items() if v is not None} for name, variables in hosts.items()}
    return failed | {name: {"peer_public_key": key(i), **PEERS[name]} for i, name in enumerate(PEERS, 1)}


FAILED = {"relay_public_key": None}


def relays_of(hosts, written="", peers=tuple(PEERS), networks=NETWORKS):
    return overlay_relays([name for name in hosts if name not in PEERS], hosts, networks, peers, written)


def interface_of(hosts, written=""):
    return overlay_interface(list(PEERS), hosts, NETWORKS, "laptop", relays_of(hosts, written))


def written_by(hosts) -> str:
    """The file that the laptop has after a run."""
    return render_of(interface_of(hosts))


def render_of(found) -> str:
    options = {"name": "pr0", "mtu": 1420, "private_key_file": None, "post_up": [], "pre_down": []}
    options |= {"listen_port": 0, "keep_endpoints": False, "offered_only": False, **found}
    return render(Interface.from_options(options))


def refusal(function, *args) -> str:
    with pytest.raises(AnsibleFilterError) as caught:
        function(*args)
    return str(caught.value)


def test_the_only_relay_is_what_it_was():
    (relay,) = relays_of(inventory(vps={}))
    assert relay == {
        "host": "vps",
        "name": "relay",
        "present": True,
        "addresses": ["10.77.0.1", "fd77:7065:6572::1"],
        "set_up": True,
        "public_key": key(91),
        "endpoint": "192.0.2.1:40000",
        "inner_endpoint": "",
        "registered": {},
        "fallback_url": "",
        "fallback_fingerprint": "",
    }


def test_each_has_a_name_and_addresses_of_its_own():
    relays = relays_of(inventory(oslo={}, rome={"relay_name": "home", "relay_addresses": ["10.77.0.77"]}))
    assert [(relay["host"], relay["name"]) for relay in relays] == [("oslo", "oslo"), ("rome", "home")]
    hosts = inventory(oslo={}, rome={}) | {"nas": {"inventory_hostname": "nas"}}
    names = [relay["name"] for relay in overlay_relays(["oslo", "nas", "rome"], hosts, NETWORKS, list(PEERS))]
    assert names == ["oslo", "nas-relay", "rome"]
    assert relays[0]["addresses"] == ["10.77.0.1", "fd77:7065:6572::1"]
    assert relays[1]["addresses"] == ["10.77.0.77"]


def test_one_that_is_to_go_keeps_the_places_of_the_others():
    relays = relays_of(inventory(oslo={"relay_state": "absent"}, lima={}))
    assert [(relay["present"], relay["addresses"][0]) for relay in relays] == [
        (False, "10.77.0.1"),
        (True, "10.77.0.2"),
    ]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"relay_addresses": ["10.77.0.1"]}, "oslo and lima both have 10.77.0.1: set relay_addresses of one of them"),
        ({"relay_name": "oslo"}, "oslo and lima both have oslo: set relay_name of one of them"),
        ({"relay_addresses": "10.77.0.9"}, "lima: relay_addresses is '10.77.0.9': give a list"),
        ({"relay_addresses": ["10.77.0.9/16"]}, "lima: relay_addresses: '10.77.0.9/16' is not an IP address"),
        ({"relay_endpoint": "home.example:1"}, "lima: relay_endpoint is 'home.example:1'"),
    ],
)
def test_what_is_refused(variables, message):
    assert message in refusal(relays_of, inventory(oslo={}, lima=variables))


def test_one_that_is_to_go_may_hand_on_its_address():
    relays = relays_of(inventory(oslo={"relay_state": "absent"}, lima={"relay_addresses": ["10.77.0.1"]}))
    assert relays[1]["addresses"] == ["10.77.0.1"]


def test_a_network_too_small_for_so_many():
    hosts = inventory(**{f"r{number}": {} for number in range(7)})
    text = refusal(overlay_relays, list(hosts)[:7], hosts, ["10.77.0.0/29"])
    assert text == "10.77.0.0/29 has no room for 7 relays: use a larger network"


def test_no_device_has_an_address_of_any_relay():
    hosts = inventory(oslo={}, lima={}) | {"nas": {"peer_public_key": key(2), "peer_addresses": ["10.77.0.2"]}}
    text = refusal(overlay_interface, list(PEERS), hosts, NETWORKS, "laptop", relays_of(hosts))
    assert text == "nas: peer_addresses: 10.77.0.2 is the relay's: choose another address"
    # A name that leads to the second relay's address leads to another one instead.
    small = ["10.77.0.0/29"]
    hashed = [overlay_devices(["a"], {"a": {"peer_public_key": key(1)}}, small, [])[0]["addresses"][0]]
    moved = overlay_devices(["a"], {"a": {"peer_public_key": key(1)}}, small, hashed)[0]["addresses"]
    assert moved != hashed


def test_a_device_has_all_relays_and_reaches_the_others_by_the_first():
    peers = interface_of(inventory(oslo={}, lima={}))["peers"]
    assert [(peer["name"], peer["endpoint"], peer["persistent_keepalive"]) for peer in peers] == [
        ("oslo", "192.0.2.1:40000", 25),
        ("lima", "192.0.2.2:40000", 25),
        ("nas", "192.0.2.1:40000", 0),
    ]
    assert peers[1]["allowed_ips"] == ["10.77.0.2/32", "fd77:7065:6572::2/128"]


def test_the_first_one_is_the_first_that_is_to_be_there():
    peers = interface_of(inventory(oslo={"relay_state": "absent", **FAILED}, lima={}))["peers"]
    assert [(peer["name"], peer["endpoint"]) for peer in peers] == [
        ("lima", "192.0.2.2:40000"),
        ("nas", "192.0.2.2:40000"),
    ]


def test_a_device_keeps_what_it_has_of_a_relay_that_failed():
    router = {"external_address": "203.0.113.7", "inner_address": "192.168.1.10", "inner_port": 40000}
    before = inventory(oslo={"port_forward_result": router}, lima={})
    after = inventory(oslo=FAILED, lima={})
    assert interface_of(after, written_by(before)) == interface_of(before)
    (oslo, lima) = relays_of(after, written_by(before))
    assert (oslo["set_up"], oslo["public_key"], oslo["endpoint"]) == (False, key(91), "203.0.113.7:40000")
    assert oslo["inner_endpoint"] == "192.168.1.10:40000"
    assert lima["set_up"]


FALLBACK = {"relay_fallback_url": "wss://192.0.2.1:443/", "relay_fallback_fingerprint": "ab" * 32}


def agent_knows(relay: dict) -> str:
    """The settings of a device's agent, as the role writes them."""
    fields = ("name", "public_key", "fallback_url", "fallback_fingerprint")
    lines = "".join(f"{name} = {json.dumps(relay[name])}\n" for name in fields)
    return f'[agent]\ninterface = "pr0"\n\n[[relay]]\n{lines}\n[[peer]]\nname = "nas"\n'


@pytest.mark.parametrize("now", [FAILED, {"relay_fallback_url": None}])
def test_a_device_keeps_the_fallback_of_a_relay_that_failed(now):
    hosts = inventory(oslo=FALLBACK, rome={})
    known = agent_knows(relays_of(hosts)[0])
    later = inventory(oslo=now, rome={})
    relays = ["oslo", "rome"]
    oslo, rome = overlay_relays(relays, later, NETWORKS, tuple(PEERS), written_by(hosts), known)
    assert (oslo["fallback_url"], oslo["fallback_fingerprint"]) == tuple(FALLBACK.values())
    assert rome["fallback_url"] == ""


def test_a_fallback_that_is_switched_off_is_gone():
    known = agent_knows(relays_of(inventory(oslo=FALLBACK))[0])
    hosts = inventory(oslo={"relay_fallback_url": ""})
    assert overlay_relays(["oslo"], hosts, NETWORKS, tuple(PEERS), "", known)[0]["fallback_url"] == ""


def test_a_relay_and_a_device_have_two_names():
    hosts = inventory(relay={})
    assert [relay["name"] for relay in relays_of(hosts, peers=("relay",))] == ["relay-relay"]


def test_a_device_does_without_a_relay_that_it_has_never_known():
    before = inventory(lima={"relay_addresses": ["10.77.0.2", "fd77:7065:6572::2"]})
    peers = interface_of(inventory(oslo=FAILED, lima={}), written_by(before))["peers"]
    assert [peer["name"] for peer in peers] == ["lima", "nas"]
    assert peers[1]["endpoint"] == "192.0.2.2:40000"


def test_no_relay_at_all():
    assert "no relay has a public key" in refusal(interface_of, inventory(oslo=FAILED))


def test_every_relay_that_is_to_be_there_is_a_target():
    hosts = inventory(oslo={}, rome={"relay_state": "absent"}, lima=FAILED)
    targets = overlay_targets(list(PEERS), hosts, NETWORKS, "laptop", relays_of(hosts))
    assert [(target["name"], target["addresses"][0]) for target in targets] == [
        ("oslo", "10.77.0.1"),
        ("lima", "10.77.0.3"),
        ("nas", "10.77.1.2"),
    ]


def test_reachability_of_each_relay():
    def looped(**answers):
        return {
            "results": [
                {"ansible_loop_var": "relay", "relay": {"host": host}, "reachable": reachable, "indexes": []}
                for host, reachable in answers.items()
            ]
        }

    hosts = {
        "laptop": {"public": looped(oslo=True, lima=False)},
        "nas": {"public": {"unreachable": True, "msg": "off"}},
    }
    relays = [
        {"host": "lima", "endpoint": "192.0.2.2:40000", "inner_endpoint": ""},
        {"host": "oslo", "endpoint": "192.0.2.1:40000", "inner_endpoint": ""},
    ]
    rows = reachability_rows(list(hosts), hosts, "public", "inner", relays)
    assert [(row["relay"], row["device"], row["endpoint"], row["reachable"]) for row in rows] == [
        ("lima", "laptop", "192.0.2.2:40000", False),
        ("lima", "nas", "192.0.2.2:40000", None),
        ("oslo", "laptop", "192.0.2.1:40000", True),
        ("oslo", "nas", "192.0.2.1:40000", None),
    ]


ROUTER = {"port_forward_result": {"external_address": "203.0.113.99", "external_port": 40000}}


def test_a_relay_that_failed_has_told_nobody_anything():
    """Not even where the router in front of it says that it is: an attacker may be that router."""
    before = written_by(inventory(vps={}, home={}))
    hosts = inventory(vps={}, home=FAILED | ROUTER | {"relay_fallback_url": "wss://203.0.113.99/"})
    relays = {relay["host"]: relay for relay in relays_of(hosts, before)}
    assert relays["home"]["endpoint"] == "192.0.2.2:40000"
    assert "203.0.113.99" not in render_of(interface_of(hosts, before))
    # Nor where the device knows nothing of it yet.
    assert "203.0.113.99" not in relays_of(hosts)[1]["endpoint"]
    assert relays_of(inventory(vps={}, home=ROUTER))[1]["endpoint"] == "203.0.113.99:40000"


@pytest.mark.parametrize("text", ["x\n[Interface]", "a b", 'a"b', "-x", "x\u2028", "\ud800", "", "x" * 65])
def test_names_are_names(text):
    hosts = inventory(vps={"relay_name": text})
    if text:
        assert "vps: relay_name is " in refusal(relays_of, hosts)
    hosts = inventory(vps={})
    hosts["laptop"]["peer_groups"] = ["default", text]
    assert "laptop: peer_groups is " in refusal(interface_of, hosts)


@pytest.mark.parametrize(
    "url",
    [
        "https://x/",
        "wss://x\n/",
        "wss://a b/",
        'wss://x/"',
        "wss://[fe80::1%x]/",
        "wss://x:0/",
        "wss://x:70000/",
        "wss://",
    ],
)
def test_a_fallback_has_the_url_of_a_websocket(url):
    assert "vps: relay_fallback_url is " in refusal(relays_of, inventory(vps={"relay_fallback_url": url}))


@pytest.mark.parametrize("fingerprint", ["ab", "x" * 64, f"{'ab' * 32}\n", f"{'ab' * 31}a\u0131"])
def test_a_fingerprint_has_64_digits(fingerprint):
    fallback = {"relay_fallback_url": "wss://x/", "relay_fallback_fingerprint": fingerprint}
    assert "vps: relay_fallback_fingerprint is " in refusal(relays_of, inventory(vps=fallback))
