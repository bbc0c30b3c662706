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
  - Names the relay and the devices that share a group with a device, with their overlay addresses, as
    M(homelab.peer_relay.path_info) takes them.
positional: hostvars, networks, name, relay
options:
  _input:
    description: The names of the hosts of the group C(peers).
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  networks:
    description: The overlay networks.
    type: list
    elements: str
    required: true
  name:
    description: The name of the device.
    type: str
    required: true
  relay:
    description: The relay.
    type: dict
    required: true
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      addresses:
        description: Its own overlay addresses.
        type: list
        elements: str
        required: true
"""

EXAMPLES = r"""
- name: Show who is to be reachable
  ansible.builtin.debug:
    msg: >-
      {{ groups['peers'] | homelab.peer_relay.overlay_targets(hostvars, overlay_networks, inventory_hostname, relay) }}
"""

RETURN = r"""
_value:
  description: Names and addresses, the relay first, the devices sorted by name.
  type: list
  elements: dict
  sample:
    - name: relay
      addresses: [10.77.0.1]
    - name: nas
      addresses: [10.77.56.78]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices


def overlay_targets(hosts, hostvars, networks, name, relay):
    try:
        devices = collect_devices(hosts, hostvars, networks, relay["addresses"])
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    own = next((device for device in devices if device.name == name), None)
    if own is None:
        raise AnsibleFilterError(f"{name}: not a present host of the group peers")
    targets = [{"name": relay["name"], "addresses": list(relay["addresses"])}]
    targets += [
        {"name": device.name, "addresses": list(device.addresses)}
        for device in devices
        if device is not own and own.shares_group(device)
    ]
    return targets


class FilterModule:
    def filters(self):
        return {"overlay_targets": overlay_targets}
