# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: path_table
short_description: A readable table of the paths between devices
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes lines of text from the results of M(homelab.peer_relay.path_info).
options:
  _input:
    description:
      - The paths, each with C(from), C(to), C(path), C(via), C(endpoint), C(rtt_ms), C(path_age_seconds) and
        C(why_not). What is missing, null or empty is shown as a dash.
    type: list
    elements: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.path_rows
    plugin_type: filter
  - plugin: homelab.peer_relay.path_matrix
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the paths of all devices
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.path_rows(hostvars, 'result') | homelab.peer_relay.path_table }}"

- name: Show those of this device that are not direct
  ansible.builtin.debug:
    msg: >-
      {{ [inventory_hostname] | homelab.peer_relay.path_rows(hostvars, 'result')
         | rejectattr('path', 'in', ['lan', 'direct']) | homelab.peer_relay.path_table }}
"""

RETURN = r"""
_value:
  description: The lines of the table, a heading first.
  type: list
  elements: str
  sample:
    - "FROM    TO     PATH    VIA    ENDPOINT           ROUND-TRIP  FOR   WHY-NOT-BETTER"
    - "laptop  nas    direct  -      203.0.113.9:51820  21.4ms      2h    -"
    - "laptop  phone  relay   relay  192.0.2.1:40000    41.2ms      5min  other_has_no_agent"
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.table import duration, milliseconds, table

HEAD = ("FROM", "TO", "PATH", "VIA", "ENDPOINT", "ROUND-TRIP", "FOR", "WHY-NOT-BETTER")


def path_table(paths):
    return table(HEAD, map(_row, paths))


def _row(path):
    return (
        path["from"],
        path["to"],
        path.get("path"),
        path.get("via"),
        path.get("endpoint"),
        milliseconds(path.get("rtt_ms")),
        duration(path.get("path_age_seconds")),
        path.get("why_not"),
    )


class FilterModule:
    def filters(self):
        return {"path_table": path_table}
