# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging the path to a peer from what ping and WireGuard say."""

from __future__ import annotations

import re

from .wireguard import REJECT_AFTER, RunningInterface, RunningPeer


def parse_ping(text: str) -> float | None:
    """The mean round trip in milliseconds, or nothing when no answer came."""
    # "rtt min/avg/max/mdev = 0.5/0.6/0.7/0.1 ms", or "round-trip ..." from BusyBox
    found = re.search(r"^(?:rtt|round-trip) [a-z/]+ = [0-9.]+/([0-9]+(?:\.[0-9]+)?)/", text, re.MULTILINE)
    return float(found[1]) if found else None


def find_peer(running: RunningInterface, addresses: list) -> RunningPeer | None:
    """The peer that the first overlay address leads to."""
    wanted = {f"{address}/{128 if ':' in address else 32}" for address in addresses}
    return next((peer for peer in running.peers.values() if wanted & peer.allowed_ips), None)


def judge(target: dict, interface: str, running: RunningInterface, relay_addresses: list, now: float) -> dict:
    """What is known of the path to a target, whose addresses carry their round trips (rtt_ms)."""
    peer = find_peer(running, [entry["address"] for entry in target["addresses"]])
    relay = _relay_of(peer, running, relay_addresses)
    silent = [entry["address"] for entry in target["addresses"] if entry["rtt_ms"] is None]
    answered = [entry["rtt_ms"] for entry in target["addresses"] if entry["rtt_ms"] is not None]
    age = int(max(0, now - peer.latest_handshake)) if peer and peer.latest_handshake else None
    reason, cure = _fault(target["name"], interface, peer, relay, silent, age)
    path = "none"
    if answered:
        path = "relay" if relay and peer.endpoint == relay.endpoint else "direct"
    return {
        "name": target["name"],
        "ok": not reason,
        "path": path,
        "endpoint": peer.endpoint or None if peer else None,
        "rtt_ms": min(answered, default=None),
        "handshake_age_seconds": age,
        "addresses": target["addresses"],
        "reason": reason,
        "cure": cure,
    }


def _relay_of(peer, running: RunningInterface, relay_addresses: list) -> RunningPeer | None:
    """The relay by which the peer is reached, or else the first one."""
    relays = [relay for relay in (find_peer(running, [address]) for address in relay_addresses) if relay]
    return next((relay for relay in relays if peer and relay.endpoint == peer.endpoint), relays[0] if relays else None)


def _fault(name: str, interface: str, peer, relay, silent: list, age) -> tuple[str, str]:
    if not silent:
        return "", ""
    if peer is None:
        return f"{interface} has no peer with its address {silent[0]}", "run homelab.peer_relay.site on this device"
    if peer is not relay and relay and not relay.latest_handshake:
        return (
            "this device has no session with the relay",
            f"see to the path from this device to {relay.endpoint} first",
        )
    if age is None and peer is relay:
        return "no handshake was ever answered", f"is the relay running, and UDP open on the way to {peer.endpoint}?"
    if age is None:
        return (
            "no handshake was ever answered",
            f"is {name} on, and does it know this device? Run the site playbook on it",
        )
    if age > REJECT_AFTER:
        return f"the last handshake was {age} s ago", f"is {name} still on and connected?"
    return f"{', '.join(silent)} gives no echo", f"does a firewall on {name} drop ping on its overlay interface?"
