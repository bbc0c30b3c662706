# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document in Prometheus' text form, for the textfile collector of the node exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from peer_common.exposition import COUNTER, GAUGE, Sample, family

from peer_agent.core.refusals import NAMES

_KINDS = ("lan", "direct", "relay", "fallback")


def exposition(status: dict[str, Any]) -> str:
    """Return the metrics of a status document."""
    return "".join(_lines(status))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    interface = {"interface": status["interface"]}
    yield from family(
        "peer_agent_updated_seconds", GAUGE, "Unix time of these figures", [(interface, status["updated"])]
    )
    yield from family("peer_agent_problems", GAUGE, "Number of problems", [(interface, len(status["problems"]))])
    relays = [(interface | {"relay": relay["name"]}, relay) for relay in status["relays"]]
    whole = [(interface | {"reason": reason}, 1)] if (reason := status.get("why_not")) else []
    yield from family("peer_agent_why_not", GAUGE, "The reason that the agent chooses no paths", whole)
    yield from family(
        "peer_agent_relay_up", GAUGE, "1 when the relay answers", [(k, int(r["alive"])) for k, r in relays]
    )
    refused = [(interface | {"reason": name}, status["refused"].get(name, 0)) for name in NAMES]
    yield from family("peer_agent_refused_total", COUNTER, "What others sent and the agent did not take", refused)
    fallback = [(labels, int(relay["fallback"])) for labels, relay in relays]
    yield from family("peer_agent_relay_fallback", GAUGE, "1 when the relay is reached over TLS", fallback)
    yield from family("peer_agent_relay_rtt_seconds", GAUGE, "Round trip to the relay", _trips(relays))
    peers = [(interface | {"peer": peer["name"]}, peer) for peer in status["peers"]]
    paths = [(labels | {"path": kind}, int(peer["path"] == kind)) for labels, peer in peers for kind in _KINDS]
    yield from family("peer_agent_peer_path", GAUGE, "1 for the path in use", paths)
    reasons = [(labels | {"reason": peer["why_not"]}, 1) for labels, peer in peers if peer["why_not"]]
    yield from family("peer_agent_peer_why_not", GAUGE, "The reason that there is no better path", reasons)
    yield from family(
        "peer_agent_peer_rtt_seconds", GAUGE, "Round trip of the path, or as far as the relay", _trips(peers)
    )
    ages = [(k, p["handshake_age_seconds"]) for k, p in peers if p["handshake_age_seconds"] is not None]
    yield from family("peer_agent_peer_handshake_age_seconds", GAUGE, "Age of the last handshake", ages)
    changes = [(labels, peer["changes"]) for labels, peer in peers]
    yield from family("peer_agent_peer_path_changes_total", COUNTER, "How often the path has changed", changes)
    since = [(labels, peer["since"]) for labels, peer in peers]
    yield from family("peer_agent_peer_path_since_seconds", GAUGE, "Unix time since which the path is in use", since)


def _trips(entries: Iterable[tuple[dict[str, str], dict[str, Any]]]) -> list[Sample]:
    return [(labels, entry["rtt_ms"] / 1000) for labels, entry in entries if entry["rtt_ms"] is not None]
