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
    whose names start with C(peer_relay_), redirects for IPv4 and traffic rules for IPv6. Other sections stay as they
    are.
  - The name of a forward is part of a section's, so it is of lower-case letters, digits and C(_).
  - Needs a shell, C(uci) and C(ubus) on the router, as OpenWrt has them, and no Python.
  - A port that somebody else's redirect has already is refused, and so are changes of the firewall's settings that
    somebody left uncommitted.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
  - homelab.peer_relay.forwards
attributes:
  check_mode:
    support: full
  diff_mode:
    description: Shows its own sections before and after.
    support: full
  idempotent:
    support: full
options:
  wan:
    description: The firewall zone outside.
    type: str
    default: wan
  lan:
    description: The firewall zone that the host is in.
    type: str
    default: lan
seealso:
  - module: homelab.peer_relay.nftables_forwards
  - module: homelab.peer_relay.port_mapping
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

- name: Forward the relay's port and its fallback, and let IPv6 in
  homelab.peer_relay.openwrt_forwards:
    address: 192.168.1.10
    address6: 2001:db8::10
    forwards:
      - name: relay
        port: 40000
        families: [ipv4, ipv6]
      - name: fallback
        port: 443
        protocol: tcp
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
  sample:
    - uci set firewall.peer_relay_redirect_relay=redirect
    - uci set firewall.peer_relay_redirect_relay.dest_ip=192.168.1.10
"""
