# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    """What the filters go by that make the overlay of the inventory."""

    DOCUMENTATION = r"""
options:
  _input:
    description: The names of the hosts of the group C(peers).
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  networks:
    description: The overlay networks.
    type: list
    elements: str
    required: true
"""
