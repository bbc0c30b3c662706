# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cookies: a handshake under load costs the sender a round trip (whitepaper sections 5.4.4 and 5.4.7)."""

from __future__ import annotations

import os

from nacl import bindings
from nacl.exceptions import CryptoError
from peer_common import packets

_SECRET_LIFETIME = 120.0  # seconds; also how long a received cookie may be used
_NONCE_SIZE = 24


class CookieMint:
    """The responder's side: makes cookies bound to a source address and checks mac2."""

    def __init__(self, cookie_key: bytes):
        self._key = cookie_key
        self._secret = os.urandom(32)
        self._born = float("-inf")

    def _cookie(self, source: bytes, now: float) -> bytes:
        if now - self._born > _SECRET_LIFETIME:
            self._secret, self._born = os.urandom(32), now
        return packets.mac(self._secret, source)

    def valid(self, datagram: bytes, source: bytes, now: float) -> bool:
        """Tell whether mac2 proves that the sender receives at `source`."""
        covered, _, mac2 = packets.split_macs(datagram)
        return packets.mac(self._cookie(source, now), covered) == mac2

    def reply(self, datagram: bytes, source: bytes, now: float) -> bytes:
        """Return the cookie reply (64 bytes) to an initiation or response."""
        _, mac1, _ = packets.split_macs(datagram)
        nonce = os.urandom(_NONCE_SIZE)
        sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(self._cookie(source, now), mac1, nonce, self._key)
        return packets.HEAD.pack(packets.COOKIE_REPLY, packets.sender_index(datagram)) + nonce + sealed


class CookieJar:
    """The initiator's side: keeps the cookie that one responder sent."""

    __slots__ = ("_cookie", "_received")

    def __init__(self) -> None:
        self._cookie: bytes | None = None
        self._received = 0.0

    def store(self, reply: bytes, responder: bytes, mac1: bytes, now: float) -> bool:
        """Keep the cookie of a reply to the message that carried `mac1`; False when it does not authenticate."""
        key = packets.cookie_key(responder)
        nonce, sealed = reply[8:32], reply[32:]
        try:
            self._cookie = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, mac1, nonce, key)
        except (CryptoError, ValueError):
            return False
        self._received = now
        return True

    def current(self, now: float) -> bytes | None:
        """Return the cookie while it is fresh."""
        return self._cookie if self._cookie and now - self._received < _SECRET_LIFETIME else None
