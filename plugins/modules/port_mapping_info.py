#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: port_mapping_info
short_description: What the router in front of this host offers, and whether the Internet can reach it
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Finds the router of this host, and tells which of PCP, NAT-PMP and UPnP it speaks, its external address, and the
    ports that it maps by UPnP.
  - Tells whether the external address is one that the Internet can reach, and what to do if not, see RV(nat).
  - Does not fail when no router answers, or none that lets a host ask for ports. RV(problem) then says why.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
  - homelab.peer_relay.router
attributes:
  check_mode:
    support: full
    description: Reads only, so it does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
options:
  family:
    description: V(4) looks for port mapping of IPv4. V(6) looks for pinholes in the router's IPv6 firewall.
    type: int
    choices:
      - 4
      - 6
    default: 4
  stun_server:
    description:
      - A STUN server on the Internet, C(HOST) or C(HOST:PORT), to ask under which address it sees this host.
      - Nobody is asked by default.
    type: str
    default: ""
seealso:
  - module: homelab.peer_relay.port_mapping
  - module: homelab.peer_relay.lan_info
  - plugin: homelab.peer_relay.nat_verdict
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Look at the router
  homelab.peer_relay.port_mapping_info:
  register: router

- name: Say what it is good for
  ansible.builtin.debug:
    msg: "{{ router.explanation if router.found else router.problem }}"

- name: Ask a server outside as well, which finds a second translation behind the router
  homelab.peer_relay.port_mapping_info:
    stun_server: stun.example.org:3478
  register: router
  failed_when: router.nat in ['cgnat', 'ds_lite', 'double_nat', 'differs', 'no_address']
"""

RETURN = r"""
found:
  description: Whether the router lets this host ask for ports.
  type: bool
  returned: success
  sample: true
problem:
  description: Why not. Empty when it does.
  type: str
  returned: success
  sample: ""
gateway:
  description: The router's address. Empty when this host has no router.
  type: str
  returned: success
  sample: 192.168.1.1
local_address:
  description: This host's address towards it.
  type: str
  returned: success
  sample: 192.168.1.11
method:
  description: The protocol that M(homelab.peer_relay.port_mapping) would choose. Empty when there is none.
  type: str
  returned: success
  sample: pcp
methods:
  description: What the router says to each protocol that was tried.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The protocol.
      type: str
      sample: natpmp
    supported:
      description: Whether the router speaks it.
      type: bool
      sample: false
    problem:
      description: Why not. Empty when it does.
      type: str
      sample: it does not speak NAT-PMP
external_address:
  description:
    - The router's address towards the Internet. For IPv6 it is the host's own.
    - Empty when the router does not tell. By PCP it tells only with a mapping.
  type: str
  returned: success
  sample: 203.0.113.7
seen_address:
  description: The address under which the STUN server sees this host. Empty without one.
  type: str
  returned: success
  sample: 203.0.113.7
nat:
  description:
    - V(public) when the Internet can reach the external address.
    - V(cgnat) when it is of the provider's own network, shared among customers. V(ds_lite) when it ends a tunnel to the
      provider's translation. V(double_nat) when it is private. V(differs) when it is not RV(seen_address).
    - V(no_address) when the router says that it has none, which is all that many say of a private one.
    - V(unknown) when the router does not tell it.
  type: str
  returned: success
  sample: public
explanation:
  description: What that means, and what to do about it.
  type: str
  returned: success
  sample: >-
    The router's external address 203.0.113.7 is public: the Internet can reach a port that is mapped there.
mappings:
  description: The ports that the router maps by UPnP, as far as it tells.
  type: list
  elements: dict
  returned: success
  contains:
    protocol:
      description: The protocol.
      type: str
      sample: udp
    external_port:
      description: The port of the router.
      type: int
      sample: 40000
    internal_address:
      description: Whom it is for.
      type: str
      sample: 192.168.1.11
    internal_port:
      description: The port there.
      type: int
      sample: 40000
    lease:
      description: For how many seconds still. V(0) is until it is deleted.
      type: int
      sample: 3600
    description:
      description: The name that it was given.
      type: str
      sample: homelab.peer_relay
    own:
      description: Whether it is for this host.
      type: bool
      sample: true
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import discovery, routes, stun
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.address import same_host
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Client, MappingError
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp.client import UpnpClient
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.verdict import no_address, verdict


def external_address(clients: list[Client]) -> str:
    """The first that is told; whoever fails to answer a second time does not tell."""
    for client in clients:
        try:
            if address := client.look().external_address:
                return address
        except MappingError:
            continue
    return ""


def mappings(clients: list[Client]) -> list[dict[str, Any]]:
    found = []
    for client in clients:
        if isinstance(client, UpnpClient):
            try:
                for entry in client.mappings():
                    found.append(asdict(entry) | {"own": same_host(entry.internal_address, client.local_address)})
            except MappingError:
                continue
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "method": {"type": "str", "choices": ["auto", *discovery.METHODS], "default": "auto"},
            "gateway": {"type": "str", "default": ""},
            "family": {"type": "int", "choices": [4, 6], "default": 4},
            "stun_server": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    options = module.params
    gateway, family = options["gateway"], options["family"]
    local_address, problem, attempts = "", "", []
    try:
        gateway, local_address = routes.next_hop(family, gateway)[:2]
        methods = discovery.METHODS if options["method"] == "auto" else [options["method"]]
        attempts = list(discovery.survey(gateway, local_address, family, methods))
    except MappingError as error:
        problem = str(error)
    clients = [attempt.client for attempt in attempts if attempt.client]
    if attempts and not clients:
        problem = discovery.nobody(gateway, attempts)
    seen = ""
    if options["stun_server"]:
        try:
            seen = stun.ask(options["stun_server"], family)
        except MappingError as error:
            module.warn(str(error))
    external = local_address if family == 6 and clients else external_address(clients)
    nat, explanation = verdict(external, seen)
    if not external and any(client.method != "pcp" for client in clients):  # by PCP alone, no router tells
        nat, explanation = no_address(gateway)
    module.exit_json(
        changed=False,
        found=bool(clients),
        problem=problem,
        gateway=gateway,
        local_address=local_address,
        method=clients[0].method if clients else "",
        methods=[
            {"name": attempt.method, "supported": bool(attempt.client), "problem": attempt.problem}
            for attempt in attempts
        ],
        external_address=external,
        seen_address=seen,
        nat=nat,
        explanation=explanation,
        mappings=mappings(clients),
    )


if __name__ == "__main__":
    main()
