# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles of devices that Ansible does not reach: their text, and what they say has changed."""

import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_profiles import overlay_profiles
from ansible_collections.homelab.peer_relay.plugins.plugin_utils import qr
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.profiles import (
    Profile,
    changes,
    new_key,
    private_key_of,
    public_key_of,
    without_key,
)
from ansible_collections.homelab.peer_relay.tests.unit.plugins.plugin_utils.test_overlay import (
    NETWORKS,
    RELAY,
    inventory,
    key,
)

OTHER = {
    **RELAY,
    "name": "rome",
    "public_key": key(98),
    "endpoint": "198.51.100.7:40000",
    "addresses": ["10.77.0.2", "fd77:7065:6572::2"],
}


def profiles(hosts, relays=RELAY, name="phone"):
    return {profile["tunnel"]: profile["text"] for profile in overlay_profiles(hosts, hosts, NETWORKS, name, relays)}


def test_one_relay_makes_one_profile_of_the_devices_name():
    hosts = inventory(
        phone={"peer_addresses": ["10.77.9.9", "fd77:7065:6572::99"]},
        nas={"peer_addresses": ["10.77.8.8"], "peer_subnets": ["192.168.7.0/24"]},
    )
    (text,) = profiles(hosts).values()
    assert text.startswith(
        "# phone, by way of relay\n[Interface]\nAddress = 10.77.9.9/16, fd77:7065:6572::99/64\nMTU = 1280\n\n"
    )
    assert f"# relay\n[Peer]\nPublicKey = {key(99)}\nEndpoint = 192.0.2.1:40000\n" in text
    assert "AllowedIPs = 10.77.0.1/32, fd77:7065:6572::1/128\nPersistentKeepalive = 25\n" in text
    assert f"# nas\n[Peer]\nPublicKey = {key(2)}\nEndpoint = 192.0.2.1:40000\nAllowedIPs = 10.77.8.8/32" in text
    assert text.count("PersistentKeepalive") == 1
    assert "192.168.7.0/24" in text


def test_the_apps_own_settings():
    hosts = inventory(
        phone={"peer_dns": ["9.9.9.9", "2620:fe::fe"], "peer_mtu": 1400, "peer_use_exit_node": "nas"},
        nas={"peer_exit_node": True},
    )
    (text,) = profiles(hosts).values()
    assert "DNS = 9.9.9.9, 2620:fe::fe\nMTU = 1400\n" in text
    assert "0.0.0.0/0, ::/0" in text


def test_each_relay_has_a_profile_with_its_name():
    made = profiles(inventory(phone={}, nas={}), [RELAY, OTHER])
    assert set(made) == {"phone-relay", "phone-rome"}
    assert "192.0.2.1" in made["phone-relay"]
    assert "198.51.100.7" not in made["phone-relay"]
    assert "192.0.2.1" not in made["phone-rome"]


def test_stated_endpoints_make_a_direct_profile():
    hosts = inventory(phone={}, nas={"peer_endpoints": ["203.0.113.5:51820"]}, other={})
    made = profiles(hosts)
    assert set(made) == {"phone", "phone-direct"}
    assert "203.0.113.5:51820" in made["phone-direct"]
    assert made["phone-direct"].count("Endpoint = 192.0.2.1:40000") == 2


def test_whom_it_may_not_reach_is_left_out():
    hosts = inventory(
        phone={"peer_groups": ["family"]},
        nas={"peer_groups": ["family", "lab"], "peer_endpoints": []},
        server={"peer_groups": ["lab"], "peer_endpoints": ["203.0.113.5:1"]},
    )
    made = profiles(hosts)
    assert list(made) == ["phone"]
    assert "# nas\n" in made["phone"]
    assert "server" not in made["phone"]


@pytest.mark.parametrize(
    ("name", "relays", "message"),
    [
        ("a/b", RELAY, "would be called 'a/b'"),
        ("phone", [RELAY, {**OTHER, "name": "a:b"}], "'phone-a:b'"),
        ("phone", [{**RELAY, "name": "a" * 15}, {**OTHER, "name": "a" * 16}], "two profiles would be called"),
    ],
)
def test_names_that_tunnels_cannot_have(name, relays, message):
    hosts = inventory(**{name: {}})
    with pytest.raises(AnsibleFilterError, match=message):
        profiles(hosts, relays, name)


def test_long_names_end_where_interfaces_names_do():
    assert list(profiles(inventory(grandmothers_telephone={}), name="grandmothers_telephone")) == ["grandmothers_te"]


def test_keys_are_wireguards():
    private = new_key()
    assert len(private) == 44
    # RFC 7748, section 6.1: Alice's keys.
    assert (
        public_key_of("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=") == "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    )
    assert public_key_of(private) != private


def test_the_key_comes_and_goes():
    profile = Profile("phone", "# phone, by way of relay\n[Interface]\nAddress = 10.77.9.9/16\n")
    text = profile.with_key(key(7))
    assert private_key_of(text) == key(7)
    assert without_key(text) == profile.text
    assert private_key_of(profile.with_key("")) == ""


def test_changes_are_told_in_words_and_without_keys():
    (before,) = profiles(inventory(phone={}, nas={}, old={})).values()
    hosts = inventory(phone={}, nas={"peer_subnets": ["192.168.7.0/24"]}, zoo={})
    hosts["nas"]["peer_public_key"] = key(2)
    (after,) = profiles(hosts, {**RELAY, "endpoint": "192.0.2.9:40000"}).values()
    said = changes(Profile("phone", before).with_key(key(7)), after)
    assert said == [
        "zoo is new",
        "old is gone",
        "relay has another Endpoint",
        "nas has another Endpoint and AllowedIPs",
    ]
    assert changes(before, Profile("phone", before).with_key(key(7))) == []


def test_wg_quick_itself_reads_a_profile(tmp_path):
    (text,) = profiles(inventory(phone={}, nas={})).values()
    path = tmp_path / "phone.conf"
    path.write_text(Profile("phone", text).with_key(new_key()))
    stripped = subprocess.run(["wg-quick", "strip", str(path)], capture_output=True, text=True, check=True).stdout
    assert stripped.count("[Peer]") == 2


def test_what_fits_into_a_code():
    assert qr.fits("a" * 2953)
    assert not qr.fits("a" * 2954)
    assert not qr.fits("ä" * 1477)
