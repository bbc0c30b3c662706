#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: relay_info
short_description: Health of a peer relay, its devices and pairs
version_added: "1.0.0"
description:
  - Asks the relay service that runs on the host for its status and for what its doctor finds.
  - Fails with the fix when the service is not installed, does not run, or answers something else.
author:
  - The homelab.peer_relay contributors (@homelab)
options:
  settings_file:
    description: Settings file of the service; it names the status socket.
    type: path
    default: /etc/peer-relay/relay.toml
  executable:
    description: The command of the service.
    type: path
    default: /usr/local/bin/peer-relay
attributes:
  check_mode:
    support: full
    description: Reads only, so it does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
seealso:
  - module: homelab.peer_relay.path_info
  - module: homelab.peer_relay.relay_probe
"""

EXAMPLES = r"""
- name: Wait until every device has reached the relay
  homelab.peer_relay.relay_info:
  register: result
  until: result is succeeded and (result.relay.devices | rejectattr('state', 'eq', 'bound') | length == 0)
  retries: 12
  delay: 5

- name: Insist on a relay without problems
  ansible.builtin.assert:
    that: result.healthy
    fail_msg: "{{ result.relay.problems | join(', ') }}"

- name: Ask a relay whose settings are elsewhere
  homelab.peer_relay.relay_info:
    settings_file: /etc/peer-relay-test/relay.toml

- name: Insist that the kernel forwards
  ansible.builtin.assert:
    that: result.relay.data_plane == 'kernel'
    fail_msg: "{{ result.relay.data_plane_reason }}"

- name: Show what the doctor finds, and what to do
  ansible.builtin.debug:
    msg: "{{ item.subject }}: {{ item.problem }}: {{ item.cure }}"
  loop: "{{ result.findings }}"
"""

RETURN = r"""
healthy:
  description: Whether the relay runs with the settings that are on disk.
  returned: success
  type: bool
  sample: true
findings:
  description: What the relay's doctor finds, for the relay, each device and each pair.
  returned: success
  type: list
  elements: dict
  contains:
    subject:
      description: Whom it concerns.
      type: str
      sample: laptop
    problem:
      description: What is wrong.
      type: str
      sample: no handshake has ever arrived
    cure:
      description: What to do.
      type: str
      sample: is the device on, and UDP 40000 reachable from where it is?
relay:
  description: The status document of the service.
  returned: success
  type: dict
  contains:
    name:
      description: Name of the relay.
      type: str
      sample: relay
    version:
      description: Version of the service.
      type: str
      sample: 1.2.0
    public_key:
      description: The relay's WireGuard public key.
      type: str
      sample: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
    uptime_seconds:
      description: Seconds since the service started.
      type: float
      sample: 86400.5
    data_plane:
      description: Who forwards transport packets, V(kernel) or V(userspace).
      type: str
      sample: kernel
    data_plane_reason:
      description: Why it is not the kernel. None if it is.
      type: str
      sample: null
    kernel:
      description: The table by which the kernel forwards. None while userspace forwards.
      type: dict
      contains:
        entries:
          description: How many sessions and directions it holds.
          type: int
          sample: 6
        size:
          description: How many it has room for.
          type: int
          sample: 65536
        interfaces:
          description: Where the program is attached, C(tcx) or C(clsact) by name of the interface.
          type: dict
          sample: {eth0: tcx}
        refusals:
          description: What userspace has to forward nevertheless, how many of them by reason.
          type: dict
          sample: {rate_limit: 2}
    listen:
      description: The UDP addresses and ports on which the relay listens.
      type: list
      elements: str
      sample: ["0.0.0.0:40000", "[::]:40000"]
    problems:
      description: What is wrong with the relay itself.
      type: list
      elements: str
      sample: []
    devices:
      description:
        - Registered devices, sorted by name. RV(relay.devices[].state) is V(bound), V(handshaking) or V(absent).
      type: list
      elements: dict
      contains:
        name:
          description: Name of the device.
          type: str
          sample: laptop
        state:
          description: Whether the device has lately proven where it is.
          type: str
          sample: bound
        endpoint:
          description: Where the relay sees the device.
          type: str
          sample: 198.51.100.7:51820
        key_used_at:
          description: Where two hosts use its key at the same time, as after a disk was cloned. Empty if only one does.
          type: list
          elements: str
          sample: []
    pairs:
      description: Who has asked for whom through the relay, and whether there is a session.
      type: list
      elements: dict
      sample: [{from: laptop, to: nas, state: up, plane: kernel, packets: 1204, bytes: 1320000}]
    drops:
      description: Packets and bytes that were not forwarded, by reason.
      type: dict
      sample: {no_such_peer: {packets: 3, bytes: 444}}
    edge:
      description:
        - What the keeper of the router's ports tells (role P(homelab.peer_relay.port_forward#role), backend V(auto)).
          V(null) where there is none.
      type: dict
      contains:
        router:
          description: The C(address) of the router and the C(method) by which it is asked. V(null) while there is none.
          type: dict
          sample: {address: 192.168.1.1, method: pcp}
        external_address:
          description: The router's address towards the Internet. Empty when it does not tell.
          type: str
          sample: 203.0.113.7
        seen_address:
          description: The address under which a STUN server sees the relay. Empty without one.
          type: str
          sample: 203.0.113.7
        address_since:
          description: Since when the router has that address, in Unix time.
          type: float
          sample: 1795440000.0
        address_age_seconds:
          description: For how long the router has had that address.
          type: float
          sample: 86400.0
        address_changes:
          description: How often the address has changed.
          type: int
          sample: 0
        nat:
          description: What kind of address it is (see RV(homelab.peer_relay.port_mapping_info#module:nat)).
          type: str
          sample: public
        explanation:
          description: What that means, and what to do about it.
          type: str
          sample: >-
            The router's external address 203.0.113.7 is public: the Internet can reach a port that is mapped there.
        mappings:
          description: The ports, with their C(state) (V(mapped), V(pending), V(refused) or V(conflict)) and C(problem).
          type: list
          elements: dict
          sample: [{name: relay, protocol: udp, external_port: 40000, state: mapped, problem: null}]
        problems:
          description: What is wrong with the router.
          type: list
          elements: str
          sample: []
        updated:
          description: When the keeper told this, in Unix time.
          type: float
          sample: 1795526400.0
        age_seconds:
          description: How old this is.
          type: float
          sample: 4.2
    probes:
      description:
        - The reachability probes that were answered last (see M(homelab.peer_relay.relay_probe)), with C(source),
          C(index) and C(age_seconds).
      type: list
      elements: dict
      sample: [{source: "198.51.100.7:41234", index: 2596069104, age_seconds: 1.5}]
    probes_answered:
      description: How many reachability probes were answered since the start.
      type: int
      sample: 3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.relay import RelayError, query


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "settings_file": {"type": "path", "default": "/etc/peer-relay/relay.toml"},
            "executable": {"type": "path", "default": "/usr/local/bin/peer-relay"},
        },
        supports_check_mode=True,
    )

    command = [module.params["executable"], "--settings", module.params["settings_file"]]

    try:
        status, findings = query(lambda *words: module.run_command([*command, *words], handle_exceptions=False))
    except RelayError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{command[0]}: {error.strerror}: apply role homelab.peer_relay.relay to this host first")
    module.exit_json(changed=False, healthy=status["healthy"], findings=findings, relay=status)


if __name__ == "__main__":
    main()
