# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: relay_endpoint
short_description: Where the devices reach a relay
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Tells the address or name, and the UDP port, at which devices reach a relay.
  - The host is C(relay_endpoint) where it is given, or else the external address that the role
    P(homelab.peer_relay.port_forward#role) had from the router, or else C(ansible_host), or else the inventory name.
  - The port is C(relay_external_port), or else the one that the router forwards, or else C(relay_listen_port).
options:
  _input:
    description: The relay's variables, from C(hostvars).
    type: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.overlay_relays
    plugin_type: filter
  - plugin: homelab.peer_relay.relay
    plugin_type: role
"""

EXAMPLES = r"""
- name: Show where the devices reach the relay
  ansible.builtin.debug:
    msg: "{{ (hostvars[groups['relays'] | first] | homelab.peer_relay.relay_endpoint).text }}"

- name: Show the two endpoints of a relay behind a router
  ansible.builtin.debug:
    msg: "outside {{ endpoint.text }}, inside {{ endpoint.inner_text or 'the same' }}"
  vars:
    endpoint: "{{ hostvars['vps'] | homelab.peer_relay.relay_endpoint }}"
"""

RETURN = r"""
_value:
  description: The endpoint.
  type: dict
  contains:
    host:
      description: The address or name.
      type: str
    port:
      description: The UDP port.
      type: int
    text:
      description: Both, as WireGuard writes them. An IPv6 address is in brackets.
      type: str
    inner_host:
      description: The relay's address inside its own network, where a router translates. Empty where none does.
      type: str
    inner_port:
      description: The UDP port there, or 0.
      type: int
    inner_text:
      description: Both, or empty.
      type: str
    origin:
      description: Who said so.
      type: str
      choices: [given, router, inventory]
  sample:
    host: 203.0.113.7
    port: 40000
    text: 203.0.113.7:40000
    inner_host: 192.168.1.10
    inner_port: 40000
    inner_text: 192.168.1.10:40000
    origin: router
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.endpoint import EndpointError, endpoint_of


def relay_endpoint(relay):
    try:
        return endpoint_of(relay).as_dict()
    except EndpointError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"relay_endpoint": relay_endpoint}
