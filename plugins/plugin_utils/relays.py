# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relays of the inventory, in its order: their names, overlay addresses and endpoints, and what they know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import read_back

from .endpoint import endpoint_of
from .names import OverlayError, parse_fingerprint, parse_name, parse_url
from .overlay import default_addresses, host_route, parse_address, variables_of

ONLY = "relay"  # the name of a relay that is the only one


@dataclass(frozen=True)
class Relay:
    """A host of the group relays."""

    host: str
    name: str
    present: bool
    addresses: list  # its own, in the overlay
    set_up: bool  # in this run
    public_key: str  # empty where nobody knows it, such as in check mode while it has none
    endpoint: str
    inner_endpoint: str
    registered: dict  # public keys that it knew before this run, by device
    fallback_url: str
    fallback_fingerprint: str


def collect_relays(hosts, hostvars, networks, peers=(), written="", agent="") -> list[Relay]:
    """All relays, those that are to go included: their place in the inventory keeps the others' addresses.

    written is a device's wg-quick file, and agent its agent's settings, for what the device knows of a relay that this
    run has not set up.
    """
    hosts = [str(host) for host in hosts]
    known = read_back(written)
    relays = [
        _relay(host, place, hosts, variables_of(host, hostvars), networks, peers, known, agent)
        for place, host in enumerate(hosts)
    ]
    present = [relay for relay in relays if relay.present]
    _refuse_doubles(present, "name", lambda relay: [relay.name])
    _refuse_doubles(present, "addresses", lambda relay: relay.addresses)
    return relays


def as_list(relays) -> list[dict]:
    """Relays as a caller gives them: a single one may come by itself."""
    relays = [relays] if isinstance(relays, Mapping) else relays
    return [{"present": True, "public_key": "", "inner_endpoint": "", "registered": {}, **relay} for relay in relays]


def all_addresses(relays: list[dict]) -> list[str]:
    return [address for relay in relays for address in relay["addresses"]]


def _relay(host, place, hosts, variables, networks, peers, known, agent) -> Relay:
    addresses = _addresses(host, variables.get("relay_addresses")) or default_addresses(networks, place)
    public_key = variables.get("relay_public_key")
    set_up = public_key is not None
    # A relay that this run has not set up has told nobody anything, nor has the router in front of it.
    endpoint = endpoint_of(variables if set_up else {**variables, "port_forward_result": None})
    public, inner = endpoint.text, endpoint.inner_text
    if not set_up:
        public_key = known.owner(map(host_route, addresses))
        # Where it is reached, a run may have had from the router, which this one did not ask.
        public, inner = known.endpoints.get(public_key, (public, inner))
    url, fingerprint = variables.get("relay_fallback_url"), variables.get("relay_fallback_fingerprint")
    if not set_up or url is None:
        url, fingerprint = _known_fallback(agent, public_key) or (url, fingerprint)
    return Relay(
        host=host,
        name=parse_name(variables.get("relay_name") or _default_name(host, hosts, peers), f"{host}: relay_name"),
        present=variables.get("relay_state", "present") != "absent",
        addresses=addresses,
        set_up=set_up,
        public_key=str(public_key),
        endpoint=public,
        inner_endpoint=inner,
        registered=dict(variables.get("relay_registered_keys") or {}),
        fallback_url=parse_url(url, f"{host}: relay_fallback_url"),
        fallback_fingerprint=parse_fingerprint(fingerprint, f"{host}: relay_fallback_fingerprint"),
    )


def _known_fallback(agent, public_key) -> tuple | None:
    """What a device's agent has been told of a relay; its settings write each value as a JSON string in a line."""
    for table in agent.split("[[relay]]")[1:]:
        values = dict(re.findall(r'(?m)^(\w+) = (".*")$', table.partition("[[")[0]))
        if public_key and values.get("public_key") == json.dumps(public_key):
            return tuple(json.loads(values.get(f"fallback_{what}", '""')) for what in ("url", "fingerprint"))
    return None


def _default_name(host, hosts, peers) -> str:
    if len(hosts) == 1 and ONLY not in peers:
        return ONLY
    # A host may be a relay and a device.
    return f"{host}-{ONLY}" if host in peers else host


def _addresses(host, explicit) -> list[str]:
    if isinstance(explicit, str):
        raise OverlayError(f"{host}: relay_addresses is {explicit!r}: give a list, such as [10.77.0.2]")
    return [str(parse_address(str(address), f"{host}: relay_addresses")) for address in explicit or []]


def _refuse_doubles(relays, setting: str, values_of) -> None:
    owners: dict = {}
    for relay in relays:
        for value in values_of(relay):
            if value in owners:
                raise OverlayError(
                    f"{owners[value]} and {relay.host} both have {value}: set relay_{setting} of one of them"
                )
            owners[value] = relay.host
