# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: port_holders
short_description: Rules of a router that hold a forward's port
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Picks the rules that speak of the external port of a forward, also in a range, in a list, by a name, or as any port.
  - Names that only the router knows, such as aliases, count with O(unknown) alone.
positional: forward, port, protocol, unknown
options:
  _input:
    description: The rules.
    type: list
    elements: dict
    required: true
  forward:
    description: The forward, with C(protocol) and C(external_port).
    type: dict
    required: true
  port:
    description: The key of a rule's ports.
    type: str
    required: true
  protocol:
    description: The key of a rule's protocol.
    type: str
    default: protocol
  unknown:
    description: Pick the rules of which it cannot be told instead.
    type: bool
    default: false
seealso:
  - plugin: homelab.peer_relay.port_forwards
    plugin_type: filter
  - plugin: homelab.peer_relay.port_forward
    plugin_type: role
"""

EXAMPLES = r"""
taken: "{{ [{'protocol': 'udp', 'dst-port': '40000-40010', 'comment': 'games'}, {'protocol': 'tcp', 'dst-port': '443'}]
  | homelab.peer_relay.port_holders({'protocol': 'udp', 'external_port': 40000}, 'dst-port') }}"
# => [{'protocol': 'udp', 'dst-port': '40000-40010', 'comment': 'games'}]

unclear: "{{ [{'protocol': 'udp', 'dst-port': 'my_alias'}]
  | homelab.peer_relay.port_holders({'protocol': 'udp', 'external_port': 40000}, 'dst-port', unknown=true) }}"
# => [{'protocol': 'udp', 'dst-port': 'my_alias'}]
"""

RETURN = r"""
_value:
  description: The rules that hold it.
  type: list
  elements: dict
  sample: [{protocol: udp, dst-port: 40000-40010, comment: games}]
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.port_specs import covers, has_protocol


def port_holders(rules, forward, port, protocol="protocol", unknown=False):
    return [
        rule
        for rule in rules
        if has_protocol(rule.get(protocol), forward["protocol"])
        and covers(rule.get(port), int(forward["external_port"])) is (None if unknown else True)
    ]


class FilterModule:
    def filters(self):
        return {"port_holders": port_holders}
