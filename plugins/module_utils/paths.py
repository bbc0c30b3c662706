# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging the path to a peer from what ping, WireGuard and this device's agent say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import (
    MAX_TEXT_LENGTH,
    AgentPath,
    AgentStatus,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import (
    REJECT_AFTER,
    RunningInterface,
    RunningPeer,
)

# Why a path is not a better one, as far as no agent could tell. The agent has further names, see its status.
REASONS = {
    "no_agent": "no agent runs on this device, so it stays on the first relay: see that peer_agent is not off, and "
    "that the service peer-agent@{interface} runs",
    "agent_gone": "the agent of this device has stopped writing its status: restart peer-agent@{interface} and look at "
    "its journal",
    "not_settled": "the agent does not look after this device: run homelab.peer_relay.site on this one again",
}


def parse_ping(text: str) -> float | None:
    """The mean round trip in milliseconds, or nothing when no answer came."""
    # "rtt min/avg/max/mdev = 0.5/0.6/0.7/0.1 ms", or "round-trip ..." from BusyBox
    found = re.search(r"^(?:rtt|round-trip) [a-z/]+ = [0-9.]+/([0-9]+(?:\.[0-9]+)?)/", text, re.MULTILINE)
    return float(found[1]) if found else None


def parse_guard(text: str) -> dict:
    """What systemd says of the unit peer-guard."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if said.get("ActiveState") != "active":
        return {"state": "stopped", "text": ""}
    return {"state": "running", "text": "".join(filter(str.isprintable, said.get("StatusText", "")))[:MAX_TEXT_LENGTH]}


def find_peer(running: RunningInterface, addresses: list) -> RunningPeer | None:
    """The peer that the first overlay address leads to."""
    wanted = {f"{address}/{128 if ':' in address else 32}" for address in addresses}
    return next((peer for peer in running.peers.values() if wanted & peer.allowed_ips), None)


@dataclass(frozen=True)
class Device:
    """What judges paths: this device."""

    interface: str
    running: RunningInterface
    relays: dict  # names of the relays by their overlay addresses
    agent: AgentStatus | None  # None when no agent runs
    no_agent: str  # the name of the reason that none runs: no_agent or agent_gone


def judge(target: dict, device: Device, now: float) -> dict:
    """What is known of the path to a target, whose addresses carry their round trips (rtt_ms)."""
    addresses = [entry["address"] for entry in target["addresses"]]
    peer = find_peer(device.running, addresses)
    relay_name, relay = _relay_of(peer, device)
    silent = [entry["address"] for entry in target["addresses"] if entry["rtt_ms"] is None]
    answered = [entry["rtt_ms"] for entry in target["addresses"] if entry["rtt_ms"] is not None]
    age = int(max(0, now - peer.latest_handshake)) if peer and peer.latest_handshake else None
    reason, fix = _fault(target["name"], device.interface, peer, relay, silent, age)
    by_relay = peer is not None and relay is not None and peer.endpoint == relay.endpoint
    if any(address in device.relays for address in addresses):
        told = _to_relay(target["name"], device)
    else:
        told = _told(addresses, device) or _seen(relay_name if by_relay else "", device)
    return {
        "name": target["name"],
        "ok": not reason,
        "path": told.path if answered else "none",
        "via": told.via or None if answered else None,
        "endpoint": peer.endpoint or None if peer else None,
        "rtt_ms": min(answered, default=None),
        "handshake_age_seconds": age,
        "path_age_seconds": int(max(0, now - told.since)) if told.since else None,
        "why_not": told.why_not,
        "why_not_text": told.why_not_text,
        "addresses": target["addresses"],
        "reason": reason,
        "cure": fix,
    }


def _told(addresses: list, device: Device) -> AgentPath | None:
    """What the agent says of a device; nothing when it does not look after it."""
    paths = device.agent.paths if device.agent else {}
    return next((paths[address] for address in addresses if address in paths), None)


def _to_relay(name: str, device: Device) -> AgentPath:
    over_tls = device.agent is not None and name in device.agent.fallbacks
    return AgentPath("fallback" if over_tls else "relay", "", 0, "", "")


def _seen(relay: str, device: Device) -> AgentPath:
    """What WireGuard's endpoint tells by itself."""
    if not relay:
        return AgentPath("direct", "", 0, "", "")
    agent = device.agent
    if agent and agent.why_not:
        return AgentPath("relay", relay, 0, agent.why_not, agent.why_not_text)
    reason = "not_settled" if agent else device.no_agent
    return AgentPath("relay", relay, 0, reason, REASONS[reason].format(interface=device.interface))


def _relay_of(peer: RunningPeer | None, device: Device) -> tuple[str, RunningPeer | None]:
    """The relay by which the peer is reached, or else the first one, and its name."""
    found = [(name, find_peer(device.running, [address])) for address, name in device.relays.items()]
    relays = [(name, relay) for name, relay in found if relay]
    by = (entry for entry in relays if peer and entry[1].endpoint == peer.endpoint)
    return next(by, relays[0] if relays else ("", None))


def _fault(
    name: str, interface: str, peer: RunningPeer | None, relay: RunningPeer | None, silent: list, age: int | None
) -> tuple[str, str]:
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
