# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of the inventory a result is expected from, and what none of them decides."""

from __future__ import annotations

import re

from ansible.module_utils.parsing.convert_bool import boolean

from .expiry import has_expired
from .names import OverlayError

NOT_REACHED = "Ansible did not reach it"


def is_managed(hostvars, name) -> bool:
    # The relay goes by a name that need not be in the inventory.
    return name not in hostvars or boolean(hostvars[name].get("peer_managed", True))


def in_state(hosts, hostvars, variable, state=None, managed=True) -> list[str]:
    """The hosts whose variable, peer_state or relay_state, is the state, and the devices managed or not.

    What is not absent is taken for present: the roles refuse other words.
    """
    return [
        str(host)
        for host in hosts
        if (variable != "peer_state" or is_managed(hostvars, host) == managed)
        and (state is None or _is_absent(hostvars, str(host), variable) == (state == "absent"))
    ]


def is_absent_device(variables, host: str) -> bool:
    """Whether it is to go, or had to by now; raise OverlayError where that cannot be told."""
    return variables.get("peer_state", "present") == "absent" or has_expired(variables.get("peer_expires"), host)


def _is_absent(hostvars, host, variable) -> bool:
    variables = hostvars.get(host, {})
    if variable != "peer_state":
        return variables.get(variable, "present") == "absent"
    try:
        return is_absent_device(variables, host)
    except OverlayError:
        return False  # the check of the inventory says so


def expected(hosts, hostvars) -> list[str]:
    """The devices that are managed and to be present."""
    return in_state(hosts, hostvars, "peer_state", "present")


def why_missing(result) -> tuple[str, str]:
    """Why a host has no result, and what to do."""
    if result.get("msg"):
        return str(result["msg"]).strip(), ""
    return NOT_REACHED, "is it on, and its ansible_host right?"


# What the names of the collection's variables begin with: of its roles, its playbooks and its inventory.
_OURS = re.compile(r"(__)?(peer|relay|overlay|firewall|port_forward|settings|verify)_")


def reported(variables) -> list[str]:
    """The names of this collection's variables that a host gives as facts of its own.

    Ansible lets a fact win over the inventory's variable of that name: a host that somebody has taken over could take
    another one's address, name or group, or choose where the control node writes.
    """
    return sorted(name for name in variables.get("ansible_facts") or {} if _OURS.match(name))


def fact_fault(host: str, variables) -> str:
    """A sentence about what a host reports and must not, with the fix; empty where there is nothing."""
    names = reported(variables)
    if not names:
        return ""
    return (
        f"{host} reports {', '.join(names)} as a fact, which only the inventory decides: leave the host out with "
        "--limit, and find out who has changed it; a cache of facts keeps them until --flush-cache"
    )
