# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: option_faults
short_description: What is wrong with the options of the roles
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Compares the options that a host's variables set with the argument specs of this collection's roles, so that a
    playbook can refuse them before it changes anything.
  - A variable of this collection that the host itself reports as a fact is a fault as well, with whatever roles.
positional: roles
options:
  _input:
    description: The host's variables, from C(hostvars).
    type: dict
    required: true
  roles:
    description: The names of the roles.
    type: list
    elements: str
    required: true
seealso:
  - plugin: homelab.peer_relay.peer
    plugin_type: role
  - plugin: homelab.peer_relay.relay
    plugin_type: role
"""

EXAMPLES = r"""
faults: "{{ hostvars[inventory_hostname] | homelab.peer_relay.option_faults(['peer']) }}"
# => ["laptop: peer_agent is 'maybe': give true or false"]
"""

RETURN = r"""
_value:
  description: A sentence for each fault, with the host, the option, its value and what to give.
  type: list
  elements: str
  sample: ["laptop: peer_agent is 'maybe': give true or false"]
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.options import faults


def option_faults(variables, roles):
    return faults(variables, roles)


class FilterModule:
    def filters(self):
        return {"option_faults": option_faults}
