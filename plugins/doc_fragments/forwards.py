# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    """What module_utils/forwards.py says to Ansible, said to people."""

    DOCUMENTATION = r"""
options:
  forwards:
    description: The forwards. One that is no longer listed is removed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The forward's name.
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
        description: V(ipv4) translates to O(address), V(ipv6) lets in what is for O(address6).
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
  hairpin:
    description:
      - Whether to forward from the inside as well, for hosts there that use the router's outer address. Others call it
        NAT reflection.
    type: bool
    default: true
  state:
    description: Whether the ports are forwarded, or everything that this module made is removed.
    type: str
    choices: [present, absent]
    default: present
"""
