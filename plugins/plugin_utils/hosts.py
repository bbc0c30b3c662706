# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of the inventory a result is expected from."""

from __future__ import annotations

from ansible.module_utils.parsing.convert_bool import boolean


def is_managed(hostvars, name) -> bool:
    # The relay goes by a name that need not be in the inventory.
    return name not in hostvars or boolean(hostvars[name].get("peer_managed", True))


def expected(hosts, hostvars) -> list[str]:
    """The hosts that are managed and to be present."""
    return [
        str(host)
        for host in hosts
        if is_managed(hostvars, host) and hostvars[host].get("peer_state", "present") != "absent"
    ]


def why_missing(result) -> tuple[str, str]:
    """Why a host has no result, and what to do."""
    if result.get("msg"):
        return str(result["msg"]).strip(), ""
    return "Ansible did not reach it", "is it on, and its ansible_host right?"
