# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who decides a device's public key in a run that does not reach the device: no relay, and no other device alone."""

import base64

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_devices import overlay_devices
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_interface import overlay_interface
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_known_keys import overlay_known_keys
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_relays import overlay_relays
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_unproven import overlay_unproven
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import read_back

NETWORKS = ["10.77.0.0/16"]
ADDRESSES = {"laptop": "10.77.1.1", "nas": "10.77.1.2", "pi": "10.77.1.3", "tv": "10.77.1.4"}


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


TRUE = {"laptop": key(1), "nas": key(2), "pi": key(3), "tv": key(4)}
FORGED = key(66)


def file_with(**keys) -> list:
    """What a device says of its file, with these peers."""
    return [
        {"name": name, "public_key": public_key, "allowed_ips": [f"{ADDRESSES[name]}/32", "192.168.7.0/24"]}
        for name, public_key in keys.items()
    ]


class Run:
    """A run of site that reaches the devices given, whose files have those keys; the other devices are off."""

    def __init__(self, registered=None, relays=None, pinned=None, **files) -> None:
        self.hosts = {name: {"peer_addresses": [address]} for name, address in ADDRESSES.items()}
        for name, keys in files.items():
            self.hosts[name] |= {"peer_public_key": TRUE[name], "peer_known_peers": file_with(**keys)}
        for name, public_key in (pinned or {}).items():
            self.hosts[name]["peer_public_key"] = public_key
        self.relay_names = list(relays or ["oslo"])
        for number, name in enumerate(self.relay_names):
            known = relays[name] if relays else registered or {}
            self.hosts[name] = {
                "inventory_hostname": name,
                "ansible_host": f"192.0.2.{number + 1}",
                "relay_public_key": key(90 + number),
                "relay_registered_keys": known,
            }
        self.arguments = (list(ADDRESSES), self.hosts, NETWORKS)
        self.relays = overlay_relays(self.relay_names, self.hosts, NETWORKS, list(ADDRESSES))

    def of(self, device: str) -> dict:
        """The keys of the other devices that this one's interface is to have."""
        peers = overlay_interface(*self.arguments, device, self.relays)["peers"]
        return {peer["name"]: peer["public_key"] for peer in peers if peer["name"] in ADDRESSES}

    def at(self, relay: str) -> dict:
        """The keys that a relay is to have registered, as the role relay asks for them."""
        own = self.hosts[relay]["relay_registered_keys"]
        known = overlay_known_keys(*self.arguments, self.relays) | own
        return {device["name"]: device["public_key"] for device in overlay_devices(*self.arguments, [], known)}

    @property
    def unproven(self) -> dict:
        return {entry["name"]: entry["said"] for entry in overlay_unproven(*self.arguments, self.relays)}


def test_what_a_relay_says_of_a_device_that_is_off_changes_no_device():
    run = Run(registered=TRUE | {"tv": FORGED}, laptop={"tv": key(4)}, nas={"tv": key(4)})
    assert run.of("laptop") == {"nas": key(2), "tv": key(4)}
    assert run.of("nas") == {"laptop": key(1), "tv": key(4)}


def test_what_only_a_relay_says_is_not_taken_by_a_new_device():
    run = Run(registered=TRUE, pi={})
    assert run.of("pi") == {}
    assert run.unproven["tv"] == [{"public_key": key(4), "devices": [], "relays": ["relay"]}]


def test_a_new_device_takes_what_all_devices_agree_on():
    run = Run(registered=TRUE, pi={}, laptop={"tv": key(4)}, nas={"tv": key(4)})
    assert run.of("pi")["tv"] == key(4)
    assert run.unproven == {}


@pytest.mark.parametrize(
    "files",
    [
        {"laptop": {"tv": key(4)}, "nas": {"tv": FORGED}},
        # No majority decides: three machines may be one machine's.
        {"laptop": {"tv": FORGED}, "nas": {"tv": FORGED}, "pi": {"tv": key(4)}},
    ],
)
def test_where_devices_disagree_each_keeps_its_own_and_none_takes_any(files):
    run = Run(**files)
    for device, keys in files.items():
        assert run.of(device)["tv"] == keys["tv"], device
    assert {entry["public_key"]: entry["devices"] for entry in run.unproven["tv"]} == {
        public_key: [device for device, keys in files.items() if keys["tv"] == public_key]
        for public_key in (key(4), FORGED)
    }
    run = Run(**{name: keys for name, keys in files.items() if name != "pi"}, pi={})
    assert ("tv" in run.of("pi")) == (len({keys["tv"] for name, keys in files.items() if name != "pi"}) == 1)


