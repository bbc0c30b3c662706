# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Public keys of the devices that do not give theirs themselves in a run.

Each other machine keeps the key that it has of such a device. Who has none takes the one on which the files of all
devices of the run agree, unless a relay knows another one; it takes two to say so, a device and another device or a
relay. So no relay's word decides a device's key, nor does a single device's, and none changes what another machine has.
"""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import is_key

from .overlay import Device, collect_devices, host_route
from .relays import all_addresses


def stated(devices: list[Device], variables) -> dict[str, str]:
    """The keys by name that a device's own file has of the others; variables are those of its host.

    A peer is a device's if it has its name and one of its addresses: an address that is handed on takes no key with it.
    """
    routes = {device.name: set(map(host_route, device.addresses)) for device in devices}
    said: dict[str, set] = {}
    for peer in _peers(variables.get("peer_known_peers")):
        name = str(peer.get("name"))
        if not routes.get(name, set()).isdisjoint(map(str, peer.get("allowed_ips") or ())):
            said.setdefault(name, set()).add(str(peer.get("public_key")))
    # Who names two has said nothing.
    return {name: key for name, keys in said.items() if len(keys) == 1 for key in keys if is_key(key)}


def _peers(value) -> list[Mapping]:
    # The device says what it likes.
    return [peer for peer in value if isinstance(peer, Mapping)] if isinstance(value, list) else []


def second_hand(devices: list[Device], hostvars, relays: list[dict]) -> dict[str, dict[str, dict[str, list]]]:
    """Who has which key of each device that gives none: {name: {key: {"devices": names, "relays": names}}}."""
    found: dict = {device.name: {} for device in devices if not device.public_key}
    witnesses = [("devices", device.name, stated(devices, hostvars[device.name])) for device in devices]
    witnesses += [("relays", relay["name"], relay["registered"]) for relay in relays if relay["present"]]
    for kind, witness, keys in witnesses:
        for name in found.keys() & keys.keys():
            if is_key(str(keys[name])):
                found[name].setdefault(str(keys[name]), {"devices": [], "relays": []})[kind].append(witness)
    return found


def agreed(devices: list[Device], hostvars, relays: list[dict]) -> dict[str, str]:
    """The keys by name that may be taken at second hand."""
    found = second_hand(devices, hostvars, relays)
    # A device that names one key for two has named none.
    taken = [device.public_key for device in devices] + [relay["public_key"] for relay in relays]
    taken += [key for keys in found.values() for key in keys]
    return {
        name: key
        for name, keys in found.items()
        if len(keys) == 1
        for key, who in keys.items()
        if who["devices"] and len(who["devices"] + who["relays"]) > 1 and taken.count(key) == 1
    }


def known_keys(devices: list[Device], hostvars, relays: list[dict], name: str = "") -> dict[str, str]:
    """The keys by name that a device has, or may take at second hand; without a name, only the latter."""
    own = stated(devices, hostvars[name]) if name in hostvars else {}
    return agreed(devices, hostvars, relays) | own


def known_devices(hosts, hostvars, networks, relays: list[dict], name: str = "") -> list[Device]:
    """All present devices, each with the key that is known of it, by the device of that name if there is one."""
    addresses = all_addresses(relays)
    known = known_keys(collect_devices(hosts, hostvars, networks, addresses), hostvars, relays, name)
    return collect_devices(hosts, hostvars, networks, addresses, known)
