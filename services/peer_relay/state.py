# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a restart: bindings, routes, timestamps and the indexes of sessions, no keys (design rule 7).

A state file that cannot be used is moved aside and the relay starts without it: it costs handshakes, not service.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer_common import files

from peer_relay import addresses
from peer_relay.core.device import Binding
from peer_relay.core.switchboard import Switchboard
from peer_relay.slices import Steps, finish
from peer_relay.wireguard.noise import TIMESTAMP_SIZE
from peer_relay.wireguard.session import REJECT_AFTER

FORMAT = 1
_MAX_SIZE = 1 << 28  # bytes of a state file: 5,000 devices with 500 routes each
_MAX_SESSIONS = 8  # of the relay with one device; it has at most three, and three of before
_TAI64_END = b"\x80".ljust(TIMESTAMP_SIZE, b"\0")  # labels from here on are reserved; the relay's own never get there


class StateError(Exception):
    """The state file does not hold what this version writes."""


def export(switchboard: Switchboard, now: float, wall: float) -> dict[str, Any]:
    """Return at once what `export_steps` does."""
    return finish(export_steps(switchboard, now, wall))


def export_steps(switchboard: Switchboard, now: float, wall: float) -> Steps[dict[str, Any]]:
    """Return the state as JSON values. Ages are relative to `wall`, the Unix time in seconds."""
    devices = {}
    for key, device in list(switchboard.devices.items()):
        devices[key.hex()] = {
            "binding": [part.hex() for part in device.binding] if device.binding else None,
            "timestamp": device.timestamp.hex(),
            "sessions": [
                [index, round(until - now, 1)]
                for index, until in (
                    *device.former.items(),
                    *((session.local_index, session.created + REJECT_AFTER) for session in device.sessions()),
                )
                if until > now
            ],
            "routes": [
                [index, route.pair.peer.public_key.hex(), round(route.expires - now, 1)]
                for index, route in device.routes.items()
                if route.expires > now  # those that have ended stay until they are swept
            ],
        }
        yield
    # Taken last: nothing that was sent before the file is written is above it.
    return {"format": FORMAT, "wall": wall, "timestamp": switchboard.own.last_timestamp.hex(), "devices": devices}


def restore(switchboard: Switchboard, state: Any, now: float) -> None:
    """Give the switchboard back what `export` returned; raise StateError, with nothing changed, when it cannot be.

    Routes get the time that they had left: how long the relay was away is not known for sure, since the clock may have
    jumped meanwhile, and a route that outlives its session does no harm.
    """
    try:
        if state["format"] != FORMAT:
            raise StateError(f"format {state['format']!r:.50} instead of {FORMAT}")
        if not math.isfinite(state["wall"]):
            raise StateError(f"wall {state['wall']!r:.50}")
        last = _timestamp(state["timestamp"])
        if last >= _TAI64_END:
            raise StateError(f"timestamp {state['timestamp']}")
        entries = [_entry(key, value) for key, value in state["devices"].items()]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise StateError(f"{type(error).__name__}: {error!s:.200}") from error
    switchboard.own.last_timestamp = max(last, switchboard.own.last_timestamp)
    known = switchboard.devices
    for key, binding, timestamp, sessions, routes in entries:
        device = known.get(key)
        if device is None:
            continue
        device.timestamp = timestamp
        if binding:
            switchboard.restore(device, binding)
        for index, left in sessions:
            switchboard.own.remember(index, device, now + left)
        for index, peer, left in routes:
            if peer in known:
                switchboard.restore_route(device, index, known[peer], left, now)


def _timestamp(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != TIMESTAMP_SIZE:
        raise ValueError(f"timestamp of {len(value)} bytes")
    return value


def _entry(
    key: str, value: dict[str, Any]
) -> tuple[bytes, Binding | None, bytes, list[tuple[int, float]], list[tuple[int, bytes, float]]]:
    binding = value["binding"]
    if binding is not None:
        address, local = (bytes.fromhex(part) for part in binding)
        if not addresses.is_unicast(address) or len(local) not in (0, 4, 16):
            raise ValueError(f"address {address.hex():.60}, local address of {len(local)} bytes")
        binding = Binding(address, local)
    sessions = [(_index(index), _left(left, REJECT_AFTER)) for index, left in value.get("sessions", ())]
    if len(sessions) > _MAX_SESSIONS:
        raise ValueError(f"{len(sessions)} sessions of one device")
    routes = [(_index(index), bytes.fromhex(peer), _left(left, 3600)) for index, peer, left in value["routes"]]
    return bytes.fromhex(key), binding, _timestamp(value["timestamp"]), sessions, routes


def _index(value: Any) -> int:
    if not 0 <= int(value) < 2**32:
        raise ValueError(f"index {value!r:.50}")
    return int(value)


def _left(value: Any, limit: float) -> float:
    if not 0 <= float(value) <= limit:
        raise ValueError(f"{value!r:.50} s left")
    return float(value)


def read(file: Path) -> tuple[Any, str | None]:
    """Return (state or None, a sentence when the file was there but of no use, and where it is kept)."""
    try:
        return json.loads(files.read(file, _MAX_SIZE)), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{file}: {error.strerror}: going on without the state"
    except (ValueError, RecursionError) as error:
        return None, set_aside(file, str(error))


def broken_name(file: Path) -> Path:
    """Return where a broken state file is kept."""
    return file.with_name(file.name + ".broken")


def set_aside(file: Path, reason: str) -> str:
    """Keep a broken state file for inspection; return the sentence that says so."""
    aside = broken_name(file)
    try:
        file.replace(aside)
        kept = f"kept as {aside}"
    except OSError as error:
        kept = f"could not be kept aside: {error.strerror}"
    return f"{file}: not usable ({reason}): going on without it, {kept}"


def write(file: Path, state: dict[str, Any]) -> None:
    """Replace the state file in one step; a crash leaves the old one or the new one."""
    files.replace(file, _pieces(state), 0o600)


def _pieces(state: dict[str, Any], depth: int = 1) -> Iterator[str]:
    """Return JSON device by device: the encoder lets no other thread run before it is done."""
    before = "{"
    for key, value in state.items():
        yield f"{before}{json.dumps(key)}:"
        if depth and isinstance(value, dict):
            yield from _pieces(value, depth - 1)
        else:
            yield json.dumps(value, separators=(",", ":"))
        before = ","
    yield "}" if state else "{}"
