# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory's picture of the overlay, through the filters that show it."""

import base64
import ipaddress

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.first_hosts import first_hosts_filter as first_hosts
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_devices import overlay_devices
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_interface import overlay_interface
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_missing import overlay_missing
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import hashed_address
from hypothesis import assume, given
from hypothesis import strategies as st

NETWORKS = ["10.77.0.0/16", "fd77:7065:6572::/64"]


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


RELAY = {
    "name": "relay",
    "public_key": key(99),
    "endpoint": "192.0.2.1:40000",
    "inner_endpoint": "192.168.1.10:40000",
    "addresses": ["10.77.0.1", "fd77:7065:6572::1"],
}


def inventory(**hosts):
    """Hosts by name; each gets a key unless it brings one."""
    return {name: {"peer_public_key": key(i), **variables} for i, (name, variables) in enumerate(hosts.items(), 1)}


def refusal(function, *args) -> str:
    with pytest.raises(AnsibleFilterError) as caught:
        function(*args)
    return str(caught.value)


def test_first_hosts():
    assert first_hosts(NETWORKS) == ["10.77.0.1", "fd77:7065:6572::1"]


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "overlay_networks is []"),
        ("10.77.0.0/16", "give a list"),
        (["10.77.0.1/16"], "has host bits set"),
        (["10.77.0.0/16", "10.0.0.0/8"], "10.77.0.0/16 and 10.0.0.0/8 overlap"),
        (["10.77.0.0/30"], "no room for devices"),
        (["nonsense"], "'nonsense' is not a network"),
    ],
)
def test_bad_networks(networks, message):
    assert message in refusal(first_hosts, networks)


def test_devices_carry_what_the_relay_wants():
    hosts = inventory(nas={"peer_groups": ["b", "a"], "peer_rate_limit_mbit": "20"}, laptop={})
    devices = overlay_devices(list(hosts), hosts, NETWORKS)
    assert [device["name"] for device in devices] == ["laptop", "nas"]
    nas = devices[1]
    assert nas["groups"] == ["a", "b"]
    assert nas["rate_limit_mbit"] == 20
    assert set(nas) == {"name", "public_key", "addresses", "groups", "rate_limit_mbit", "expires"}
    assert [ipaddress.ip_address(a).version for a in nas["addresses"]] == [4, 6]


def test_an_address_depends_on_the_name_alone():
    few, many = inventory(nas={}), inventory(zoo={}, nas={}, alpha={})
    address = {d["name"]: d["addresses"] for d in overlay_devices(list(many), many, NETWORKS)}["nas"]
    assert overlay_devices(list(few), few, NETWORKS)[0]["addresses"] == address
    # Written down, since a change would renumber everybody's devices.
    assert address == ["10.77.240.77", "fd77:7065:6572:0:850d:f8a5:d4d4:2ed5"]


@given(
    name=st.text(min_size=1),
    network=st.one_of(
        st.integers(8, 29).map("10.0.0.0/{}".format),
        st.integers(32, 125).map("fd77::/{}".format),
    ).map(ipaddress.ip_network),
)
def test_hashed_addresses_are_free_hosts(name, network):
    reserved = {network.network_address + 1}
    address = hashed_address(name, network, reserved)
    assert address in network
    assert address not in {network.network_address} | reserved
    assert network.version == 6 or address != network.broadcast_address
    assert int(address) - int(network.network_address) < 2**64


@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9\u00e9_][A-Za-z0-9_.:@+-]{0,40}", fullmatch=True), unique=True, max_size=8)
)
def test_every_device_has_its_own_addresses(names):
    hosts = inventory(**{name: {} for name in names})
    try:
        devices = overlay_devices(names, hosts, NETWORKS)
    except AnsibleFilterError as error:
        assume("both have the overlay address" not in str(error))
        raise
    addresses = [address for device in devices for address in device["addresses"]]
    assert len(set(addresses)) == len(addresses) == 2 * len(names)


