# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: path_rows
short_description: The paths of all devices as one list
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Joins the results of M(homelab.peer_relay.path_info) on several hosts. A host without paths, since it was not
    reached or has no interface, becomes one row that says so.
  - Leaves out hosts that are not managed, and those that are to be absent.
positional: hostvars, variable
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  variable:
    description: The variable that holds each host's result.
    type: str
    required: true
seealso:
  - module: homelab.peer_relay.path_info
  - plugin: homelab.peer_relay.path_faults
    plugin_type: filter
  - plugin: homelab.peer_relay.path_matrix
    plugin_type: filter
  - plugin: homelab.peer_relay.path_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the paths
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.path_rows(hostvars, 'result') | homelab.peer_relay.path_table }}"
"""

RETURN = r"""
_value:
  description: The paths. Each has what follows, and what M(homelab.peer_relay.path_info) returns of it.
  type: list
  elements: dict
  contains:
    from:
      description: The device that was asked.
      type: str
      sample: laptop
    to:
      description: The relay or device that it looked at.
      type: str
      sample: nas
    managed:
      description: Whether that one is managed, by Ansible.
      type: bool
      sample: true
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.hosts import expected, is_managed, why_missing


def path_rows(hosts, hostvars, variable):
    rows = []
    for host in expected(hosts, hostvars):
        result = hostvars[host].get(variable) or {}
        if "paths" not in result:
            reason, fix = why_missing(result)
            rows.append(
                {
                    "from": host,
                    "to": "anybody",
                    "managed": True,
                    "ok": False,
                    "path": "none",
                    "why_not": "",
                    "reason": reason,
                    "cure": fix,
                }
            )
            continue
        for path in result["paths"]:
            to = str(path["name"])
            details = {key: value for key, value in path.items() if key != "name"}
            rows.append({"from": host, "to": to, "managed": is_managed(hostvars, to), **details})
    return rows


class FilterModule:
    def filters(self):
        return {"path_rows": path_rows}
