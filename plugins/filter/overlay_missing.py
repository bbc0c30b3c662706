# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_missing
short_description: The devices whose public key nobody knows yet
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Names the hosts that P(homelab.peer_relay.overlay_devices#filter) leaves out for want of a key. Those are the hosts
    that no run has reached so far.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, registered
options:
  registered:
    description:
      - Names and public keys that the relay knows already, as in the fact C(relay_registered_keys).
      - A device without a C(peer_public_key) in this run keeps the key of this dictionary.
    type: dict
    default: {}
seealso:
  - plugin: homelab.peer_relay.overlay_devices
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Say who is missing
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.overlay_missing(hostvars, overlay_networks, relay_registered_keys) }}"
"""

RETURN = r"""
_value:
  description: The names, sorted.
  type: list
  elements: str
  sample: [phone]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices


def overlay_missing(hosts, hostvars, networks, registered=None):
    try:
        devices = collect_devices(hosts, hostvars, networks, None, registered)
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    return [device.name for device in devices if not device.public_key]


class FilterModule:
    def filters(self):
        return {"overlay_missing": overlay_missing}