def test_explicit_addresses_win_in_their_network():
    hosts = inventory(nas={"peer_addresses": ["10.77.1.2"]})
    v4, v6 = overlay_devices(["nas"], hosts, NETWORKS)[0]["addresses"]
    assert v4 == "10.77.1.2"
    assert v6 == "fd77:7065:6572:0:850d:f8a5:d4d4:2ed5"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.168.1.1", "192.168.1.1 is outside the overlay networks (10.77.0.0/16, fd77:7065:6572::/64)"),
        ("10.77.0.1", "10.77.0.1 is the relay's"),
        ("10.77.0.0", "10.77.0.0 is no host of 10.77.0.0/16"),
        ("10.77.255.255", "no host of"),
        ("10.77.1.2/16", "write it without a prefix length"),
    ],
)
def test_bad_addresses(address, message):
    text = refusal(overlay_devices, ["nas"], inventory(nas={"peer_addresses": [address]}), NETWORKS)
    assert text.startswith("nas: peer_addresses")
    assert message in text


def test_a_collision_names_both_and_the_cure():
    hosts = inventory(nas={}, tv={"peer_addresses": ["10.77.240.77"]})
    text = refusal(overlay_devices, list(hosts), hosts, NETWORKS)
    assert text == (
        "nas and tv both have the overlay address 10.77.240.77 (nas's is derived from its name, "
        "tv's is set by peer_addresses): set peer_addresses of one of them to a free address"
    )


def test_two_hashed_addresses_can_collide():
    hosts = inventory(**{f"host{i}": {} for i in range(20)})
    text = refusal(overlay_devices, list(hosts), hosts, ["10.77.0.0/28"])
    assert "both have the overlay address" in text
    assert text.count("derived from its name") == 2


def test_one_key_for_two_devices():
    hosts = inventory(nas={}, tv={"peer_public_key": key(1)})
    assert "nas and tv have the same public key" in refusal(overlay_devices, list(hosts), hosts, NETWORKS)


@pytest.mark.parametrize("bad", ["x", "AAAA", key(1)[:-1], key(1) + "AAAA"])
def test_bad_keys(bad):
    hosts = {"nas": {"peer_public_key": bad}}
    assert "32 bytes in base64" in refusal(overlay_devices, ["nas"], hosts, NETWORKS)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"peer_groups": "default"}, "peer_groups is 'default'"),
        ({"peer_groups": []}, "peer_groups is []"),
        ({"peer_rate_limit_mbit": -1}, "peer_rate_limit_mbit is -1"),
        ({"peer_rate_limit_mbit": "fast"}, "peer_rate_limit_mbit is 'fast'"),
        ({"peer_managed": "maybe"}, "peer_managed is 'maybe'"),
        ({"peer_subnets": ["192.168.1.1/24"]}, "peer_subnets: '192.168.1.1/24' is not a network"),
        ({"peer_subnets": ["0.0.0.0/0"]}, "set peer_exit_node instead"),
        ({"peer_subnets": ["10.0.0.0/8"]}, "overlaps the overlay network 10.77.0.0/16"),
        ({"peer_dns": ["dns.example"]}, "peer_dns: 'dns.example' is not an IP address"),
        ({"peer_dns": ["10.77.0.999"]}, "peer_dns: '10.77.0.999' is not an IP address"),
        ({"peer_dns": ["fe80::1%eth0"]}, "peer_dns: 'fe80::1%eth0' is not an IP address"),
        ({"peer_dns": ["10.77.0.9", "9.9.9.9"]}, "peer_dns: 9.9.9.9 is not reached through the tunnel"),
    ],
)
def test_bad_variables(variables, message):
    text = refusal(overlay_devices, ["nas"], inventory(nas=variables), NETWORKS)
    assert text.startswith("nas: ")
    assert message in text


def test_devices_without_a_key():
    hosts = {"nas": {}, "tv": {}, "gone": {"peer_state": "absent"}}
    registered = {"nas": key(7), "gone": key(8)}
    assert [d["name"] for d in overlay_devices(list(hosts), hosts, NETWORKS, None, registered)] == ["nas"]
    assert overlay_missing(list(hosts), hosts, NETWORKS, registered) == ["tv"]


def test_a_fresh_key_beats_the_registered_one():
    hosts = inventory(nas={})
    assert overlay_devices(["nas"], hosts, NETWORKS, None, {"nas": key(7)})[0]["public_key"] == key(1)


def test_an_unmanaged_device_is_left_out_until_its_profile_has_a_key():
    hosts = {"phone": {"peer_managed": False}}
    assert overlay_devices(["phone"], hosts, NETWORKS) == []
    assert overlay_missing(["phone"], hosts, NETWORKS) == ["phone"]


