# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: first_hosts
short_description: The first host address of each network
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - The first host address of each overlay network, which is the first relay's own unless it is told otherwise.
options:
  _input:
    description: The overlay networks.
    type: list
    elements: str
    required: true
seealso:
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
"""

EXAMPLES = r"""
relay_addresses: "{{ ['10.77.0.0/16', 'fd77:7065:6572::/64'] | homelab.peer_relay.first_hosts }}"
# => ['10.77.0.1', 'fd77:7065:6572::1']
"""

RETURN = r"""
_value:
  description: One address for each network.
  type: list
  elements: str
  sample: [10.77.0.1, "fd77:7065:6572::1"]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, default_addresses


def first_hosts_filter(networks):
    try:
        return default_addresses(networks)
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"first_hosts": first_hosts_filter}
