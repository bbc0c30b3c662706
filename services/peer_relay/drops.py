# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of every reason for which a datagram is not forwarded. Status, metrics and doctor speak these names."""

from __future__ import annotations

from typing import Any

REASONS = {
    "not_wireguard": "size or type is not that of a WireGuard message",
    "unknown_source": "no device is bound to the source address and the index is not known",
    "source_unproven": "the index is known but the source address is new; the relay challenges it",
    "source_not_bound": "an initiation from an address that no device has proven yet; held for a few seconds",
    "destination_not_bound": "the addressed device has not reached the relay; an initiation is held for a few seconds",
    "address_unproven": "a device's message from where another one or a relay is: it must answer there before it moves",
    "address_invalid": "a device's message from an address or a port that nothing can be sent to",
    "moves_limited": "a device changes its address too often; it stays where it is for a while",
    "unknown_index": "the device is known, but no session with this receiver index is",
    "no_such_peer": "an initiation to a key that this device may not reach",
    "search_limited": "too many initiations to keys that this device may not reach, or has not reached before",
    "pair_limited": "more handshake messages to a device, or to all devices, than WireGuard sends",
    "crossed_initiation": "the addressed device is being asked by the other one already: two would cancel each other",
    "index_collision": "the session index is in use by another pair; the sender retries with a new one",
    "bad_mac1": "a response that does not carry the mac1 of the device it goes to",
    "handshake_invalid": "a handshake with the relay that does not authenticate",
    "unknown_device": "a handshake with the relay from a public key that is not in the settings",
    "timestamp_replayed": "a handshake with the relay no newer than the last one: replay, or a clock gone back",
    "cookie_required": "under load: answered by a cookie reply, the sender must prove its address",
    "handshake_limited": "under load: more handshakes than the relay answers",
    "probe_replayed": "a reachability probe that was answered before",
    "probe_expired": "a reachability probe older than 300 s or than the relay's start, or from a clock that was ahead",
    "replayed": "a transport message that was received before",
    "transport_invalid": "a transport message to the relay that does not authenticate",
    "session_expired": "a transport message to the relay on a session older than 180 s",
    "inner_source": "a packet inside the tunnel whose source address is not the device's",
    "inner_unsupported": "a packet inside the tunnel that the relay has no answer to",
    "rate_limited": "the device sends faster than its rate limit",
    "fault": "a fault of the relay's own, which its journal shows",
    "send_failed": "the system refused to send the datagram",
    "send_buffer_full": "the socket's send buffer was full",
}


class Refused(Exception):
    """A datagram is dropped for `reason`, a key of REASONS; `sender` is the Device that has authenticated it."""

    def __init__(self, reason: str, sender: Any = None):
        super().__init__(reason)
        self.reason = reason
        self.sender = sender
