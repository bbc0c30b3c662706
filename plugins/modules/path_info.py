#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: path_info
short_description: The paths from this device to others of the overlay
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Pings the overlay addresses of other devices, all at once, and tells for each device which path the packets take,
    how long they take, how old the handshake is, and why the path is not a better one.
  - Where the path agent runs on this device, its status tells the paths. Without it, WireGuard's endpoints tell a
    relay from everything else.
  - Says what is wrong with a path that does not work, and what to do. The module itself does not fail then.
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
    description: The WireGuard interface.
    type: str
    default: pr0
  peers:
    description: The devices to look at.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The device's name.
        type: str
        required: true
      addresses:
        description: Its overlay addresses. Each of them has to answer.
        type: list
        elements: str
        required: true
      timeout:
        description: As O(timeout), for a device that may well be off.
        type: int
        version_added: 1.3.0
  relay_addresses:
    description:
      - The relays' overlay addresses. A peer with the endpoint of one of theirs is reached by that relay.
      - A relay has the name that it has in O(peers), or else that of its first address.
    type: list
    elements: str
    required: true
  count:
    description: How many answers to wait for, from each address.
    type: int
    default: 3
  timeout:
    description:
      - How many seconds to wait for them.
      - A first handshake takes more than five when its first packet is lost.
    type: int
    default: 12
requirements:
  - wireguard-tools
  - ping
seealso:
  - module: homelab.peer_relay.relay_info
  - module: homelab.peer_relay.relay_probe
  - plugin: homelab.peer_relay.overlay_targets
    plugin_type: filter
  - plugin: homelab.peer_relay.path_rows
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Look at the path to the NAS
  homelab.peer_relay.path_info:
    relay_addresses: [10.77.0.1]
    peers:
      - name: nas
        addresses: [10.77.56.78]
  register: result
  until: result.paths | rejectattr('ok') | length == 0
  retries: 5

- name: Look at the paths to all devices of the inventory
  homelab.peer_relay.path_info:
    relay_addresses: [10.77.0.1]
    peers: >-
      {{ groups['peers'] | homelab.peer_relay.overlay_targets(hostvars, overlay_networks, inventory_hostname, relays) }}
  register: result

- name: Name the devices that are not reached directly, and why
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.why_not_text }}"
  loop: "{{ result.paths | selectattr('path', 'in', ['relay', 'fallback']) }}"
  loop_control:
    label: "{{ item.name }}"
"""

RETURN = r"""
paths:
  description: The paths, in the order of O(peers).
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: The device's name.
      type: str
      sample: nas
    ok:
      description: Whether all of its addresses answered.
      type: bool
      sample: true
    path:
      description:
        - V(lan) is a direct path inside a network that both are in, V(direct) any other direct path, V(relay) goes by
          way of a relay over UDP, V(fallback) by way of a relay over TLS, since no UDP gets through.
        - V(none) when no address answered.
        - Without an agent on this device, V(lan) and V(fallback) are not told.
      type: str
      sample: relay
    via:
      description: The name of the relay that the path goes by. None for a direct path, and for the path to a relay.
      type: str
      sample: relay
    endpoint:
      description: Where packets for the device go. None when WireGuard knows no endpoint, or no such peer.
      type: str
      sample: 192.0.2.1:40000
    rtt_ms:
      description: The mean round trip of the fastest address. None when no address answered.
      type: float
      sample: 41.2
    handshake_age_seconds:
      description: The age of the latest handshake. None when there was none.
      type: int
      sample: 12
    path_age_seconds:
      description: For how long packets have taken this path. None when no agent tells.
      type: int
      sample: 310
    why_not:
      description:
        - The name of the reason that there is no better path. Empty when there is none to be had.
        - V(no_agent), when no agent runs on this device, V(agent_gone), when it has not written its status for a
          minute, V(not_settled), when it does not look after that device. V(peers_unchangeable), when the WireGuard of
          this device takes no change of a peer, so that the agent leaves every device on its path.
        - The others are the agent's, such as V(other_has_no_agent), V(symmetric_nat), V(no_answer), V(blocked_udp).
          C(docs/paths.md) has them all.
      type: str
      sample: symmetric_nat
    why_not_text:
      description: The same as a sentence, and what to do about it.
      type: str
      sample: >-
        the routers of both sites use another port for each destination, so neither side can be met there: open a port
        at one of the sites: the role port_forward does
    addresses:
      description: For each address the mean round trip C(rtt_ms), which is none when it did not answer.
      type: list
      elements: dict
      sample: [{"address": "10.77.56.78", "rtt_ms": 41.2}]
    reason:
      description: What is wrong. Empty when nothing is.
      type: str
      sample: ""
    cure:
      description: What to do about it.
      type: str
      sample: ""
