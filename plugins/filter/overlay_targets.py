# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_targets
short_description: Who is to be reachable from a device
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Names the relays and the devices that share a group with a device, with their overlay addresses, as
    M(homelab.peer_relay.path_info) takes them.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, name, relays, off
options:
  name:
    description: The name of the device.
    type: str
    required: true
  relays:
    description:
      - The relays, as P(homelab.peer_relay.overlay_relays#filter) tells them. One that is not C(present) is left out.
      - A dictionary stands for a list of one.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      present:
        description: Whether it is to be there.
        type: bool
        default: true
      addresses:
        description: Its own overlay addresses.
        type: list
        elements: str
        required: true
  "off":
    description:
      - Hosts that are known to be off. They, and devices that are not managed, such as a phone that sleeps, get a short
        C(timeout).
    type: list
    elements: str
    default: []
    version_added: 1.3.0
seealso:
  - module: homelab.peer_relay.path_info
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show who is to be reachable
  ansible.builtin.debug:
    msg: >-
      {{ groups['peers'] | homelab.peer_relay.overlay_targets(hostvars, overlay_networks, inventory_hostname, relays) }}
"""

RETURN = r"""
_value:
  description: Names and addresses, the relays first, the devices sorted by name.
  type: list
  elements: dict
  contains:
    name:
      description: The name of the relay or device.
      type: str
    addresses:
      description: Its overlay addresses.
      type: list
      elements: str
    timeout:
      description: How many seconds to wait for its answers. Only of those that may well be off.
      type: int
  sample:
    - name: relay
      addresses: [10.77.0.1]
    - name: nas
      addresses: [10.77.56.78]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import all_addresses, as_list

BRIEF = 4  # seconds


def overlay_targets(hosts, hostvars, networks, name, relays, off=()):
    relays = as_list(relays)
    try:
        devices = collect_devices(hosts, hostvars, networks, all_addresses(relays))
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    own = next((device for device in devices if device.name == name), None)
    if own is None:
        raise AnsibleFilterError(f"{name}: not a present host of the group peers")
    others = [device for device in devices if device is not own and own.shares_group(device)]
    relays = [relay for relay in relays if relay["present"]]
    silent = {*off, *(relay["name"] for relay in relays if relay.get("host") in off)}
    silent |= {device.name for device in others if not device.managed}
    targets = [(relay["name"], relay["addresses"]) for relay in relays]
    targets += [(device.name, device.addresses) for device in others]
    return [
        {"name": name, "addresses": list(addresses), **({"timeout": BRIEF} if name in silent else {})}
        for name, addresses in targets
    ]


class FilterModule:
    def filters(self):
        return {"overlay_targets": overlay_targets}
