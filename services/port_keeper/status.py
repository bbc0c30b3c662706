# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document, for `peer-relay-ports status`, the relay service and Ansible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from port_mapping.verdict import no_address, verdict

from port_keeper.keeper import Keeper
from port_keeper.lease import Lease


def document(keepers: Sequence[Keeper], seen: str, problems: Iterable[str], now: float, wall: float) -> dict[str, Any]:
    """Return the status; `seen` is this host's address as others see it, `wall` the Unix time of `now`."""
    main = next((keeper for keeper in keepers if keeper.leases), keepers[0])
    router = main.answering(now)
    judged = no_address(router[0]) if main.addressless and router else verdict(main.address, seen)
    return {
        "updated": round(wall, 3),
        "router": {"address": router[0], "method": router[1]} if router else None,
        "router_model": main.model,
        "router_oddities": main.oddities(),
        "answers_refused": sum(keeper.refused for keeper in keepers),
        "external_address": main.address,
        "seen_address": seen,
        "address_since": None if main.address_since is None else round(wall - (now - main.address_since), 3),
        "address_changes": main.address_changes,
        "nat": judged.kind,
        "explanation": judged.explanation,
        "mappings": [_mapping(keeper, lease, now, wall) for keeper in keepers for lease in keeper.leases],
        "problems": [*problems, *(problem for keeper in keepers for problem in keeper.problems(now))],
    }


def _mapping(keeper: Keeper, lease: Lease, now: float, wall: float) -> dict[str, Any]:
    wanted, granted = lease.mapping.wanted, lease.granted if lease.live(now) else None
    return {
        "name": lease.mapping.name,
        "protocol": wanted.protocol,
        "family": wanted.family,
        "internal_port": wanted.internal_port,
        "external_port": wanted.external_port,
        "external_address": (granted.external_address or keeper.address) if granted else "",
        "state": lease.state(now),
        "lease_seconds": granted.lease if granted else 0,
        "expires": round(wall + lease.expires - now, 3) if granted and lease.expires is not None else None,
        "renewals": lease.renewals,
        "restores": lease.restores,
        "problem": lease.problem,
    }


def healthy(status: dict[str, Any]) -> bool:
    """Whether everything is open, as far as the router says."""
    return not status["problems"] and all(mapping["state"] == "mapped" for mapping in status["mappings"])


def text(status: dict[str, Any], age: float) -> str:
    """Return the document for people."""
    router = status["router"]
    model = f" ({status['router_model']})" if status["router_model"] else ""
    head = f"router {router['address']}{model} by {router['method']}" if router else "no router"
    lines = [
        f"{head}, external address {status['external_address'] or 'unknown'}, {age:.0f} s ago",
        *([status["explanation"]] if status["nat"] not in ("public", "unknown") else []),
        *(f"problem: {problem}" for problem in status["problems"]),
        *(f"the router {oddity}: understood all the same" for oddity in status["router_oddities"]),
    ]
    for mapping in status["mappings"]:
        left = "" if mapping["expires"] is None else f", {mapping['expires'] - status['updated']:.0f} s left"
        lines.append(
            f"{mapping['name']}: {mapping['protocol']} {mapping['external_port']} -> {mapping['internal_port']} "
            f"(IPv{mapping['family']}): {mapping['state']}{left}"
        )
        if mapping["problem"]:
            lines.append(f"  {mapping['problem']}")
    return "\n".join(lines)