agent:
  description: The path agent of this device.
  type: dict
  returned: success
  contains:
    state:
      description:
        - V(running), V(gone) when its status is older than a minute, V(absent) when there is none.
      type: str
      sample: running
    problems:
      description: What it finds wrong with this device. Empty when it does not run.
      type: list
      elements: str
      sample: []
guard:
  description: What keeps this device's rules, routes and packet filter in place.
  type: dict
  returned: success
  contains:
    state:
      description: V(running), V(stopped), or V(absent) where none is needed.
      type: str
      sample: running
    text:
      description: What it has put back so far. Empty when it does not run.
      type: str
      sample: "Put back 2 times, last at 2026-11-05 06:12:40: rule 4 28786"
"""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import AgentError, load
from ansible_collections.homelab.peer_relay.plugins.module_utils.paths import Device, judge, parse_guard, parse_ping
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import WireGuardError, parse_dump

AT_ONCE = 256  # pings; so that silent addresses, which take the whole time, do not wait for each other


def round_trip(ping: str, interface: str, address: str, count: int, timeout: int) -> float | None:
    command = [ping, "-n", "-q", "-I", interface, "-i", "0.2", "-c", str(count), "-w", str(timeout), address]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=timeout + 5)  # noqa: S603
    except subprocess.TimeoutExpired:
        return None
    return parse_ping(done.stdout)


def guard(module: AnsibleModule, interface: str) -> dict:
    unit = f"peer-guard@{interface}.service"
    if not Path("/etc/systemd/system", unit).exists():
        return {"state": "absent", "text": ""}
    return parse_guard(module.run_command(["systemctl", "show", "-p", "ActiveState", "-p", "StatusText", unit])[1])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "interface": {"type": "str", "default": "pr0"},
            "peers": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "addresses": {"type": "list", "elements": "str", "required": True},
                    "timeout": {"type": "int"},
                },
            },
            "relay_addresses": {"type": "list", "elements": "str", "required": True},
            "count": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 12},
        },
        supports_check_mode=True,
    )
    options = module.params
    interface = options["interface"]
    wg, ping = module.get_bin_path("wg"), module.get_bin_path("ping")
    for found, package in ((wg, "wireguard-tools"), (ping, "iputils-ping")):
        if not found:
            module.fail_json(msg=f"the package {package} is missing: run homelab.peer_relay.site, or install it")
    pairs = [
        (number, address, peer["timeout"] or options["timeout"])
        for number, peer in enumerate(options["peers"])
        for address in peer["addresses"]
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        trips = list(pool.map(lambda pair: round_trip(ping, interface, pair[1], options["count"], pair[2]), pairs))
    code, dump, error = module.run_command([wg, "show", interface, "dump"])
    if code:
        module.fail_json(
            msg=f"{interface} does not run here ({error.strip()}): run homelab.peer_relay.site, or look at the journal "
            f"of wg-quick@{interface}"
        )
    try:
        running = parse_dump(dump)
    except WireGuardError as problem:
        module.fail_json(msg=f"{interface}: {problem}")
    now = time.time()
    try:
        status = load(interface)
    except AgentError as problem:
        module.fail_json(msg=str(problem))
    agent = status if status and status.is_fresh(now) else None
    targets = [{"name": peer["name"], "addresses": []} for peer in options["peers"]]
    for (number, address, _timeout), trip in zip(pairs, trips, strict=True):
        targets[number]["addresses"].append({"address": address, "rtt_ms": trip})
    names = {address: peer["name"] for peer in options["peers"] for address in peer["addresses"]}
    relays = {address: names.get(address, address) for address in options["relay_addresses"]}
    device = Device(interface, running, relays, agent, "agent_gone" if status else "no_agent")
    module.exit_json(
        changed=False,
        paths=[judge(target, device, now) for target in targets],
        agent={
            "state": "running" if agent else "gone" if status else "absent",
            "problems": list(agent.problems) if agent else [],
        },
        guard=guard(module, interface),
    )


if __name__ == "__main__":
    main()
