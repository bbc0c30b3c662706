# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The WireGuard handshake, Noise_IKpsk2 (whitepaper sections 5.4.2 to 5.4.5; Noise specification, pattern IKpsk2).

The pre-shared key between a device and the relay is always zero: pairs of devices may use one end to end, unseen here.
Times are given by the caller; the only outside input is randomness for ephemeral keys.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass
from hashlib import blake2s

from nacl import bindings
from nacl.exceptions import CryptoError
from peer_common import packets

_PSK = bytes(32)
_NONCE_ZERO = bytes(12)
TIMESTAMP_SIZE = 12
_TAI64_EPOCH = 2**62 + 10  # TAI64 label of 1970-01-01 (10 s ahead of UTC then)


class HandshakeError(Exception):
    """A handshake message that does not authenticate."""


def _hash(data: bytes) -> bytes:
    return blake2s(data).digest()


_INITIAL_CHAIN = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_INITIAL_HASH = _hash(_INITIAL_CHAIN + b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def _kdf(chain: bytes, data: bytes, outputs: int) -> list[bytes]:
    """HKDF with HMAC-BLAKE2s (whitepaper section 5.4, Kdf_n)."""
    secret = hmac.digest(chain, data, "blake2s")
    result, block = [], b""
    for number in range(1, outputs + 1):
        block = hmac.digest(secret, block + bytes([number]), "blake2s")
        result.append(block)
    return result


def _dh(private: bytes, public: bytes) -> bytes:
    try:
        return bindings.crypto_scalarmult(private, public)
    except (CryptoError, RuntimeError) as error:  # a low-order point gives the zero secret
        raise HandshakeError("bad curve point") from error


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): return ciphertext and tag."""
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key)


def unseal(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """Reverse `seal`; raise HandshakeError when the tag does not fit."""
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, associated, nonce, key)
    except (CryptoError, ValueError) as error:
        raise HandshakeError("authentication failed") from error


def generate_private_key() -> bytes:
    """Return a new X25519 private key, clamped as `wg genkey` does."""
    key = bytearray(os.urandom(32))
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def random_index() -> int:
    """Return a sender index."""
    return int.from_bytes(os.urandom(4), "little")


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key of a private key (32 bytes each)."""
    return bindings.crypto_scalarmult_base(private)


def tai64n(unix_time: float) -> bytes:
    """Return the TAI64N label (12 bytes, big-endian) of a Unix time in seconds."""
    seconds = int(unix_time)
    return struct.pack(">QI", _TAI64_EPOCH + seconds, int((unix_time - seconds) * 1e9))


def tai64n_to_unix(label: bytes) -> float:
    """Return the Unix time in seconds of a TAI64N label."""
    seconds: int
    nanoseconds: int
    seconds, nanoseconds = struct.unpack(">QI", label)
    return seconds - _TAI64_EPOCH + nanoseconds / 1e9


class Identity:
    """A key pair with what is derived from it once: public key, mac1 key, cookie key."""

    __slots__ = ("cookie_key", "mac1_key", "private", "public", "start")

    def __init__(self, private: bytes):
        self.private = private
        self.public = public_key(private)
        self.mac1_key = packets.mac1_key(self.public)
        self.cookie_key = packets.cookie_key(self.public)
        self.start = _hash(_INITIAL_HASH + self.public)


@dataclass(slots=True)
class TransportKeys:
    """What a finished handshake yields: two keys of 32 bytes and the other side's index."""

    send: bytes
    receive: bytes
    remote_index: int


class InitiationReader:
    """The responder's side: read an initiation in two steps, then answer it.

    The static key is known after one curve operation, so that an unknown device costs no second one.
    """

    __slots__ = ("_chain", "_ephemeral", "_hash", "_identity", "_message", "initiator", "sender")

    def __init__(self, identity: Identity, datagram: bytes):
        self._identity = identity
        self._message = datagram
        self.sender = packets.sender_index(datagram)
        self._ephemeral = datagram[8:40]
        encrypted_static = datagram[40:88]
        (chain,) = _kdf(_INITIAL_CHAIN, self._ephemeral, 1)
        transcript = _hash(identity.start + self._ephemeral)
        self._chain, key = _kdf(chain, _dh(identity.private, self._ephemeral), 2)
        self.initiator = unseal(key, _NONCE_ZERO, encrypted_static, transcript)
        self._hash = _hash(transcript + encrypted_static)

    def timestamp(self) -> bytes:
        """Authenticate the initiator and return its TAI64N timestamp (12 bytes)."""
        encrypted = self._message[88:116]
        self._chain, key = _kdf(self._chain, _dh(self._identity.private, self.initiator), 2)
        label = unseal(key, _NONCE_ZERO, encrypted, self._hash)
        self._hash = _hash(self._hash + encrypted)
        return label

    def respond(self, local_index: int, cookie: bytes | None = None) -> tuple[bytes, TransportKeys]:
        """Return the response (92 bytes) and the session's keys; call after `timestamp`."""
        private = generate_private_key()
        ephemeral = public_key(private)
        chain, transcript = self._chain, _hash(self._hash + ephemeral)
        (chain,) = _kdf(chain, ephemeral, 1)
        (chain,) = _kdf(chain, _dh(private, self._ephemeral), 1)
        (chain,) = _kdf(chain, _dh(private, self.initiator), 1)
        chain, tau, key = _kdf(chain, _PSK, 3)
        transcript = _hash(transcript + tau)
        head = struct.pack("<III", packets.RESPONSE, local_index, self.sender)
        message = head + ephemeral + seal(key, _NONCE_ZERO, b"", transcript)
        receive, send = _kdf(chain, b"", 2)
        answer = packets.append_macs(message, packets.mac1_key(self.initiator), cookie)
        return answer, TransportKeys(send, receive, self.sender)


class InitiationWriter:
    """The initiator's side: write an initiation, then read its response."""

    __slots__ = ("_chain", "_hash", "_identity", "_private", "datagram")

    def __init__(
        self, identity: Identity, responder: bytes, local_index: int, timestamp: bytes, cookie: bytes | None = None
    ):
        self._identity = identity
        self._private = generate_private_key()
        ephemeral = public_key(self._private)
        (chain,) = _kdf(_INITIAL_CHAIN, ephemeral, 1)
        transcript = _hash(_hash(_INITIAL_HASH + responder) + ephemeral)
        chain, key = _kdf(chain, _dh(self._private, responder), 2)
        static = seal(key, _NONCE_ZERO, identity.public, transcript)
        transcript = _hash(transcript + static)
        self._chain, key = _kdf(chain, _dh(identity.private, responder), 2)
        label = seal(key, _NONCE_ZERO, timestamp, transcript)
        self._hash = _hash(transcript + label)
        message = packets.HEAD.pack(packets.INITIATION, local_index) + ephemeral + static + label
        self.datagram = packets.append_macs(message, packets.mac1_key(responder), cookie)

    def finish(self, response: bytes) -> TransportKeys:
        """Authenticate the responder's answer and return the session's keys."""
        ephemeral, empty = response[12:44], response[44:60]
        transcript = _hash(self._hash + ephemeral)
        (chain,) = _kdf(self._chain, ephemeral, 1)
        (chain,) = _kdf(chain, _dh(self._private, ephemeral), 1)
        (chain,) = _kdf(chain, _dh(self._identity.private, ephemeral), 1)
        chain, tau, key = _kdf(chain, _PSK, 3)
        unseal(key, _NONCE_ZERO, empty, _hash(transcript + tau))
        send, receive = _kdf(chain, b"", 2)
        return TransportKeys(send, receive, packets.sender_index(response))
