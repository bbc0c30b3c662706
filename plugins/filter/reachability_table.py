# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: reachability_table
short_description: A readable table of where the relay is reached from
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes lines of text from what P(homelab.peer_relay.reachability_rows#filter) returns.
options:
  _input:
    description: The devices.
    type: list
    elements: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.reachability_rows
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show from where the relay is reached
  ansible.builtin.debug:
    msg: "{{ rows | homelab.peer_relay.reachability_table }}"
"""

RETURN = r"""
_value:
  description: The lines of the table, a heading first.
  type: list
  elements: str
  sample:
    - "DEVICE  PLACE    PUBLIC ENDPOINT  ANSWERED  ROUND-TRIP  HAIRPIN"
    - "laptop  outside  192.0.2.1:40000  yes       41.2ms      -"
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.table import milliseconds, table


def reachability_table(rows):
    head = ("DEVICE", "PLACE", "PUBLIC ENDPOINT", "ANSWERED", "ROUND-TRIP", "HAIRPIN")
    return table(head, map(_cells, rows))


def _cells(row):
    return (
        row["device"],
        row["place"],
        row["endpoint"],
        _said(row["reachable"]),
        milliseconds(row["round_trip_ms"]),
        _said(row["hairpin"]),
    )


def _said(truth):
    return "" if truth is None else "yes" if truth else "no"


class FilterModule:
    def filters(self):
        return {"reachability_table": reachability_table}
