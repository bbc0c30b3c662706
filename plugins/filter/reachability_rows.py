# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: reachability_rows
short_description: From where the relays' endpoints are reached, as one list
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Joins the results of M(homelab.peer_relay.relay_probe) on several hosts, of probes to the public endpoint and to the
    relay's address in its own network (the inner endpoint). A device that reaches the inner one is inside.
  - Leaves out hosts that are not managed, and those that are to be absent.
positional: hostvars, public, inner, relays
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  public:
    description:
      - The variable that holds each host's result for the public endpoint, which may be that of a loop over the relays.
    type: str
    required: true
  inner:
    description: The variable that holds each host's result for the inner endpoint, likewise.
    type: str
    required: true
  relays:
    description: The relays. A dictionary stands for a list of one.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Its inventory name, as C(host) of the loop's items.
        type: str
        default: ""
      endpoint:
        description: Its public endpoint, C(host:port).
        type: str
        required: true
      inner_endpoint:
        description: The endpoint in its own network, behind a router. Empty without one.
        type: str
        required: true
      probes:
        description: The probes that its status says it has answered.
        type: list
        elements: dict
        default: []
seealso:
  - module: homelab.peer_relay.relay_probe
  - plugin: homelab.peer_relay.reachability_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show from where the relay is reached
  ansible.builtin.debug:
    msg: >-
      {{ groups['peers'] | homelab.peer_relay.reachability_rows(hostvars, 'result', 'inner_result', relays)
         | homelab.peer_relay.reachability_table }}
  vars:
    relays:
      - endpoint: 192.0.2.1:40000
        inner_endpoint: 192.168.1.10:40000
"""

RETURN = r"""
_value:
  description: One entry for each relay and device.
  type: list
  elements: dict
  contains:
    device:
      description: The device's name.
      type: str
    relay:
      description: The relay's inventory name.
      type: str
    place:
      description: V(inside) or V(outside) the relay's own network, or empty when that cannot be told.
      type: str
    endpoint:
      description: The public endpoint.
      type: str
    reachable:
      description: Whether it answered. None when the device could not be asked.
      type: bool
    address:
      description: The address that answered.
      type: str
    round_trip_ms:
      description: The time to the answer.
      type: float
    hairpin:
      description: Whether the public endpoint answers from inside. None for other devices.
      type: bool
    ok:
      description: Whether the device reaches the relay where it is, as far as it could be asked.
      type: bool
    reason:
      description: Why not. Empty otherwise.
      type: str
    cure:
      description: What to do about it.
      type: str
  sample:
    - device: laptop
      relay: vps
      place: outside
      endpoint: 192.0.2.1:40000
      reachable: true
      address: 192.0.2.1:40000
      round_trip_ms: 41.2
      hairpin: null
      ok: true
      reason: ""
      cure: ""
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.hosts import expected, why_missing
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import as_list

INSIDE = "inside"
OUTSIDE = "outside"
UNKNOWN = ""


def reachability_rows(hosts, hostvars, public, inner, relays):
    return [row for relay in as_list(relays) for row in _rows(hosts, hostvars, public, inner, relay)]


def _rows(hosts, hostvars, public, inner, relay):
    rows, sent = [], {}
    for host in expected(hosts, hostvars):
        answer, inner_answer = (_of_relay(hostvars[host].get(variable) or {}, relay) for variable in (public, inner))
        sent[host] = {int(index) for index in answer.get("indexes") or ()}
        rows.append({"relay": relay.get("host", ""), **_row(host, answer, inner_answer, relay["endpoint"])})
    somebody = any(row["reachable"] and row["place"] != INSIDE for row in rows)
    arrived = {int(probe["index"]) for probe in relay.get("probes") or ()}
    for row in rows:
        if not row["ok"]:
            row["reason"], row["cure"] = _fault(row["reason"], sent[row["device"]], arrived, somebody, relay)
    return rows


def _of_relay(result, relay):
    """The result for one relay: of a loop it is one of many, unless the host was not reached at all."""
    for entry in result.get("results") or ():
        if entry[entry["ansible_loop_var"]]["host"] == relay.get("host"):
            return entry
    return result


def _row(host, answer, inner_answer, endpoint):
    reachable = answer.get("reachable")
    place = UNKNOWN
    if "reachable" in inner_answer:
        place = INSIDE if inner_answer["reachable"] else OUTSIDE
    reason, fix = "", ""
    if reachable is None and not answer.get("skipped"):
        reason, fix = why_missing(answer)
    elif not reachable:
        reason = str(answer.get("reason") or "not asked")
    return {
        "device": host,
        "place": place,
        "endpoint": endpoint,
        "reachable": reachable,
        "address": answer.get("address") or "",
        "round_trip_ms": answer.get("round_trip_ms"),
        "hairpin": reachable if place == INSIDE else None,
        # Whether the paths work is told elsewhere: a device that could not be asked is no fault of the endpoint's.
        "ok": place == INSIDE or reachable is not False,
        "reason": reason,
        "cure": fix,
    }


def _fault(reason, sent, arrived, somebody, relay):
    """Why a device that is not inside has no answer, and what to do."""
    port = relay["endpoint"].rpartition(":")[2]
    if sent & arrived:
        return (
            "the relay has answered, but the answer does not come back",
            "does the relay send by the router that forwards to it, and does that one let UDP out?",
        )
    if not sent:
        return reason, f"does {relay['endpoint'].rpartition(':')[0]} have the right address there?"
    if somebody:
        return reason, f"others reach it: does the network where this device is now let UDP to port {port} out?"
    if relay["inner_endpoint"]:
        return reason, (
            f"does the router forward UDP port {port} to {relay['inner_endpoint']}? Set port_forward_backend and run "
            "homelab.peer_relay.site, or forward it by hand"
        )
    return reason, f"is UDP port {port} open on the relay, and in the cloud's firewall in front of it?"


class FilterModule:
    def filters(self):
        return {"reachability_rows": reachability_rows}
