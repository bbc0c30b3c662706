#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: lan_info
short_description: Which router a host is behind, and the address that it can forward to
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Tells the router of the host's default route and the host's own address towards it.
  - The traffic may take another way. The tunnel of a VPN is none to a router, however its routes and rules are made,
    and its address is none to forward to. An IPv6 address that stays comes before a temporary one (privacy extension).
  - Asks nobody but the host's own kernel.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
    description: Reads only, so it does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
options: {}
notes:
  - Nothing but Python is needed on the host.
seealso:
  - module: homelab.peer_relay.port_mapping_info
"""

EXAMPLES = r"""
- name: Look for the router
  homelab.peer_relay.lan_info:
  register: lan

- name: Say where to enter the port forward, and for whom
  ansible.builtin.debug:
    msg: "http://{{ lan.ipv4.gateway }}: to {{ lan.ipv4.address }}"
"""

RETURN = r"""
ipv4:
  description: The way of IPv4. What there is not is empty.
  type: dict
  returned: success
  contains:
    gateway:
      description: The router's address.
      type: str
      sample: 192.168.1.1
    address:
      description: This host's address towards it.
      type: str
      sample: 192.168.1.11
    interface:
      description: The interface that has it.
      type: str
      sample: eth0
    network:
      description: The network that it is in.
      type: str
      sample: 192.168.1.0/24
    mac:
      description: The interface's address of the link layer.
      type: str
      sample: 02:00:00:00:00:0b
    problem:
      description: Why there is no way. Empty when there is one.
      type: str
      sample: ""
ipv6:
  description: The way of IPv6. What there is not is empty.
  type: dict
  returned: success
  contains:
    gateway:
      description: The router's address, with its interface when it is link-local.
      type: str
      sample: fe80::1%eth0
    address:
      description: This host's address that the Internet reaches, if the router's firewall lets it.
      type: str
      sample: 2001:db8::b
    problem:
      description: Why there is no way. Empty when there is one.
      type: str
      sample: this host has no default route for IPv6 over a router
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import routes
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable


def next_hop(family: int) -> tuple[routes.NextHop, str]:
    """The next hop, and why there is none."""
    try:
        return routes.next_hop(family), ""
    except Unreachable as error:
        return routes.NextHop("", ""), str(error)


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    ipv4, problem4 = next_hop(4)
    ipv6, problem6 = next_hop(6)
    module.exit_json(
        changed=False,
        ipv4=ipv4._asdict() | {"problem": problem4},
        ipv6={"gateway": ipv6.gateway, "address": ipv6.address, "problem": problem6},
    )


if __name__ == "__main__":
    main()
