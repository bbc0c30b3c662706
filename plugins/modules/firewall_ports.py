#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_ports
short_description: Let ports in through the host firewall, whichever it is
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Lets exactly the given ports in through nftables, ufw or firewalld, by rules of its own, and leaves others alone.
  - Rules of its own are known by their comment, which starts with C(homelab.peer_relay:), and in firewalld by the
    service C(peer-relay). A port that is no longer listed loses its rule.
  - With nftables, a rule goes into every input chain that drops the port, just before the rule that does, because an
    accept in one table does not undo a drop in another. Chains of iptables (nft variant) are written with iptables.
    Rules live until the ruleset is loaded anew; the role P(homelab.peer_relay.firewall#role) sees to that.
  - It never turns off a firewall, and refuses what would cut off SSH.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    description: Shows its own rules before and after.
    support: full
  idempotent:
    support: full
options:
  backend:
    description:
      - The firewall to use.
      - With V(auto), the first of these that is found, a running firewalld, an active ufw, an input chain that drops,
        of nftables or of iptables, legacy ones included. With none of them nothing blocks, and nothing is done. Rules
        that no program on the host can read are told. With O(state=absent), V(auto) means all of them.
    type: str
    choices: [auto, nftables, ufw, firewalld, none]
    default: auto
  ports:
    description: The ports to let in.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: The port number.
        type: int
        required: true
      protocol:
        description: The transport protocol.
        type: str
        choices: [udp, tcp]
        default: udp
      comment:
        description: What the port is for. Letters, digits, spaces and C(._:/+-), up to 60 characters.
        type: str
        default: relay
  state:
    description: Whether the ports are let in, or all rules of this module are removed.
    type: str
    choices: [present, absent]
    default: present
  enable:
    description:
      - Turn the firewall on if it is off. SSH is allowed first; without a known SSH port this is refused.
      - With nftables this makes a chain of its own that drops everything but replies, ICMP, DHCP, SSH and O(ports).
    type: bool
    default: false
  zone:
    description:
      - The zone of firewalld. Empty for those that the host's interfaces are in, and those of senders who are not
        banned.
    type: str
    default: ""
  ssh_ports:
    description: The TCP ports of SSH. Empty to find them from the SSH server of the host.
    type: list
    elements: int
    default: []
  connection_port:
    description: The port that the controller connects to, which counts when no SSH server is recognized.
    type: int
seealso:
  - module: homelab.peer_relay.forwarding_info
"""

EXAMPLES = r"""
- name: Let the relay's port in
  homelab.peer_relay.firewall_ports:
    ports:
      - port: 40000

- name: Remove all rules that this module made
  homelab.peer_relay.firewall_ports:
    ports: []
    state: absent

- name: Turn nftables on with nothing open but SSH, the relay's port and its fallback
  homelab.peer_relay.firewall_ports:
    backend: nftables
    enable: true
    ports:
      - port: 40000
      - port: 443
        protocol: tcp
        comment: fallback
"""

RETURN = r"""
backend:
  description: The firewall that was used, V(none) if nothing blocks.
  type: str
  returned: success
  sample: nftables
reason:
  description: Why this firewall was chosen.
  type: str
  returned: success
  sample: "input chains that drop: inet filter input"
active:
  description: Whether this firewall is on.
  type: bool
  returned: success
  sample: true
found:
  description: What in the firewall blocks the ports, or lets them in already.
  type: list
  elements: str
  returned: success
  sample: ["inet filter input drops 40000/udp: policy drop"]
rules:
  description: The rules of this module that are now in place.
  type: list
  elements: str
  returned: success
  sample: ['inet filter input: udp dport 40000 accept comment "homelab.peer_relay: relay"']
commands:
  description: The commands that were run, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample:
    - >-
      nft add rule inet filter input udp dport 40000 accept comment "homelab.peer_relay: relay"
ssh_ports:
  description: The TCP ports of SSH on this host, empty if unknown.
  type: list
  elements: int
  returned: success
  sample: [22]
own_chain:
  description: Whether an nftables chain of this module drops what nobody lets in.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.commands import runner
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.host import Decision, Host, Request
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import (
    CommandError,
    FirewallError,
    Port,
    valid_comment,
)


def parse_ports(items: list[dict]) -> list[Port]:
    ports: list[Port] = []
    for item in items:
        port = Port(item["protocol"], item["port"], item["comment"])
        if not 1 <= port.port <= 65535:
            raise FirewallError(f"port {port.port} is not between 1 and 65535")
        if not valid_comment(port.comment):
            raise FirewallError(
                f"the comment '{port.comment}' of port {port} has characters that a firewall does not take: "
                f"use up to 60 letters, digits, spaces and ._:/+-"
            )
        if any((port.port, port.protocol) == (other.port, other.protocol) for other in ports):
            raise FirewallError(f"port {port} is listed twice")
        ports.append(port)
    return ports


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "backend": {
                "type": "str",
                "choices": ["auto", "nftables", "ufw", "firewalld", "none"],
                "default": "auto",
            },
            "ports": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["udp", "tcp"], "default": "udp"},
                    "comment": {"type": "str", "default": "relay"},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "enable": {"type": "bool", "default": False},
            "zone": {"type": "str", "default": ""},
            "ssh_ports": {"type": "list", "elements": "int", "default": []},
            "connection_port": {"type": "int"},
        },
        supports_check_mode=True,
    )

    params = module.params
    try:
        request = Request(
            backend=params["backend"],
            ports=parse_ports(params["ports"]) if params["state"] == "present" else [],
            present=params["state"] == "present",
            enable=params["enable"],
            zone=params["zone"],
            ssh_ports=params["ssh_ports"],
            connection_port=params["connection_port"],
            dry_run=module.check_mode,
        )
        decision: Decision = Host(runner(module), request).reconcile()
    except (CommandError, FirewallError, ValueError) as error:
        module.fail_json(msg=str(error))
    for text in decision.warnings:
        module.warn(text)
    module.exit_json(
        changed=decision.changed,
        msg=decision.message,
        diff={
            "before": "".join(f"{line}\n" for line in decision.before),
            "after": "".join(f"{line}\n" for line in decision.rules),
        },
        backend=decision.backend,
        reason=decision.reason,
        active=decision.active,
        found=decision.found,
        rules=decision.rules,
        commands=decision.commands,
        ssh_ports=decision.ssh_ports,
        own_chain=decision.own_chain,
    )


if __name__ == "__main__":
    main()
