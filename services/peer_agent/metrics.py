# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document in Prometheus' text form, for the textfile collector of the node exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from peer_agent.core.refusals import NAMES

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_KINDS = ("lan", "direct", "relay", "fallback")


def exposition(status: dict[str, Any]) -> str:
    """Return the metrics of a status document."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    interface = {"interface": status["interface"]}
    yield from _family("updated_seconds", "gauge", "Unix time of these figures", [(interface, status["updated"])])
    yield from _family("problems", "gauge", "Number of problems", [(interface, len(status["problems"]))])
    relays = [(interface | {"relay": relay["name"]}, relay) for relay in status["relays"]]
    whole = [(interface | {"reason": reason}, 1)] if (reason := status.get("why_not")) else []
    yield from _family("why_not", "gauge", "The reason that the agent chooses no paths", whole)
    yield from _family("relay_up", "gauge", "1 when the relay answers", [(k, int(r["alive"])) for k, r in relays])
    refused = [(interface | {"reason": name}, status["refused"].get(name, 0)) for name in NAMES]
    yield from _family("refused_total", "counter", "What others sent and the agent did not take", refused)
    fallback = [(labels, int(relay["fallback"])) for labels, relay in relays]
    yield from _family("relay_fallback", "gauge", "1 when the relay is reached over TLS", fallback)
    yield from _family("relay_rtt_seconds", "gauge", "Round trip to the relay", _trips(relays))
    peers = [(interface | {"peer": peer["name"]}, peer) for peer in status["peers"]]
    paths = [(labels | {"path": kind}, int(peer["path"] == kind)) for labels, peer in peers for kind in _KINDS]
    yield from _family("peer_path", "gauge", "1 for the path in use", paths)
    reasons = [(labels | {"reason": peer["why_not"]}, 1) for labels, peer in peers if peer["why_not"]]
    yield from _family("peer_why_not", "gauge", "The reason that there is no better path", reasons)
    yield from _family("peer_rtt_seconds", "gauge", "Round trip of the path, or as far as the relay", _trips(peers))
    ages = [(k, p["handshake_age_seconds"]) for k, p in peers if p["handshake_age_seconds"] is not None]
    yield from _family("peer_handshake_age_seconds", "gauge", "Age of the last handshake", ages)
    changes = [(labels, peer["changes"]) for labels, peer in peers]
    yield from _family("peer_path_changes_total", "counter", "How often the path has changed", changes)
    since = [(labels, peer["since"]) for labels, peer in peers]
    yield from _family("peer_path_since_seconds", "gauge", "Unix time since which the path is in use", since)


def _trips(entries: Iterable[tuple[dict[str, str], dict[str, Any]]]) -> list[tuple[dict[str, str], float]]:
    return [(labels, entry["rtt_ms"] / 1000) for labels, entry in entries if entry["rtt_ms"] is not None]


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> Iterator[str]:
    yield f"# HELP peer_agent_{name} {text}"
    yield f"# TYPE peer_agent_{name} {kind}"
    for labels, value in samples:
        inner = ",".join(f'{key}="{text.translate(_ESCAPED)}"' for key, text in labels.items())
        yield f"peer_agent_{name}{{{inner}}} {value}"
