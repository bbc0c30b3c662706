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
"""

EXAMPLES = r"""
- name: Show the paths
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.path_rows(hostvars, 'result') | homelab.peer_relay.path_table }}"
"""

RETURN = r"""
_value:
  description: The paths. Each has C(from), C(to), C(managed), and what M(homelab.peer_relay.path_info) returns.
  type: list
  elements: dict
"""

from ansible.module_utils.parsing.convert_bool import boolean


def path_rows(hosts, hostvars, variable):
    rows = []
    for host in hosts:
        if not _is_managed(hostvars, host) or hostvars[host].get("peer_state", "present") == "absent":
            continue
        result = hostvars[host].get(variable) or {}
        if "paths" not in result:
            rows.append(
                {
                    "from": str(host),
                    "to": "anybody",
                    "managed": True,
                    "ok": False,
                    "path": "none",
                    "reason": str(result.get("msg") or "Ansible did not reach it").strip(),
                    "cure": "" if "msg" in result else "is it on, and its ansible_host right?",
                }
            )
            continue
        for path in result["paths"]:
            to = str(path["name"])
            details = {key: value for key, value in path.items() if key != "name"}
            rows.append({"from": str(host), "to": to, "managed": _is_managed(hostvars, to), **details})
    return rows


def _is_managed(hostvars, name):
    # The relay goes by a name that need not be in the inventory.
    return name not in hostvars or boolean(hostvars[name].get("peer_managed", True))


class FilterModule:
    def filters(self):
        return {"path_rows": path_rows}
