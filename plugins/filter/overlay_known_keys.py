# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_known_keys
short_description: Public keys of the devices that a run does not reach
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Tells the public keys of devices that have no C(peer_public_key), neither from the inventory nor from the device
    itself in this run.
  - A device keeps the key that its own file has of another one. Without one it gets the key on which the files of all
    devices of this run agree, unless a relay has another one registered.
  - No relay's word makes a key known.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, relays, name
options:
  relays:
    description: The relays, as P(homelab.peer_relay.overlay_relays#filter) tells them.
    type: list
    elements: dict
    required: true
  name:
    description: The device whose own file counts first. Without a name there is none.
    type: str
    default: ""
seealso:
  - plugin: homelab.peer_relay.overlay_unproven
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_interface
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show what the others say about devices that are off
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.overlay_known_keys(hostvars, overlay_networks, relays) }}"
"""

RETURN = r"""
_value:
  description: The public keys by the names of the devices.
  type: dict
  sample: {"laptop": "0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk="}
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.keys import known_keys
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import all_addresses, as_list


def overlay_known_keys(hosts, hostvars, networks, relays, name=""):
    relays = as_list(relays)
    try:
        devices = collect_devices(hosts, hostvars, networks, all_addresses(relays))
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    return known_keys(devices, hostvars, relays, str(name))


class FilterModule:
    def filters(self):
        return {"overlay_known_keys": overlay_known_keys}
