# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pure core wants done: it puts these into an outbox, and a driver takes them out and does them."""

from __future__ import annotations

import logging
from typing import NamedTuple

from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import Message
from peer_agent.wire.probes import Key, Probe


class Send(NamedTuple):
    """Send a probe outside the tunnel, from WireGuard's port, sealed with the pair's key."""

    target: Endpoint
    probe: Probe
    heard: bool  # whether something authentic came from there just now


class Trust(NamedTuple):
    """Open and seal the pair's probes with this key from now on: `Keyring.put`."""

    key: Key


class Say(NamedTuple):
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


class Suspect(NamedTuple):
    """Ask this relay at once whether it is alive: `Relays.suspect`."""

    relay: str


class Note(NamedTuple):
    """Something for the journal."""

    text: str
    level: int = logging.INFO


# --- of the relays, for the whole device ------------------------------------------------------------------------------


class Ask(NamedTuple):
    """Send a directory request to the relay, in the tunnel."""

    relay: str
    nonce: bytes


class Reach(NamedTuple):
    """Set the endpoint of the relay's own [Peer]."""

    relay: str
    endpoint: Endpoint


class Connect(NamedTuple):
    """Open the fallback to this relay, and tell `Relays.fallback` when it is up and when it ends."""

    relay: str


class Disconnect(NamedTuple):
    """Close the fallback to this relay."""

    relay: str


PairAction = Send | Trust | Say | SetEndpoint | Rekey | Suspect | Note
RelayAction = Ask | Reach | Connect | Disconnect | Note