def test_a_device_that_lies_alone_is_contradicted_by_a_relay():
    """Run with --limit to a new device and one that has been taken over: two would have to lie."""
    run = Run(registered={"tv": key(4)}, laptop={"tv": FORGED}, pi={})
    assert "tv" not in run.of("pi")
    assert run.at("oslo")["tv"] == key(4), "it keeps what it has"
    assert {entry["public_key"] for entry in run.unproven["tv"]} == {key(4), FORGED}


def test_no_device_alone_decides_anothers_key():
    """Run with --limit to a new device or relay and one that has been taken over: nobody is there to contradict."""
    run = Run(laptop={"tv": FORGED}, pi={})
    assert "tv" not in run.of("pi")
    assert "tv" not in run.at("oslo")
    assert run.unproven["tv"] == [{"public_key": FORGED, "devices": ["laptop"], "relays": []}]
    run = Run(registered={"tv": key(4)}, laptop={"tv": key(4)}, pi={})
    assert run.of("pi")["tv"] == key(4), "a relay that says the same is a second word"


def test_another_text_of_the_same_key_is_no_key():
    """WireGuard takes both for one peer: a device would take the other's addresses away, or its own place."""
    other = TRUE["nas"][:42] + chr(ord(TRUE["nas"][42]) + 1) + "="
    assert base64.b64decode(other) == base64.b64decode(TRUE["nas"])
    for bad in (other, base64.b64encode(bytes(32)).decode(), TRUE["nas"] + "\n"):
        run = Run(laptop={}, nas={})
        run.hosts["laptop"]["peer_public_key"] = bad
        with pytest.raises(AnsibleFilterError, match="laptop: peer_public_key is"):
            run.of("nas")


def test_two_relays_that_disagree_decide_nothing_and_keep_their_own():
    run = Run(relays={"oslo": {"tv": key(4)}, "rome": {"tv": FORGED}}, laptop={"tv": key(4)}, pi={})
    assert run.of("laptop")["tv"] == key(4)
    assert "tv" not in run.of("pi")
    assert run.at("oslo")["tv"] == key(4)
    assert run.at("rome")["tv"] == FORGED, "that is its own affair"


def test_a_new_relay_takes_what_the_devices_agree_on_and_no_relays_word():
    run = Run(relays={"oslo": TRUE, "rome": {}}, laptop={"tv": key(4)}, nas={"tv": key(4)})
    assert run.at("rome") == {"laptop": key(1), "nas": key(2), "tv": key(4)}, "pi is known to the relay oslo only"
    run = Run(relays={"oslo": TRUE | {"tv": FORGED}, "rome": {}}, laptop={"tv": key(4)}, nas={"tv": key(4)})
    assert "tv" not in run.at("rome")


def test_the_device_itself_and_the_inventory_beat_everything():
    forged = {"tv": FORGED}
    for run in (
        Run(registered=forged, laptop=forged, nas=forged, tv={}),
        Run(registered=forged, laptop=forged, nas=forged, pinned={"tv": key(4)}),
    ):
        assert run.of("laptop")["tv"] == run.of("nas")["tv"] == run.at("oslo")["tv"] == key(4)


def test_a_device_made_anew_while_another_is_off():
    """tv has a new key; the laptop was off then, and is on now while tv is off."""
    run = Run(registered={"tv": FORGED}, nas={"tv": FORGED}, laptop={"tv": key(4)})
    assert (run.of("nas")["tv"], run.of("laptop")["tv"]) == (FORGED, key(4))
    assert {entry["public_key"]: (entry["devices"], entry["relays"]) for entry in run.unproven["tv"]} == {
        key(4): (["laptop"], []),
        FORGED: (["nas"], ["relay"]),
    }
    # The next run reaches it.
    run = Run(registered={"tv": FORGED}, nas={"tv": FORGED}, laptop={"tv": key(4)}, tv={})
    assert run.of("laptop")["tv"] == run.of("nas")["tv"] == TRUE["tv"]


