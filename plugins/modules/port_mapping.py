#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: port_mapping
short_description: Have the router forward a port to this host, by PCP, NAT-PMP or UPnP
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Asks the router in front of the host to forward a port to it, as many home routers let their hosts ask, by the Port
    Control Protocol (PCP, RFC 6887), NAT-PMP (RFC 6886) or UPnP (Internet Gateway Device 1 and 2).
  - For IPv6, opens the port in the router's firewall, by PCP or UPnP.
  - A mapping ends with its lease. Every run renews it, which counts as no change. The role
    C(homelab.peer_relay.port_forward) installs a service that keeps mappings for good, also when the router restarts.
  - An external port that is somebody else's is never taken, unless O(overwrite=true).
  - Tells whether the router's external address is one that the Internet can reach, see RV(nat).
extends_documentation_fragment:
  - homelab.peer_relay.attributes
  - homelab.peer_relay.router
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  internal_port:
    description: The port of this host.
    type: int
    required: true
  external_port:
    description:
      - The port of the router. Default is O(internal_port).
      - With O(family=6) nothing is translated, and the two have to be the same.
    type: int
  protocol:
    description: The protocol of the port.
    type: str
    choices:
      - udp
      - tcp
    default: udp
  family:
    description: V(4) has the router translate IPv4. V(6) opens a pinhole in its IPv6 firewall.
    type: int
    choices:
      - 4
      - 6
    default: 4
  state:
    description:
      - V(present) makes the mapping, or renews its lease.
      - V(absent) deletes it. When no router answers, nothing is left to do but to let the lease end.
    type: str
    choices:
      - present
      - absent
    default: present
  lease:
    description: For how many seconds to ask. The router may grant more or less, see RV(lease).
    type: int
    default: 3600
  description:
    description: A name for people, which a router with UPnP shows.
    type: str
    default: homelab.peer_relay
  overwrite:
    description:
      - Delete the mapping of the external port if it is somebody else's. The router has to allow it.
      - Has an effect with UPnP only. Neither PCP nor NAT-PMP lets anybody do it.
    type: bool
    default: false
  lease_file:
    description:
      - Where to remember what the router granted, since PCP and NAT-PMP cannot be asked for it.
      - When it is lost, the next run reports a change, and nothing worse happens.
    type: path
    default: /var/lib/peer-relay-ports/leases.json
notes:
  - Runs on the host that the mapping is for. Routers map ports for the host that asks only.
seealso:
  - module: homelab.peer_relay.port_mapping_info
  - module: homelab.peer_relay.nftables_forwards
"""

EXAMPLES = r"""
- name: Open the relay's port
  homelab.peer_relay.port_mapping:
    internal_port: 40000
  register: mapping

- name: Insist that the Internet can reach it
  ansible.builtin.assert:
    that: mapping.nat == 'public'
    fail_msg: "{{ mapping.explanation }}"

- name: Serve the port 443 of the router, asked by UPnP
  homelab.peer_relay.port_mapping:
    internal_port: 8443
    external_port: 443
    protocol: tcp
    method: upnp

- name: Let IPv6 through to the relay
  homelab.peer_relay.port_mapping:
    internal_port: 40000
    family: 6

- name: Close the port again
  homelab.peer_relay.port_mapping:
    internal_port: 40000
    state: absent
"""

RETURN = r"""
method:
  description: The protocol that the router speaks. Empty when none answered, with O(state=absent).
  type: str
  returned: success
  sample: pcp
gateway:
  description: The router's address. Empty when none answered, with O(state=absent).
  type: str
  returned: success
  sample: 192.168.1.1
external_address:
  description:
    - The router's address towards the Internet. For IPv6 it is the host's own.
    - Empty when the router does not tell. By PCP it tells only with a mapping, so that check mode may not know it.
  type: str
  returned: when O(state=present)
  sample: 203.0.113.7
external_port:
  description: The port there.
  type: int
  returned: when O(state=present)
  sample: 40000
lease:
  description: For how many seconds the router granted the mapping. V(0) is until it is deleted.
  type: int
  returned: when O(state=present)
  sample: 3600
expires:
  description: The time of day when that ends, in seconds since 1970. V(0) is never.
  type: int
  returned: when O(state=present)
  sample: 1795440000
