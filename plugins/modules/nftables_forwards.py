#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nftables_forwards
short_description: Forward ports to a host behind a Linux router
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Runs on a Linux router with nftables, and has exactly the given ports forwarded to one host behind it.
  - The translation is in the table C(ip peer_relay_forwards). Where a forward chain of somebody else drops what is
    forwarded, a rule with a comment that starts with C(homelab.peer_relay:) goes just before the rule that does.
  - The name of a forward is in the comment of its rules.
  - A port that somebody else forwards already is refused.
  - Rules live until the ruleset is loaded anew; the role P(homelab.peer_relay.port_forward#role) sees to that.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
  - homelab.peer_relay.forwards
attributes:
  check_mode:
    support: full
  diff_mode:
    description: Shows its own rules before and after.
    support: full
  idempotent:
    support: full
options:
  wan:
    description: The router's interface to the outside. Empty for that of its default route.
    type: str
    default: ""
seealso:
  - module: homelab.peer_relay.openwrt_forwards
  - module: homelab.peer_relay.port_mapping
"""

EXAMPLES = r"""
- name: Forward the relay's port
  homelab.peer_relay.nftables_forwards:
    address: 192.168.1.10
    forwards:
      - name: relay
        port: 40000
  delegate_to: router

- name: Remove all forwards that this module made
  homelab.peer_relay.nftables_forwards:
    state: absent
  delegate_to: router

- name: Forward another port outside, and let the same one in for IPv6
  homelab.peer_relay.nftables_forwards:
    wan: ppp0
    address: 192.168.1.10
    address6: 2001:db8::10
    forwards:
      - name: relay
        port: 40000
        external_port: 51820
      - name: relay6
        port: 40000
        families: [ipv6]
  delegate_to: router
"""

RETURN = r"""
external_address:
  description: The router's IPv4 address outside, empty if it has none.
  type: str
  returned: success
  sample: 198.51.100.21
wan:
  description: The router's interface to the outside.
  type: str
  returned: success
  sample: eth0
rules:
  description: The rules of this module that are now in place.
  type: list
  elements: str
  returned: success
  sample:
    - >-
      ip peer_relay_forwards prerouting: iifname "eth0" fib daddr type local udp dport 40000 dnat to 192.168.1.10:40000
      comment "homelab.peer_relay: relay"
commands:
  description: The commands that were run, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample:
    - >-
      nft insert rule inet filter forward handle 1 ip daddr 192.168.1.10 udp dport 40000 ct status dnat accept
      comment "homelab.peer_relay: relay"
settings:
  description: What the router has to know to bring the rules in again.
  type: dict
  returned: success
  sample:
    wan: eth0
    address: 192.168.1.10
    address6: ""
    hairpin: true
    forwards:
      - {name: relay, protocol: udp, port: 40000, external_port: 40000, families: [ipv4]}
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.address import canonical_address, parse_address
from ansible_collections.homelab.peer_relay.plugins.module_utils.commands import runner
from ansible_collections.homelab.peer_relay.plugins.module_utils.forwards import OPTIONS
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import RulesetError
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_forwards import (
    Request,
    bring_in,
    make_plan,
    make_request,
    refuse_what_others_hold,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft_plan import read_ruleset
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import (
    CommandError,
    FirewallError,
    Run,
)

FORWARDING = {"ipv4": "net/ipv4/ip_forward", "ipv6": "net/ipv6/conf/all/forwarding"}


def settings_of(params: dict) -> dict:
    """The request as it is kept for start-up."""
    present = params["state"] == "present"
    forwards = [{**item, "external_port": item["external_port"] or item["port"]} for item in params["forwards"]]
    for key, version in (("address", 4), ("address6", 6)):
        needed = present and any(f"ipv{version}" in forward["families"] for forward in forwards)
        if needed and not is_address(params[key], version):
            raise FirewallError(f"{key} '{params[key]}' is not an IPv{version} address")
    return {
        "forwards": forwards if present else [],
        "address": params["address"],
        "address6": params["address6"],
        "wan": params["wan"],
        "hairpin": params["hairpin"],
    }


def is_address(text: str, version: int) -> bool:
    try:
        return parse_address(text).version == version
    except ValueError:
        return False


def default_interface(run: Run) -> str:
    routes = [route for route in json.loads(run(["ip", "-json", "route", "show", "default"])) if "dev" in route]
    if not routes:
        raise FirewallError("the router has no default route: name its interface to the outside (wan)")
    return min(routes, key=lambda route: route.get("metric", 0))["dev"]


def address_of(run: Run, interface: str) -> str:
    links = json.loads(run(["ip", "-json", "-4", "address", "show", "dev", interface, "scope", "global"]))
    # Some versions of ip print an empty item for an address that is filtered out.
    addresses = [info["local"] for link in links for info in link.get("addr_info", []) if "local" in info]
    return canonical_address(addresses[0]) if addresses else ""


def refuse_what_does_not_forward(request: Request) -> None:
    for family, path in FORWARDING.items():
        wanted = any(family in forward.families for forward in request.forwards)
        setting = Path("/proc/sys", path)
        if wanted and setting.exists() and setting.read_text(encoding="ascii").strip() == "0":
            raise FirewallError(
                f"this host forwards no {family}, so it is no router: name the router, or set "
                f"{path.replace('/', '.')} to 1 on it"
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={**OPTIONS, "wan": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    run = runner(module)
    try:
        settings = settings_of(module.params)
        external_address = ""
        if settings["forwards"]:
            settings["wan"] = settings["wan"] or default_interface(run)
            external_address = address_of(run, settings["wan"])
        request = make_request(settings)
        refuse_what_does_not_forward(request)
        ruleset = read_ruleset(run)
        refuse_what_others_hold(ruleset, request, external_address)
        plan = make_plan(ruleset, request)
        if plan.changed and not module.check_mode:
            bring_in(run, plan)
            left = make_plan(read_ruleset(run), request)
            if left.changed:
                raise FirewallError(f"nft took the rules, but does not have them in force: {'; '.join(left.lines)}")
    except (CommandError, FirewallError, RulesetError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=plan.changed,
        diff={
            "before": "".join(f"{line}\n" for line in plan.before),
            "after": "".join(f"{line}\n" for line in plan.after),
        },
        external_address=external_address,
        wan=settings["wan"],
        rules=list(plan.after),
        commands=plan.lines,
        settings=settings,
    )


if __name__ == "__main__":
    main()