def test_an_address_that_is_handed_on_takes_no_key_with_it():
    """A stolen phone had it; the inventory gives it to tv, which no run has reached yet."""
    run = Run(laptop={}, nas={})
    for name in ("laptop", "nas"):
        run.hosts[name]["peer_known_peers"] = [
            {"name": "phone", "public_key": FORGED, "allowed_ips": [f"{ADDRESSES['tv']}/32"]}
        ]
    assert run.of("laptop") == {"nas": key(2)}
    run.hosts["laptop"]["peer_known_peers"] = [{"name": "tv", "public_key": FORGED, "allowed_ips": ["10.77.9.9/32"]}]
    assert run.of("laptop") == {"nas": key(2)}, "nor does a name with another address"


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        "text",
        {"tv": key(4)},
        [None, 7, "tv", {}, {"name": "tv"}, {"name": ["tv"], "public_key": [], "allowed_ips": [[]]}],
        [{"name": "tv", "public_key": "short", "allowed_ips": ["10.77.1.4/32"]}],
        [{"name": "tv", "public_key": key(4) + "\n[Peer]", "allowed_ips": ["10.77.1.4/32"]}],
        [{"name": "tv", "public_key": k, "allowed_ips": ["10.77.1.4/32"]} for k in (key(4), FORGED)],
    ],
)
def test_nonsense_from_a_device_says_nothing(nonsense):
    run = Run(registered={"tv": [1], "pi": "nonsense"}, laptop={}, nas={})
    run.hosts["laptop"]["peer_known_peers"] = nonsense
    assert run.of("laptop") == {"nas": key(2)}
    assert run.of("nas") == {"laptop": key(1)}
    assert run.unproven == {"pi": [], "tv": []}


@pytest.mark.parametrize("stolen", [TRUE["nas"], key(90)], ids=["a device's", "the relay's"])
def test_a_device_that_gives_anothers_key_for_a_third_stops_nobody(stolen):
    run = Run(laptop={"tv": stolen}, nas={}, pi={})
    assert run.of("nas") == {"laptop": key(1), "pi": key(3)}
    assert run.of("pi") == {"laptop": key(1), "nas": key(2)}
    run = Run(laptop={"tv": FORGED, "pi": FORGED}, nas={})
    assert run.of("nas") == {"laptop": key(1)}, "nor one key for two"


@pytest.mark.parametrize(
    ("host", "facts"),
    [
        ("laptop", {"peer_addresses": ["10.77.1.4"]}),
        ("laptop", {"distribution": "Debian", "peer_groups": ["secret"]}),
        ("oslo", {"relay_addresses": ["10.77.1.4"]}),
    ],
)
def test_no_host_decides_a_variable_of_the_inventory(host, facts):
    """Ansible lets a fact that a module returns win over the inventory."""
    run = Run(laptop={}, nas={})
    run.hosts[host] |= {"ansible_facts": facts, **facts}
    with pytest.raises(AnsibleFilterError, match=rf"{host} reports (peer|relay)_\w+ as a fact"):
        overlay_relays(run.relay_names, run.hosts, NETWORKS, list(ADDRESSES))
        run.of("nas")


def test_the_file_names_its_peers():
    text = """# Managed by Ansible
[Interface]
PrivateKey = c2VjcmV0
# not a peer
[Peer]
# nas
PublicKey = KEY
# Inner endpoint: 192.168.1.10:40000
Endpoint = 192.0.2.1:40000
AllowedIPs = 10.77.1.2/32, 10.9.0.0/16

[Peer]
PublicKey = OTHER
AllowedIPs = 10.77.1.3/32
# tv
"""
    written = read_back(text)
    assert written.names == {"KEY": "nas", "OTHER": ""}
    assert written.allowed_ips["KEY"] == {"10.77.1.2/32", "10.9.0.0/16"}
