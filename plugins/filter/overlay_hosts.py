# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_hosts
short_description: The hosts that a play is for
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Picks the relays and devices that Ansible is to reach, by the state that they are to have. Or else the devices that
    it does not reach, whose tasks are for the control node.
  - Made for C(hosts) of a play, whose output then has no line for the others.
positional: hostvars, group, state, managed
options:
  _input:
    description: The variable C(groups). It needs neither C(relays) nor C(peers).
    type: dict
    required: true
  hostvars:
    description: The variable C(hostvars). There is none before the first play has run.
    type: dict
    required: true
  group:
    description: The group to pick from. Without it, both.
    type: str
    choices: [relays, peers]
  state:
    description: The C(relay_state) or C(peer_state) of the hosts to pick. Without it, any.
    type: str
    choices: [present, absent]
  managed:
    description: The C(peer_managed) of the devices to pick.
    type: bool
    default: true
seealso:
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_devices
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Do something with the devices
  hosts: "{{ groups | homelab.peer_relay.overlay_hosts(hostvars | default({}), 'peers', 'present') }}"

- name: Do something with relays and devices alike, whichever state they are to have
  hosts: "{{ groups | homelab.peer_relay.overlay_hosts(hostvars | default({})) }}"
"""

RETURN = r"""
_value:
  description: Their names. A pattern that matches nothing when there are none, since a play wants one.
  type: list
  elements: str
  sample: [laptop, nas]
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.hosts import in_state

NOBODY = "all:!all"
VARIABLES = {"relays": "relay_state", "peers": "peer_state"}


def overlay_hosts(groups, hostvars, group=None, state=None, managed=True):
    chosen = [
        host
        for name, variable in VARIABLES.items()
        if group in (None, name)
        for host in in_state(groups.get(name) or [], hostvars, variable, state, managed)
    ]
    return list(dict.fromkeys(chosen)) or [NOBODY]


class FilterModule:
    def filters(self):
        return {"overlay_hosts": overlay_hosts}
