# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document: written by the service for everybody who wants to read it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from peer_common import files

from peer_agent.attached import Attached
from peer_agent.core.paths import RelayView
from peer_agent.core.reasons import NO_PATH, REASONS
from peer_agent.path_driver import PairEntry
from peer_agent.settings import Settings
from peer_agent.wireguard.interface import Interface

STALE = 60.0  # seconds after which the service is taken for gone
_MAX_SIZE = 8 << 20  # bytes


def document(
    config: Settings,
    attached: Attached | None,
    why_not: str,
    problems: Iterable[str],
    refused: Mapping[str, int],
    now: float,
) -> dict[str, Any]:
    """Return the status at the time `now` of the service's clock; why_not: the reason that no pair is looked after."""
    wall = time.time()
    return {
        "updated": round(wall, 3),
        "interface": config.interface,
        "settings_sha256": config.sha256,
        "problems": list(problems),
        "why_not": why_not,
        "why_not_text": _sentence(why_not),
        "refused": dict(refused),
        "relays": [_relay(view) for view in attached.relays.views()] if attached else [],
        "peers": [_peer(entry, attached.interface, now, wall) for entry in attached.paths] if attached else [],
    }


def _sentence(reason: str) -> str:
    return str(REASONS[reason]) if reason else ""


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _relay(view: RelayView) -> dict[str, Any]:
    return {
        "name": view.name,
        "alive": view.alive,
        "fallback": view.fallback,
        "endpoint": str(view.endpoint),
        "rtt_ms": _milliseconds(view.rtt),
        "seen": str(view.seen) if view.seen else None,
    }


def _peer(entry: PairEntry, interface: Interface, now: float, wall: float) -> dict[str, Any]:
    path = entry.pair.path
    peer = interface.peers.get(entry.peer.public_key)
    return {
        "name": entry.peer.name,
        "addresses": [str(address) for address in entry.peer.addresses],
        "path": path.kind,
        "via": path.via,
        "endpoint": str(path.endpoint) if path.endpoint else None,
        "rtt_ms": _milliseconds(path.rtt),
        "since": round(wall - (now - path.since), 3),
        "why_not": path.why_not,
        "why_not_text": _sentence(path.why_not),
        "changes": path.changes,
        "agent": path.agent,
        "handshake_age_seconds": max(0, int(wall) - peer.handshake) if peer and peer.handshake else None,
        "rx_bytes": peer.rx if peer else 0,
        "tx_bytes": peer.tx if peer else 0,
    }


def load(file: Path) -> Any:
    """Return what the service has written; raise OSError or ValueError."""
    return json.loads(files.read(file, _MAX_SIZE))


def healthy(status: dict[str, Any]) -> bool:
    """Whether nothing is wrong, and every device has a path that may work."""
    return not status["problems"] and not any(peer["why_not"] in NO_PATH for peer in status["peers"])


class Writer:
    """Writes the document to its file: at once when something has changed, and now and then in any case."""

    def __init__(self, file: Path, interval: float):
        self._file = file
        self._interval = interval
        self._due = float("-inf")
        self._written: object = None
        self.problem = ""

    def write(self, now: float, make: Callable[[], dict[str, Any]], stamp: object) -> None:
        """Write what `make` returns, if `stamp` is another one than last time, or it is time."""
        if now < self._due and stamp == self._written:
            return
        self._due, self._written = now + self._interval, stamp
        try:
            self._file.parent.mkdir(mode=0o755, exist_ok=True)
            files.replace(self._file, [json.dumps(make()), "\n"], 0o644)  # no secrets in it
        except OSError as error:
            self.problem = f"{self._file}: {error.strerror}: make its folder writable"
        else:
            self.problem = ""

    def remove(self) -> None:
        """The service ends."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def text(status: dict[str, Any]) -> str:
    """Return the document for people."""
    lines = [f"{status['interface']}, {time.time() - status['updated']:.0f} s ago"]
    lines += [f"problem: {problem}" for problem in status["problems"]]
    for relay in status["relays"]:
        state = "over the fallback" if relay["fallback"] else "answers" if relay["alive"] else "silent"
        lines.append(f"relay {relay['name']}: {state}{_trip(relay)}, {relay['endpoint']}")
    for peer in status["peers"]:
        via = f" {peer['via']}" if peer["via"] else ""
        why = f" ({peer['why_not']})" if peer["why_not"] else ""
        age = peer["handshake_age_seconds"]
        session = "no session" if age is None else f"handshake {age} s ago"
        lines.append(f"{peer['name']}: {peer['path']}{via}{why}{_trip(peer)}, {peer['endpoint']}, {session}")
    refused = ", ".join(f"{name} {count}" for name, count in sorted(status["refused"].items()))
    lines += [f"refused: {refused}"] if refused else []
    names = sorted({each["why_not"] for each in (status, *status["peers"]) if each.get("why_not")})
    lines += [f"{name}: {REASONS[name]}" for name in names]
    # Whoever took over the agent wrote this, and root reads it on a terminal.
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _trip(entry: dict[str, Any]) -> str:
    return "" if entry["rtt_ms"] is None else f", {entry['rtt_ms']:g} ms"
