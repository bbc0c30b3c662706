# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_interface
short_description: What a device's WireGuard interface is to have
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes the addresses and the list of peers of one device's interface, as
    M(homelab.peer_relay.wireguard_interface) takes them.
  - The peers are the relays whose key is known, and each device with a known key that shares a group with this one. The
    endpoint of every device is the first of these relays.
  - Keys are known as P(homelab.peer_relay.overlay_known_keys#filter) tells.
  - Fails when the inventory contradicts itself, such as one subnet behind two of the peers.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, name, relays
options:
  name:
    description: The name of the device.
    type: str
    required: true
  relays:
    description:
      - The relays, as P(homelab.peer_relay.overlay_relays#filter) tells them. One that is not C(present), or that
        has no key, is left out.
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
      public_key:
        description: Its public key.
        type: str
      endpoint:
        description: The C(host:port) where the device reaches it.
        type: str
        required: true
      inner_endpoint:
        description: The C(host:port) where a device of the relay's own network reaches it as well.
        type: str
        default: ""
      addresses:
        description: Its own overlay addresses, which no device may have.
        type: list
        elements: str
        required: true
      registered:
        description:
          - Names and public keys that it knows already. They decide no key, but one that contradicts is not taken at
            second hand.
        type: dict
        default: {}
seealso:
  - module: homelab.peer_relay.wireguard_interface
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_known_keys
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show what the interface is to have
  ansible.builtin.debug:
    msg: >-
      {{ groups['peers'] | homelab.peer_relay.overlay_interface(hostvars, overlay_networks, inventory_hostname,
                                                            relays) }}
"""

RETURN = r"""
_value:
  description: The interface's addresses and peers.
  type: dict
  contains:
    addresses:
      description: Its overlay addresses, with the prefix length of their network.
      type: list
      elements: str
    peers:
      description: Its peers, the relays first, the devices sorted by name.
      type: list
      elements: dict
      contains:
        name:
          description: Its name.
          type: str
        public_key:
          description: Its public key.
          type: str
        endpoint:
          description: The C(host:port) where packets for it go.
          type: str
        inner_endpoint:
          description: Another one, from its own network. Empty without one.
          type: str
        allowed_ips:
          description: The networks behind it.
          type: list
          elements: str
        persistent_keepalive:
          description: The seconds between two keepalive packets. V(0) is for none.
          type: int
  sample:
    addresses: [10.77.12.34/16]
    peers:
      - name: relay
        public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
        endpoint: 192.0.2.1:40000
        inner_endpoint: ""
        allowed_ips: [10.77.0.1/32]
        persistent_keepalive: 25
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.keys import known_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError, interface_of
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import as_list


def overlay_interface(hosts, hostvars, networks, name, relays):
    relays = as_list(relays)
    try:
        devices = known_devices(hosts, hostvars, networks, relays, str(name))
        return interface_of(devices, str(name), networks, relays)
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"overlay_interface": overlay_interface}
