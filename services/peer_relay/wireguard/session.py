# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transport session of the relay itself: counters, replay window, lifetime (whitepaper sections 5.4.6 and 6.1)."""

from __future__ import annotations

import struct

from peer_common import packets

from peer_relay.drops import Refused
from peer_relay.wireguard.noise import HandshakeError, TransportKeys, seal, unseal

REKEY_AFTER = 120.0  # seconds after which the initiator makes a new session
REJECT_AFTER = 180.0  # seconds after which nothing is accepted
_WINDOW = 2048  # counters that may arrive late
_WINDOW_MASK = (1 << _WINDOW) - 1
_HEAD = struct.Struct("<IIQ")
_MAX_COUNTER = 2**64 - 2**13 - 1  # REJECT-AFTER-MESSAGES


class Session:
    """Keys and counters of one handshake; `initiator` tells whether the relay began it."""

    __slots__ = (
        "_highest",
        "_keys",
        "_seen",
        "_send_counter",
        "answered",
        "created",
        "initiator",
        "local_index",
        "newest",
        "source",
    )

    def __init__(self, keys: TransportKeys, local_index: int, created: float, initiator: bool):
        self._keys = keys
        self.local_index = local_index
        self.created = created
        self.initiator = initiator
        # Where the relay's response went, until the session is confirmed: who confirms it from there receives there.
        self.answered: bytes | None = None
        self.newest = False  # whether the message opened last carried the highest counter so far
        self.source = b""  # where its newest message came from
        self._send_counter = 0
        self._highest = -1
        self._seen = 0  # bit n: counter highest - n has been seen

    def unseal(self, datagram: bytes, now: float) -> bytes:
        """Return the inner packet (b"" is a keepalive) of a transport message, or raise Refused."""
        if now - self.created >= REJECT_AFTER:
            raise Refused("session_expired")
        _, _, counter = _HEAD.unpack_from(datagram)
        age = self._highest - counter
        if counter > _MAX_COUNTER or age >= _WINDOW or (age >= 0 and self._seen >> age & 1):
            raise Refused("replayed")
        try:
            inner = unseal(self._keys.receive, bytes(4) + datagram[8:16], datagram[16:], b"")
        except HandshakeError as error:
            raise Refused("transport_invalid") from error
        self.newest = age < 0
        if self.newest:
            # A far jump empties the window; shifting by it would build a huge number.
            self._seen = (self._seen << -age | 1) & _WINDOW_MASK if -age < _WINDOW else 1
            self._highest = counter
        else:
            self._seen |= 1 << age
        return inner

    def seal(self, inner: bytes) -> bytes:
        """Return a transport message around `inner`, padded to 16 bytes."""
        counter = self._send_counter
        self._send_counter += 1
        inner += bytes(-len(inner) % 16)
        head = _HEAD.pack(packets.TRANSPORT, self._keys.remote_index, counter)
        return head + seal(self._keys.send, bytes(4) + head[8:], inner, b"")
