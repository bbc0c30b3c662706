# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_devices
short_description: The devices that a relay is to know
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes the list of devices for a relay's settings from the hosts of the inventory group C(peers).
  - A host without C(peer_addresses) gets an address in each network that depends on its inventory name alone.
  - A host whose C(peer_state) is V(absent), or whose public key nobody knows yet, is left out.
  - Fails when the inventory contradicts itself, such as two devices with one address or one key.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, relay_addresses, registered
options:
  relay_addresses:
    description:
      - The relay's own overlay addresses, which no device may have.
      - Default is the first host address of each network.
    type: list
    elements: str
  registered:
    description:
      - Names and public keys that the relay knows already, as in the fact C(relay_registered_keys).
      - A device without a C(peer_public_key) in this run keeps the key of this dictionary.
    type: dict
    default: {}
seealso:
  - plugin: homelab.peer_relay.overlay_missing
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
  - plugin: homelab.peer_relay.relay
    plugin_type: role
"""

EXAMPLES = r"""
relay_devices: >-
  {{ groups['peers'] | homelab.peer_relay.overlay_devices(hostvars, relay_networks, relay_addresses,
                                                          relay_registered_keys) }}
"""

RETURN = r"""
_value:
  description: One dictionary for each device, sorted by name.
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    public_key:
      description: Its public key.
      type: str
    addresses:
      description: Its overlay addresses.
      type: list
      elements: str
    groups:
      description: The groups that it is in. Two devices may talk when they share one.
      type: list
      elements: str
    rate_limit_mbit:
      description: How much the relay forwards for it, in Mbit/s. V(0) is without a limit.
      type: float
    expires:
      description: The moment from which on it is let in no more, in ISO 8601. Empty for never.
      type: str
  sample:
    - name: laptop
      public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
      addresses: [10.77.12.34, "fd77:7065:6572::a:b:c:d"]
      groups: [default]
      rate_limit_mbit: 0
      expires: ""
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, collect_devices


def overlay_devices(hosts, hostvars, networks, relay_addresses=None, registered=None):
    try:
        devices = collect_devices(hosts, hostvars, networks, relay_addresses, registered)
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    return [
        {
            "name": device.name,
            "public_key": device.public_key,
            "addresses": list(device.addresses),
            "groups": list(device.groups),
            "rate_limit_mbit": device.rate_limit_mbit,
            "expires": device.expires,
        }
        for device in devices
        if device.public_key
    ]


class FilterModule:
    def filters(self):
        return {"overlay_devices": overlay_devices}
