#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: forwarding_info
short_description: What a host's packet filters do with what it forwards for a tunnel
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Reads the rules of nftables and of both kinds of iptables, and tells which chains drop packets between an interface
    and the networks behind this host, whether by their policy or by a rule.
  - Rules of this collection are left out of account. It changes nothing.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  interface:
    description: The interface of the tunnel.
    type: str
    default: pr0
  networks:
    description: The networks in the tunnel.
    type: list
    elements: str
    required: true
  subnets:
    description: The networks behind this host that are reached through it, C(0.0.0.0/0) and C(::/0) for everything.
    type: list
    elements: str
    required: true
seealso:
  - module: homelab.peer_relay.firewall_ports
"""

EXAMPLES = r"""
- name: See whether the LAN is reached
  homelab.peer_relay.forwarding_info:
    networks: [10.77.0.0/16]
    subnets: [192.168.1.0/24]

- name: See what keeps an exit node from forwarding
  homelab.peer_relay.forwarding_info:
    networks: [10.77.0.0/16, "fd77:7065:6572::/64"]
    subnets: [0.0.0.0/0, "::/0"]
  register: forwarding

- name: Insist that nothing does
  ansible.builtin.assert:
    that: forwarding.obstacles == []
    fail_msg: "{{ forwarding.obstacles | join('\n') }}"
"""

RETURN = r"""
obstacles:
  description: Chains that somebody has to change, for people to read.
  type: list
  elements: str
  returned: success
  sample:
    - >-
      The chain inet filter forward drops what is forwarded from pr0 to 192.168.1.1 (its policy). Have it accept
      what comes from and goes to pr0: nft insert rule inet filter forward iifname pr0 accept, the same with oifname,
      and both where that table is kept.
iptables:
  description:
    - The programs, such as C(iptables-nft) and C(ip6tables-legacy), whose chain FORWARD drops, or will from the next
      start of ufw or Docker. A rule at its beginning helps.
  type: list
  elements: str
  returned: success
  sample: [ip6tables-nft, iptables-nft]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.commands import runner
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.forwarding import (
    Forwarding,
    describe,
    programs_for,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import RulesetError
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import CommandError

UFW = Path("/etc/ufw/ufw.conf")


def coming(module: AnsibleModule) -> list[str]:
    """Docker and ufw drop what iptables forwards unless told otherwise, from the next boot at the latest."""
    on = UFW.exists() and "\nENABLED=yes" in "\n" + UFW.read_text(encoding="utf-8", errors="replace")
    found = []
    for program in ("iptables", "ip6tables") if on or module.get_bin_path("dockerd") else ():
        path = module.get_bin_path(program)
        if path:
            version = module.run_command([path, "--version"])[1]
            found.append(f"{program}-{'legacy' if 'legacy' in version else 'nft'}")
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "interface": {"type": "str", "default": "pr0"},
            "networks": {"type": "list", "elements": "str", "required": True},
            "subnets": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        forwarding = Forwarding(runner(module), params["interface"], params["networks"], params["subnets"])
        obstacles = forwarding.obstacles()
    except (CommandError, RulesetError, ValueError) as error:
        module.fail_json(msg=str(error))
    programs = programs_for(obstacles)
    others = [item for item in obstacles if not (item.chain.program and item.chain.hook == "forward")]
    unseen = [
        f"The kernel has rules that no program here can read, and they may drop what is forwarded: {table}. Install "
        f"the program that made them, then run this again."
        for table in forwarding.ruleset.unseen
    ]
    module.exit_json(
        obstacles=[describe(item, params["interface"]) for item in others] + unseen,
        iptables=sorted({*programs, *coming(module)}),
    )


if __name__ == "__main__":
    main()