nat:
  description:
    - V(public) when the Internet can reach the external address.
    - V(cgnat) when it is of the provider's own network, shared among customers. V(ds_lite) when it ends a tunnel to the
      provider's translation. V(double_nat) when it is private.
    - V(unknown) when the router does not tell it.
  type: str
  returned: when O(state=present)
  sample: public
explanation:
  description: What that means, and what to do about it.
  type: str
  returned: when O(state=present)
  sample: >-
    The router's external address 203.0.113.7 is public: the Internet can reach a port that is mapped there.
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import discovery
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.leases import LeaseFile
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    MappingError,
    Unreachable,
    Wanted,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.reconcile import Reconciler
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.verdict import verdict

MAX_LEASE = 2**31 - 1


def read_wanted(module: AnsibleModule) -> Wanted:
    options = module.params
    wanted = Wanted(
        internal_port=options["internal_port"],
        external_port=options["internal_port"] if options["external_port"] is None else options["external_port"],
        protocol=options["protocol"],
        family=options["family"],
        lease=options["lease"],
        description=options["description"],
    )
    for name, value, most in (
        ("internal_port", wanted.internal_port, 65535),
        ("external_port", wanted.external_port, 65535),
        ("lease", wanted.lease, MAX_LEASE),
    ):
        if not 1 <= value <= most:
            module.fail_json(msg=f"{name} is {value}: give a number from 1 to {most}")
    if wanted.family == 6 and wanted.external_port != wanted.internal_port:
        module.fail_json(
            msg=f"external_port is {wanted.external_port} and internal_port {wanted.internal_port}: IPv6 is not "
            "translated, so leave external_port out"
        )
    return wanted


def present(module: AnsibleModule, wanted: Wanted, leases: LeaseFile) -> None:
    options = module.params
    client = discovery.find(options["method"], options["gateway"], wanted.family)
    outcome = Reconciler(client, wanted, leases, module.check_mode).present(options["overwrite"])
    granted = outcome.granted
    nat, explanation = verdict(granted.external_address)
    module.exit_json(
        changed=outcome.changed,
        diff={"before": outcome.before, "after": outcome.after},
        method=client.method,
        gateway=client.gateway,
        external_address=granted.external_address,
        external_port=granted.external_port,
        lease=granted.lease,
        expires=int(time.time()) + granted.lease if granted.lease else 0,
        nat=nat,
        explanation=explanation,
    )


def absent(module: AnsibleModule, wanted: Wanted, leases: LeaseFile) -> None:
    options = module.params
    lease = leases.get(wanted)
    # What was made by one protocol cannot be deleted by another.
    method = lease.method if lease and options["method"] == "auto" else options["method"]
    try:
        client = discovery.find(method, options["gateway"], wanted.family)
    except Unreachable as error:
        runs = bool(lease and lease.runs(time.time()))
        if runs:
            module.warn(f"the mapping could not be deleted, and ends when its lease does: {error}")
        if not module.check_mode:
            leases.drop(wanted)
        module.exit_json(changed=runs, method="", gateway="")
    outcome = Reconciler(client, wanted, leases, module.check_mode).absent()
    module.exit_json(
        changed=outcome.changed,
        diff={"before": outcome.before, "after": outcome.after},
        method=client.method,
        gateway=client.gateway,
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "internal_port": {"type": "int", "required": True},
            "external_port": {"type": "int"},
            "protocol": {"type": "str", "choices": ["udp", "tcp"], "default": "udp"},
            "family": {"type": "int", "choices": [4, 6], "default": 4},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "lease": {"type": "int", "default": 3600},
            "method": {"type": "str", "choices": ["auto", *discovery.METHODS], "default": "auto"},
            "gateway": {"type": "str", "default": ""},
            "description": {"type": "str", "default": "homelab.peer_relay"},
            "overwrite": {"type": "bool", "default": False},
            "lease_file": {"type": "path", "default": "/var/lib/peer-relay-ports/leases.json"},
        },
        supports_check_mode=True,
    )
    wanted = read_wanted(module)
    try:
        leases = LeaseFile(module.params["lease_file"])
        {"present": present, "absent": absent}[module.params["state"]](module, wanted, leases)
    except MappingError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}: run as root, with become: true")


if __name__ == "__main__":
    main()
