#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: openwrt_forwards
short_description: Forward ports to a host behind an OpenWrt router
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Has exactly the given ports forwarded to one host behind an OpenWrt router, by sections of C(/etc/config/firewall)
    whose names start with C(peer_relay_). Other sections stay as they are.
  - Needs a shell, C(uci) and C(ubus) on the router, as OpenWrt has them, and no Python.
  - A port that somebody else's redirect has already is refused, and so are changes of the firewall's settings that
    somebody left uncommitted.
options:
  forwards:
    description: The forwards. One that is no longer listed is removed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The forward's name, of lower-case letters, digits and C(_).
        type: str
        required: true
      protocol:
        description: The transport protocol.
        type: str
        choices: [udp, tcp]
        default: udp
      port:
        description: The port of the host.
        type: int
        required: true
      external_port:
        description: The port of the router. The default is O(forwards[].port).
        type: int
      families:
        description: V(ipv4) is a redirect to O(address), V(ipv6) a traffic rule for O(address6).
        type: list
        elements: str
        choices: [ipv4, ipv6]
        default: [ipv4]
  address:
    description: The host's IPv4 address.
    type: str
    default: ""
  address6:
    description: The host's IPv6 address.
    type: str
    default: ""
  wan:
    description: The firewall zone outside.
    type: str
    default: wan
  lan:
    description: The firewall zone that the host is in.
    type: str
    default: lan
  hairpin:
    description: Whether to have NAT reflection, for hosts inside that use the router's outer address.
    type: bool
    default: true
  state:
    description: Whether the ports are forwarded, or everything that this module made is removed.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Can run in check mode and tell what would change, without changing anything.
    support: full
  diff_mode:
    description: Shows its own sections before and after.
    support: full
"""

EXAMPLES = r"""
- name: Forward the relay's port
  homelab.peer_relay.openwrt_forwards:
    address: 192.168.1.10
    forwards:
      - name: relay
        port: 40000
  delegate_to: router

- name: Remove all forwards that this module made
  homelab.peer_relay.openwrt_forwards:
    state: absent
  delegate_to: router
"""

RETURN = r"""
external_address:
  description: The IPv4 address of the zone outside, empty if it has none.
  type: str
  returned: success
  sample: 198.51.100.21
commands:
  description: The commands that were run, or would be in check mode.
  type: list
  elements: str
  returned: success
"""
