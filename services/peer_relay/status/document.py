# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay tells about itself: the status document that doctor, metrics and Ansible read.

It is built between the packets, in short steps; each device and each pair is told as it is when its turn comes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from peer_relay import addresses
from peer_relay.core.device import NEVER, Device, Pair
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.core.switchboard import Switchboard
from peer_relay.slices import Steps
from peer_relay.wireguard.session import REJECT_AFTER

MAX_PAIRS = 20_000  # told one by one: 8 MB of JSON, all pairs of 140 devices
_STEP = 32  # pairs between two chances to do something else
_PAIR_UP = REJECT_AFTER  # seconds for which a session lives after its handshake


def encode_key(key: bytes) -> str:
    """Return a key as `wg` writes it."""
    return base64.b64encode(key).decode()


def _age(now: float, then: float) -> float | None:
    return None if then == NEVER else round(now - then, 3)


def device_state(device: Device, now: float) -> str:
    """Return bound (has proven its address lately), handshaking (tries to), or absent."""
    if device.live(now):
        return "bound"
    return "handshaking" if now - device.last_attempt < REJECT_AFTER else "absent"


def pair_state(pair: Pair, now: float) -> str:
    """Return up (a session exists), waiting (the peer is not bound), or silent (the peer does not answer).

    The session may be the one that the peer initiated: data or an answer within its lifetime is the proof.
    """
    if max(pair.last_packet, pair.last_response) > now - _PAIR_UP:
        return "up"
    return "silent" if pair.peer.live(now) else "waiting"


def _device(device: Device, now: float) -> dict[str, Any]:
    settings = device.settings
    return {
        "name": device.name,
        "public_key": encode_key(device.public_key),
        "addresses": [str(address) for address in settings.addresses],
        "groups": sorted(settings.groups),
        "state": device_state(device, now),
        "endpoint": addresses.text(device.binding.address) if device.binding else None,
        "last_seen_seconds": _age(now, device.last_seen),
        "handshake_age_seconds": _age(now, device.last_handshake),
        "attempt_age_seconds": _age(now, device.last_attempt),
        "attempt_endpoint": addresses.text(device.attempt_source) if device.attempt_source else None,
        "rx_packets": device.rx_packets,
        "rx_bytes": device.rx_bytes,
        "tx_packets": device.tx_packets,
        "tx_bytes": device.tx_bytes,
        "rate_limit_mbit": settings.rate_limit / 125_000,
        "drops": dict(device.drops),
        "refused_peer": _refused_peer(device),
        "key_used_at": [addresses.text(place) for place in device.twins.found(now) or ()],
    }


def expiring(devices: Iterable[DeviceSettings], wall: float) -> list[dict[str, Any]]:
    """Return which devices have an end, when, and in how many seconds: below 0 for those that have expired."""
    return [
        {
            "name": device.name,
            "expires": datetime.fromtimestamp(device.expires, timezone.utc).isoformat(),
            "left_seconds": round(device.expires - wall, 3),
        }
        for device in devices
        if device.expires != math.inf
    ]


def _refused_peer(device: Device) -> str | None:
    """Name whom the device last tried to reach without being allowed to: a device's name or "unknown"."""
    if device.refused is None:
        return None
    (peer,) = device.refused
    return peer.name if peer else "unknown"


def _pair(device: Device, pair: Pair, why_userspace: str, now: float) -> dict[str, Any]:
    return {
        "from": device.name,
        "to": pair.peer.name,
        "state": pair_state(pair, now),
        "initiations": pair.initiations,
        "responses": pair.responses,
        "packets": pair.packets,
        "bytes": pair.bytes,
        "kernel_packets": pair.kernel_packets,
        "plane": "userspace" if why_userspace else "kernel",
        "why_userspace": why_userspace or None,
        "last_initiation_seconds": _age(now, pair.last_initiation),
        "last_response_seconds": _age(now, pair.last_response),
        "last_packet_seconds": _age(now, pair.last_packet),
    }


def traffic(
    switchboard: Switchboard, now: float, why_userspace: Callable[[Device, Device], str]
) -> Steps[dict[str, Any]]:
    """Return the part of the status that the switchboard knows: devices, pairs, drops, strangers.

    `why_userspace` tells why the kernel does not forward what a device sends to another, "" if it does. Of more than
    MAX_PAIRS pairs, those are told that somebody has asked for in vain; `pairs_total` is how many there are.
    """
    devices = sorted(switchboard.devices.values(), key=lambda device: device.name)
    told = []
    for device in devices:
        told.append(_device(device, now))
        yield
    total, pairs = yield from _chosen_pairs(devices)
    told_pairs = []
    for number, (device, pair) in enumerate(pairs):
        told_pairs.append(_pair(device, pair, why_userspace(device, pair.peer), now))
        if number % _STEP == 0:
            yield
    told_pairs.sort(key=lambda pair: (pair["from"], pair["to"]))
    return {
        "public_key": encode_key(switchboard.own.identity.public),
        "addresses": sorted(str(address) for address in switchboard.own.addresses),
        "devices": told,
        "pairs": told_pairs,
        "pairs_total": total,
        "drops": {reason: count._asdict() for reason, count in sorted(switchboard.drops.items())},
        "unknown_devices": [
            {"public_key": encode_key(key), "last_seen_seconds": _age(now, seen)}
            for key, seen in switchboard.own.strangers.items()
        ],
        "probes": [
            {"source": addresses.text(probe.source), "index": probe.sender_index, "age_seconds": _age(now, probe.time)}
            for probe in switchboard.own.probes.latest
        ],
        "probes_answered": switchboard.own.probes.answered,
    }


def _chosen_pairs(devices: list[Device]) -> Steps[tuple[int, list[tuple[Device, Pair]]]]:
    """Return how many pairs there are, and those to tell."""
    total = 0
    asked: list[tuple[Device, Pair]] = []
    others: list[tuple[Device, Pair]] = []
    for device in devices:
        pairs = sorted(device.pairs.values(), key=lambda pair: pair.peer.name)
        total += len(pairs)
        for pair in pairs:
            chosen = asked if pair.last_initiation > pair.last_response else others
            if len(chosen) < MAX_PAIRS:
                chosen.append((device, pair))
        yield
    return total, (asked + others)[:MAX_PAIRS]
