# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: overlay_profiles
short_description: What a device that Ansible does not reach is to import into its WireGuard app
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes the texts of a device's profiles, without its private key, for M(homelab.peer_relay.device_profile).
  - There is one for each relay, through which it reaches all others. There is one more, called C(direct), where others
    that it shares a group with state a public endpoint in C(peer_endpoints), since apps stay with the endpoint that
    they are given.
  - The device's own C(peer_dns) and C(peer_mtu) are part of it. The default of the latter is V(1280), which every
    network carries.
extends_documentation_fragment: homelab.peer_relay.overlay
positional: hostvars, networks, name, relays
options:
  name:
    description: The name of the device.
    type: str
    required: true
  relays:
    description: The relays, as P(homelab.peer_relay.overlay_relays#filter) tells them.
    type: list
    elements: dict
    required: true
seealso:
  - module: homelab.peer_relay.device_profile
  - plugin: homelab.peer_relay.overlay_interface
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Write the profiles of a phone
  homelab.peer_relay.device_profile:
    name: phone
    path: profiles
    profiles: "{{ groups['peers'] | homelab.peer_relay.overlay_profiles(hostvars, overlay_networks, 'phone', relays) }}"
"""

RETURN = r"""
_value:
  description: The profiles.
  type: list
  elements: dict
  contains:
    tunnel:
      description: The name of the tunnel, and of the file without its ending.
      type: str
    text:
      description: The profile without its private key.
      type: str
  sample:
    - tunnel: phone
      text: |
        # phone, by way of relay
        [Interface]
        Address = 10.77.12.34/16
        MTU = 1280

        # relay
        [Peer]
        PublicKey = 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
        Endpoint = 192.0.2.1:40000
        AllowedIPs = 10.77.0.1/32
        PersistentKeepalive = 25
"""

from dataclasses import asdict

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.keys import known_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import OverlayError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.profiles import profiles_of
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import as_list

MTU = 1280  # bytes: what every network with IPv6 carries (RFC 8200), mobile ones too, and what IPv6 wants in the tunnel


def overlay_profiles(hosts, hostvars, networks, name, relays):
    relays = as_list(relays)
    own = hostvars[name]
    try:
        devices = known_devices(hosts, hostvars, networks, relays)
        stated = {
            device.name: str(endpoints[0])
            for device in devices
            if (endpoints := hostvars[device.name].get("peer_endpoints")) and not isinstance(endpoints, str)
        }
        profiles = profiles_of(
            str(name), devices, networks, relays, own.get("peer_dns") or [], int(own.get("peer_mtu") or MTU), stated
        )
    except OverlayError as error:
        raise AnsibleFilterError(str(error)) from error
    return [asdict(profile) for profile in profiles]


class FilterModule:
    def filters(self):
        return {"overlay_profiles": overlay_profiles}
