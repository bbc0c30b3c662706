# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pure core wants done: it puts these into an outbox, and a driver takes them out and does them."""

from __future__ import annotations

import logging
from typing import NamedTuple

from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import Message
from peer_agent.wire.probes import Key, Probe


class SendProbe(NamedTuple):
    """Send a probe outside the tunnel, from WireGuard's port, sealed with the pair's key."""

    target: Endpoint
    probe: Probe
    heard: bool  # whether something authentic came from there just now


class SetKey(NamedTuple):
    """Seal and unseal the probes of this device with this key from now on: `Keyring.put`."""

    key: Key


class SendMessage(NamedTuple):
    """Send a control message to the other device, in the tunnel."""

    message: Message


class SetEndpoint(NamedTuple):
    """Set the endpoint of the other device's [Peer].

    With `hold`, again every 2 ms for so many seconds, or until the next SetEndpoint or Rekey: WireGuard answers each
    packet the way it came, so two busy sides would send each other back to the way of before, over and over.
    """

    endpoint: Endpoint
    hold: float = 0.0


class Rekey(NamedTuple):
    """Remove the other device's [Peer] and add it again with the same settings: WireGuard makes a new handshake."""

    endpoint: Endpoint


class SuspectRelay(NamedTuple):
    """Ask this relay at once whether it is alive: `RelayLiveness.suspect`."""

    relay: str


class Log(NamedTuple):
    """Something for the journal."""

    text: str
    level: int = logging.INFO


# --- of the relays, for the whole device ------------------------------------------------------------------------------


class AskDirectory(NamedTuple):
    """Send a directory request to the relay, in the tunnel."""

    relay: str
    nonce: bytes


class SetRelayEndpoint(NamedTuple):
    """Set the endpoint of the relay's own [Peer]."""

    relay: str
    endpoint: Endpoint


class OpenFallback(NamedTuple):
    """Open the fallback to this relay, and tell `RelayLiveness.fallback` when it is up and when it ends."""

    relay: str


class CloseFallback(NamedTuple):
    """Close the fallback to this relay."""

    relay: str


PairAction = SendProbe | SetKey | SendMessage | SetEndpoint | Rekey | SuspectRelay | Log
RelayAction = AskDirectory | SetRelayEndpoint | OpenFallback | CloseFallback | Log