def test_an_interface_has_the_relay_and_its_groups_peers():
    hosts = inventory(
        laptop={"peer_addresses": ["10.77.1.1", "fd77:7065:6572::a"]},
        nas={"peer_addresses": ["10.77.1.2", "fd77:7065:6572::b"], "peer_subnets": ["192.168.1.0/24"]},
        camera={"peer_groups": ["cameras"]},
        new={"peer_public_key": ""},
    )
    interface = overlay_interface(list(hosts), hosts, NETWORKS, "laptop", RELAY)
    assert interface["addresses"] == ["10.77.1.1/16", "fd77:7065:6572::a/64"]
    assert interface["peers"] == [
        {
            "name": "relay",
            "public_key": key(99),
            "endpoint": "192.0.2.1:40000",
            "inner_endpoint": "192.168.1.10:40000",
            "allowed_ips": ["10.77.0.1/32", "fd77:7065:6572::1/128"],
            "persistent_keepalive": 25,
        },
        {
            "name": "nas",
            "public_key": key(2),
            "endpoint": "192.0.2.1:40000",
            "inner_endpoint": "192.168.1.10:40000",
            "allowed_ips": ["10.77.1.2/32", "fd77:7065:6572::b/128", "192.168.1.0/24"],
            "persistent_keepalive": 0,
        },
    ]


def test_an_exit_node_carries_the_default_routes_of_the_overlays_families():
    hosts = inventory(
        laptop={"peer_use_exit_node": "vps"}, vps={"peer_exit_node": True}, other={"peer_exit_node": True}
    )
    peers = overlay_interface(list(hosts), hosts, NETWORKS, "laptop", RELAY)["peers"]
    assert [p["name"] for p in peers if "0.0.0.0/0" in p["allowed_ips"] and "::/0" in p["allowed_ips"]] == ["vps"]
    peers = overlay_interface(list(hosts), hosts, NETWORKS[:1], "laptop", {**RELAY, "addresses": ["10.77.0.1"]})[
        "peers"
    ]
    assert "::/0" not in peers[2]["allowed_ips"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody", "is not a present host of the group peers"),
        ("laptop", "the device itself"),
        ("nas", "is no exit node: set its peer_exit_node"),
        ("far", "share no group"),
    ],
)
def test_bad_exit_nodes(name, message):
    hosts = inventory(
        laptop={"peer_use_exit_node": name}, nas={}, far={"peer_exit_node": True, "peer_groups": ["elsewhere"]}
    )
    text = refusal(overlay_interface, list(hosts), hosts, NETWORKS, "laptop", RELAY)
    assert text.startswith(f"laptop: peer_use_exit_node is {name}")
    assert message in text


def test_name_servers_are_where_the_tunnel_leads():
    """Asked through the interface, any other would never answer."""
    servers = {"peer_dns": ["10.77.0.9", "192.168.1.1", "9.9.9.9", "2620:fe::9"], "peer_use_exit_node": "nas"}
    nas = {"peer_subnets": ["192.168.1.0/24"], "peer_exit_node": True}

    def says(networks=NETWORKS, nas=nas, **laptop):
        hosts = inventory(laptop=servers | laptop, nas=nas)
        try:
            return len(overlay_devices(list(hosts), hosts, networks))
        except AnsibleFilterError as error:
            return str(error).split(" is not reached")[0]

    assert says() == 2
    assert says(NETWORKS[:1]) == "laptop: peer_dns: 2620:fe::9"
    assert says(peer_use_exit_node="") == "laptop: peer_dns: 9.9.9.9"
    assert says(peer_use_exit_node="", nas={}) == "laptop: peer_dns: 192.168.1.1"
    assert says(peer_use_exit_node="", nas=nas | {"peer_groups": ["elsewhere"]}) == "laptop: peer_dns: 192.168.1.1"


def test_one_subnet_behind_two_peers():
    hosts = inventory(laptop={}, a={"peer_subnets": ["192.168.1.0/24"]}, b={"peer_subnets": ["192.168.1.0/24"]})
    text = refusal(overlay_interface, list(hosts), hosts, NETWORKS, "laptop", RELAY)
    assert "laptop reaches the subnet 192.168.1.0/24 through both a and b" in text


def test_an_interface_of_nobody():
    assert "not a present host" in refusal(overlay_interface, [], {}, NETWORKS, "laptop", RELAY)
