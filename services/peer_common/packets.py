# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard message codec: layout, indexes and mac1 (WireGuard whitepaper, sections 5.4.2 to 5.4.7).

Everything takes and returns bytes; nothing here decides or remembers.
"""

from __future__ import annotations

import struct
from hashlib import blake2s

INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT = 1, 2, 3, 4
INITIATION_SIZE, RESPONSE_SIZE, COOKIE_REPLY_SIZE = 148, 92, 64
TRANSPORT_MIN_SIZE = 32  # header 16, empty payload, Poly1305 tag 16

_SIZES = {INITIATION: INITIATION_SIZE, RESPONSE: RESPONSE_SIZE, COOKIE_REPLY: COOKIE_REPLY_SIZE}
# The offset of mac1; mac2 follows it and ends the message.
_MAC1_OFFSET = {INITIATION: 116, RESPONSE: 60}
MAC_SIZE = 16

# Type byte, three reserved zero bytes and the first index, read as one little-endian word each.
HEAD = struct.Struct("<II")
_INDEX = struct.Struct("<I")


def message_type(datagram: bytes) -> int | None:
    """Return the message type (1 to 4), or None when the datagram is not a WireGuard message.

    The three reserved bytes must be zero and the size must fit the type.
    """
    if len(datagram) < TRANSPORT_MIN_SIZE:
        return None
    kind = HEAD.unpack_from(datagram)[0]
    if kind == TRANSPORT:
        return TRANSPORT
    return kind if _SIZES.get(kind) == len(datagram) else None


def sender_index(datagram: bytes) -> int:
    """Return the sender index of an initiation or a response."""
    return _INDEX.unpack_from(datagram, 4)[0]


def receiver_index(datagram: bytes) -> int:
    """Return the receiver index of a response, cookie reply or transport message."""
    return _INDEX.unpack_from(datagram, 8 if datagram[0] == RESPONSE else 4)[0]


def mac1_key(public_key: bytes) -> bytes:
    """Return the key of mac1 for messages addressed to the owner of `public_key` (32 bytes)."""
    return blake2s(b"mac1----" + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """Return the key that seals cookie replies of the owner of `public_key` (32 bytes)."""
    return blake2s(b"cookie--" + public_key).digest()


def mac(key: bytes, message: bytes) -> bytes:
    """Return the keyed 16-byte BLAKE2s of `message` (RFC 7693)."""
    return blake2s(message, key=key, digest_size=MAC_SIZE).digest()


def mac1_valid(key: bytes, datagram: bytes) -> bool:
    """Tell whether mac1 of an initiation or response was made with `key` (see `mac1_key`)."""
    offset = _MAC1_OFFSET[datagram[0]]
    return mac(key, datagram[:offset]) == datagram[offset : offset + MAC_SIZE]


def split_macs(datagram: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (what mac2 covers, mac1, mac2) of an initiation or response."""
    offset = _MAC1_OFFSET[datagram[0]]
    mac2 = offset + MAC_SIZE
    return datagram[:mac2], datagram[offset:mac2], datagram[mac2:]


def append_macs(message: bytes, key: bytes, cookie: bytes | None = None) -> bytes:
    """Return `message` with mac1 (keyed for its receiver) and mac2 (zero without a cookie) appended."""
    message += mac(key, message)
    return message + (mac(cookie, message) if cookie else bytes(MAC_SIZE))
