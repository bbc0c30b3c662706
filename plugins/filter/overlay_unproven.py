# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_unproven
short_description: Devices about whose public key nothing is settled
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Names the devices that have no C(peer_public_key), neither from the inventory nor from the device itself in this
    run, and about which P(homelab.peer_relay.overlay_known_keys#filter) finds no agreement, or nothing at all.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, relays
options:
  relays:
    description: The relays, as P(homelab.peer_relay.overlay_relays#filter) tells them.
    type: list
    elements: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.overlay_known_keys
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Say whose key is in doubt
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.overlay_unproven(hostvars, overlay_networks, relays) }}"
"""

RETURN = r"""
_value:
  description: The devices, sorted by name.
  type: list
  elements: dict
  contains:
    name:
      description: The device.
      type: str
    said:
      description:
        - What is said of its key. Empty when nobody says anything.
      type: list
      elements: dict
      contains:
        public_key:
          description: The key.
          type: str
        devices:
          description: The names of the devices that say so.
          type: list
          elements: str
        relays:
          description: The names of the relays that say so.
          type: list
          elements: str
  sample:
    - name: laptop
      said:
        - public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
          devices: []
          relays: [vps]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.keys import agreed, second_hand
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import all_addresses, as_list


def overlay_unproven(hosts, hostvars, networks, relays):
    relays = as_list(relays)
    try:
        devices = collect_devices(hosts, hostvars, networks, all_addresses(relays))
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    settled = agreed(devices, hostvars, relays)
    return [
        {"name": name, "said": [{"public_key": key, **who} for key, who in keys.items()]}
        for name, keys in second_hand(devices, hostvars, relays).items()
        if name not in settled
    ]


class FilterModule:
    def filters(self):
        return {"overlay_unproven": overlay_unproven}
