# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_relays
short_description: The relays of the inventory
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Tells each relay's name, overlay addresses, endpoint and key, in the order of the inventory.
  - A relay without C(relay_addresses) gets the first host address of each network, or the second one if it is the
    second relay of the inventory, and so on.
  - A relay without C(relay_name) is called C(relay) if it is the only one, and otherwise by its inventory name, with
    C(-relay) behind it if that host is a device too.
  - Fails when two of the relays that are to be present have the same name or address.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, peers, written, agent
options:
  _input:
    description: The names of the hosts of the group C(relays).
  peers:
    description: The names of the hosts of the group C(peers).
    type: list
    elements: str
    default: []
  written:
    description:
      - The content of a device's C(wg-quick) file. A relay without a C(relay_public_key) in this run has the key and
        the endpoints that it has there.
    type: str
    default: ""
  agent:
    description:
      - The content of the settings of a device's path agent. A relay without a C(relay_fallback_url) in this run has
        the fallback that it has there.
    type: str
    default: ""
    version_added: 1.2.0
seealso:
  - plugin: homelab.peer_relay.relay_endpoint
    plugin_type: filter
  - plugin: homelab.peer_relay.first_hosts
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_interface
    plugin_type: filter
  - plugin: homelab.peer_relay.overlay_targets
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the relays
  ansible.builtin.debug:
    msg: "{{ groups['relays'] | homelab.peer_relay.overlay_relays(hostvars, overlay_networks, groups['peers']) }}"

- name: Name the relays that this run has not set up
  ansible.builtin.debug:
    msg: "{{ relays | rejectattr('set_up') | map(attribute='name') }}"
  vars:
    relays: "{{ groups['relays'] | homelab.peer_relay.overlay_relays(hostvars, overlay_networks) }}"
"""

RETURN = r"""
_value:
  description: One dictionary for each relay, those with C(relay_state=absent) included.
  type: list
  elements: dict
  contains:
    host:
      description: Its inventory name.
      type: str
    name:
      description: Its name, unique among the relays that are present.
      type: str
    present:
      description: Whether it is to be there.
      type: bool
    set_up:
      description: Whether this run has set it up.
      type: bool
    addresses:
      description: Its own overlay addresses.
      type: list
      elements: str
    public_key:
      description: Its public key. Empty where nobody knows it, such as in check mode while it has none.
      type: str
    endpoint:
      description: The C(host:port) where devices reach it.
      type: str
    inner_endpoint:
      description: The C(host:port) where a device of its own network reaches it as well. Empty where that is no other.
      type: str
    registered:
      description: The public keys that it knew before this run, by the names of the devices.
      type: dict
    fallback_url:
      description: Where it is reached without UDP, or empty.
      type: str
    fallback_fingerprint:
      description: The SHA-256 of the certificate there. Empty for one of the system's authorities.
      type: str
  sample:
    - host: vps
      name: relay
      present: true
      set_up: true
      addresses: [10.77.0.1, "fd77:7065:6572::1"]
      public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
      endpoint: 192.0.2.1:40000
      inner_endpoint: ""
      registered: {}
      fallback_url: ""
      fallback_fingerprint: ""
"""

from dataclasses import asdict

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.endpoint import EndpointError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import collect_relays


def overlay_relays(hosts, hostvars, networks, peers=(), written="", agent=""):
    try:
        return [asdict(relay) for relay in collect_relays(hosts, hostvars, networks, peers, written, agent)]
    except (OverlayError, EndpointError) as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"overlay_relays": overlay_relays}
