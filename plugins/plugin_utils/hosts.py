# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of the inventory a result is expected from, and what none of them decides."""

from __future__ import annotations

import re

from ansible.module_utils.parsing.convert_bool import boolean

NOT_REACHED = "Ansible did not reach it"


def is_managed(hostvars, name) -> bool:
    # The relay goes by a name that need not be in the inventory.
    return name not in hostvars or boolean(hostvars[name].get("peer_managed", True))


def in_state(hosts, hostvars, variable, state=None) -> list[str]:
    """The hosts whose variable, peer_state or relay_state, is the state, without devices that are not managed.

    What is not absent is taken for present: the roles refuse other words.
    """
    return [
        str(host)
        for host in hosts
        if (variable != "peer_state" or is_managed(hostvars, host))
        and (state is None or (hostvars.get(host, {}).get(variable, "present") == "absent") == (state == "absent"))
    ]


def expected(hosts, hostvars) -> list[str]:
    """The devices that are managed and to be present."""
    return in_state(hosts, hostvars, "peer_state", "present")


def why_missing(result) -> tuple[str, str]:
    """Why a host has no result, and what to do."""
    if result.get("msg"):
        return str(result["msg"]).strip(), ""
    return NOT_REACHED, "is it on, and its ansible_host right?"


def reported(variables) -> list[str]:
    """The names of this collection's variables that a host gives as facts of its own.

    Ansible lets a fact win over the inventory's variable of that name: a host that somebody has taken over could take
    another one's address, name or group.
    """
    return sorted(
        name for name in variables.get("ansible_facts") or {} if re.match(r"(__)?(peer|relay|overlay)_", name)
    )
