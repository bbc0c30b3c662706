#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: relay_probe
short_description: Whether a relay's endpoint answers from here
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Sends handshake initiations that the relay itself has made (C(peer-relay probe) prints them) to an endpoint, and
    waits for the relay's answer.
  - Needs no WireGuard peer and disturbs none. The packets are those of a WireGuard handshake, so they take the way of
    one through routers and firewalls.
  - The relay answers each initiation once, within five minutes, whatever address it comes from.
  - An endpoint that does not answer is no failure of the module.
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
  endpoint:
    description:
      - The C(host:port) to send to. An IPv6 address is in brackets.
      - The addresses of a name are tried in turn.
    type: str
    required: true
  relay_public_key:
    description: The public key of the relay that has to answer.
    type: str
    required: true
  initiations:
    description:
      - The initiations in hexadecimal form. Each is sent once, the next one when there was no answer.
    type: list
    elements: str
    required: true
  interface:
    description:
      - The device's WireGuard interface. The packets carry its mark, so that they do not pass its tunnel when an exit
        node is used.
      - Where the endpoint lies in a network behind the tunnel nonetheless, nothing is sent, since an answer would prove
        nothing.
    type: str
    default: pr0
  timeout:
    description: How many seconds to wait for the answer to one initiation.
    type: float
    default: 2
requirements:
  - iproute2
  - root, when the interface has a mark
seealso:
  - module: homelab.peer_relay.path_info
  - module: homelab.peer_relay.relay_info
  - plugin: homelab.peer_relay.reachability_rows
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Let the relay make initiations
  ansible.builtin.command:
    cmd: peer-relay probe --count 3 --json
  delegate_to: relay
  register: result
  changed_when: false

- name: Send them to its public endpoint
  homelab.peer_relay.relay_probe:
    endpoint: relay.example.org:40000
    relay_public_key: "{{ (result.stdout | from_json).public_key }}"
    initiations: "{{ (result.stdout | from_json).initiations }}"

- name: Insist that the port is open
  homelab.peer_relay.relay_probe:
    endpoint: 192.0.2.1:40000
    relay_public_key: "{{ (result.stdout | from_json).public_key }}"
    initiations: "{{ (result.stdout | from_json).initiations }}"
  register: probe
  failed_when: not probe.reachable
"""

RETURN = r"""
reachable:
  description: Whether the relay answered.
  type: bool
  returned: success
  sample: true
address:
  description: What the answer came from. Empty without one.
  type: str
  returned: success
  sample: 192.0.2.1:40000
round_trip_ms:
  description: The time to the answer. None without one.
  type: float
  returned: success
  sample: 41.2
attempts:
  description: How many initiations were sent.
  type: int
  returned: success
  sample: 1
indexes:
  description: The sender indexes of the initiations that were sent, by which the relay's status names them.
  type: list
  elements: int
  returned: success
  sample: [2596069104]
through_tunnel:
  description: Whether nothing was sent because the way to the endpoint is the tunnel.
  type: bool
  returned: success
  sample: false
reason:
  description: Why there is no answer. Empty when there is one.
  type: str
  returned: success
  sample: ""
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.relay_probe import (
    Carrier,
    Outcome,
    ProbeError,
    read_fwmark,
    read_key,
    read_probes,
    read_route,
    resolve,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import WireGuardError, parse_endpoint


def interface_mark(module: AnsibleModule, interface: str) -> int:
    wg = module.get_bin_path("wg")
    code, out = module.run_command([wg, "show", interface, "fwmark"])[:2] if wg else (1, "")
    # Without an interface there is no tunnel to avoid.
    return 0 if code else read_fwmark(out)


def way_out(module: AnsibleModule, address: str, mark: int) -> str:
    command = [module.get_bin_path("ip", required=True), "-json", "route", "get", address]
    code, out = module.run_command([*command, "mark", str(mark)] if mark else command)[:2]
    # Without a route, sending says why.
    return "" if code else read_route(out)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "required": True},
            "relay_public_key": {"type": "str", "required": True},
            "initiations": {"type": "list", "elements": "str", "required": True},
            "interface": {"type": "str", "default": "pr0"},
            "timeout": {"type": "float", "default": 2},
        },
        supports_check_mode=True,
    )
    options = module.params
    interface = options["interface"]
    through_tunnel = False
    try:
        key, probes = read_key(options["relay_public_key"]), read_probes(options["initiations"])
        host, port = parse_endpoint(options["endpoint"])
        mark = interface_mark(module, interface)
        targets = resolve(host, port)
        outside = [target for target in targets if way_out(module, target[1][0], mark) != interface]
        through_tunnel = not outside
        if through_tunnel:
            outcome = Outcome(reason=f"the way to it is the tunnel {interface}")
        else:
            outcome = Carrier(key, options["timeout"], mark).carry(probes, outside)
    except (ProbeError, WireGuardError) as error:
        module.fail_json(msg=str(error))
    except PermissionError as error:
        module.fail_json(msg=f"the mark of {interface} cannot be used: {error.strerror}: run as root (become: true)")
    except OSError as error:  # a name without an address, or a family that this host does not have
        outcome = Outcome(reason=f"{host}: {error.strerror}")
    module.exit_json(
        changed=False,
        reachable=outcome.reachable,
        address=outcome.address,
        round_trip_ms=outcome.round_trip_ms,
        attempts=len(outcome.indexes),
        indexes=list(outcome.indexes),
        through_tunnel=through_tunnel,
        reason=outcome.reason,
    )


if __name__ == "__main__":
    main()
