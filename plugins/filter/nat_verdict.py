# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: nat_verdict
short_description: Whether a router's external address is on the Internet
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Tells from a router's external address whether a port forwarded there is reachable from the Internet.
options:
  _input:
    description: The external address, empty if unknown.
    type: str
    required: true
seealso:
  - module: homelab.peer_relay.port_mapping_info
"""

EXAMPLES = r"""
kind: "{{ ('100.64.3.7' | homelab.peer_relay.nat_verdict).kind }}"
# => cgnat

address: "{{ ('2001:DB8:0::1' | homelab.peer_relay.nat_verdict).address }}"
# => 2001:db8::1
"""

RETURN = r"""
_value:
  description: The verdict.
  type: dict
  contains:
    kind:
      description: What kind of address it is.
      type: str
      choices: [public, cgnat, double_nat, ds_lite, unknown]
      sample: public
    explanation:
      description: What that means, and what to do about it. Empty when it is unknown.
      type: str
      sample: >-
        The router's external address 203.0.113.7 is public: the Internet can reach a port that is mapped there.
    address:
      description: The address as its bytes are written, so that two texts of one address are the same.
      type: str
      sample: 203.0.113.7
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.module_utils.address import canonical_address
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.verdict import verdict


def nat_verdict(address):
    try:
        canonical = canonical_address(str(address)) if address else ""
    except ValueError as error:
        raise AnsibleFilterError(
            f"of the router's external address, {error}. Nothing of the answer is used: bring the router up to date or "
            "restart it, or set relay_endpoint, and port_forward_backend to manual"
        ) from None
    found = verdict(canonical)
    return {"kind": found.kind, "explanation": found.explanation, "address": canonical}


class FilterModule:
    def filters(self):
        return {"nat_verdict": nat_verdict}
