# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: port_forwards
short_description: A list of forwards, checked and complete
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Checks the forwards of the role P(homelab.peer_relay.port_forward#role) and fills in what they leave out.
options:
  _input:
    description: The forwards, each with at least C(name) and C(port).
    type: list
    elements: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.port_forward
    plugin_type: role
  - plugin: homelab.peer_relay.port_holders
    plugin_type: filter
"""

EXAMPLES = r"""
forwards: "{{ [{'name': 'relay', 'port': 40000}] | homelab.peer_relay.port_forwards }}"
# => [{'name': 'relay', 'protocol': 'udp', 'port': 40000, 'external_port': 40000, 'families': ['ipv4']}]

outside: "{{ ([{'name': 'web', 'port': 8443, 'external_port': 443, 'protocol': 'tcp'}]
  | homelab.peer_relay.port_forwards | first).external_port }}"
# => 443
"""

RETURN = r"""
_value:
  description: The forwards.
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: relay
    protocol:
      description: V(udp) or V(tcp).
      type: str
      sample: udp
    port:
      description: The port of the host.
      type: int
      sample: 40000
    external_port:
      description: The port of the router.
      type: int
      sample: 40000
    families:
      description: V(ipv4), V(ipv6), or both.
      type: list
      elements: str
      sample: [ipv4]
"""

import re

from ansible.errors import AnsibleFilterError

# What a uci section, an nftables comment and the clouds' rules can all be named.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


def _complete(item):
    name = str(item.get("name", ""))
    if not _NAME.fullmatch(name):
        raise AnsibleFilterError(
            f"the forward's name '{name}' is not up to 20 lower-case letters, digits and '_', starting with a letter"
        )
    forward = {
        "name": name,
        "protocol": item.get("protocol") or "udp",
        "port": _port(name, "port", item.get("port")),
        "external_port": _port(name, "external_port", item.get("external_port") or item.get("port")),
        "families": list(item.get("families") or ["ipv4"]),
    }
    for key, known in (("protocol", ("udp", "tcp")), ("families", ("ipv4", "ipv6"))):
        values = forward[key] if isinstance(forward[key], list) else [forward[key]]
        for value in values:
            if value not in known:
                raise AnsibleFilterError(f"{key} '{value}' of the forward '{name}' is not one of {', '.join(known)}")
    return forward


def _port(name, key, value):
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 65535:
        raise AnsibleFilterError(f"{key} {value} of the forward '{name}' is not between 1 and 65535")
    return number


def _refuse_twice(forwards, what, *keys):
    names = {}
    for forward in forwards:
        value = tuple(forward[key] for key in keys)
        if value in names:
            raise AnsibleFilterError(f"the forwards '{names[value]}' and '{forward['name']}' have the same {what}")
        names[value] = forward["name"]


def port_forwards(items):
    forwards = [_complete(item) for item in items]
    if not forwards:
        raise AnsibleFilterError(
            "port_forward_forwards is empty: to take every forward away, set port_forward_state to absent"
        )
    _refuse_twice(forwards, "name", "name")
    _refuse_twice(forwards, "external port", "protocol", "external_port")
    return forwards


class FilterModule:
    def filters(self):
        return {"port_forwards": port_forwards}
