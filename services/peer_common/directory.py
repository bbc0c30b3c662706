# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory's messages, for both sides: where does the relay see me, and where these other devices?

A device asks in the tunnel, by UDP, at the relay's own overlay address. All numbers are big-endian; an IPv4 address is
written as an IPv4-mapped IPv6 one (RFC 4291, section 2.5.5.2).

request: magic 4, kind 1, count 1, zero 2, nonce 8; count targets of 16 bytes (overlay addresses); zeros
answer:  magic 4, kind 1, count 1, zero 2, nonce 8; own entry; count entries, in the order of the targets
entry:   address 16, port 2, flags 1, zero 1; address and port are zero where the relay sees nobody

Both are of the same size, so that an answer is never larger than what it answers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

PORT = 7077
NONCE_SIZE = 8
MAX_TARGETS = 16

_MAGIC = b"prd1"
_REQUEST, _ANSWER = 1, 2
_HEAD = struct.Struct(">4sBB2x8s")
_ENTRY = struct.Struct(">16sHBx")
_TARGET_SIZE = 16
_KNOWN = 0x01
_MAPPED = bytes(10) + b"\xff\xff"

Address = IPv4Address | IPv6Address


class Malformed(ValueError):
    """It is no message of the directory."""


class Request(NamedTuple):
    """What a device asks: about the devices with these overlay addresses."""

    nonce: bytes
    targets: tuple[Address, ...]


class Entry(NamedTuple):
    """What the relay tells of one device; `seen` is None while it is not at the relay."""

    seen: tuple[str, int] | None = None  # address and port from which its packets come
    known: bool = False  # it is registered, and the asker may talk to it


class Answer(NamedTuple):
    """What the relay answers: of the asker itself, and of each target."""

    nonce: bytes
    own: Entry
    targets: tuple[Entry, ...]


def write_request(nonce: bytes, targets: Sequence[Address]) -> bytes:
    """Return a request about at most MAX_TARGETS overlay addresses; the nonce is NONCE_SIZE random bytes."""
    if len(nonce) != NONCE_SIZE or len(targets) > MAX_TARGETS:
        raise ValueError(f"{len(nonce)} bytes of nonce, {len(targets)} targets")
    head = _HEAD.pack(_MAGIC, _REQUEST, len(targets), nonce)
    return (head + b"".join(map(_packed, targets))).ljust(_size(len(targets)), b"\0")


def read_request(data: bytes) -> Request:
    """Return the request; raise Malformed."""
    count, nonce = _head(data, _REQUEST)
    starts = range(_HEAD.size, _HEAD.size + count * _TARGET_SIZE, _TARGET_SIZE)
    return Request(nonce, tuple(_address(data[start : start + _TARGET_SIZE]) for start in starts))


def write_answer(answer: Answer) -> bytes:
    """Return the answer, of the size of its request."""
    head = _HEAD.pack(_MAGIC, _ANSWER, len(answer.targets), answer.nonce)
    return head + b"".join(map(_write_entry, (answer.own, *answer.targets)))


def read_answer(data: bytes) -> Answer:
    """Return the answer; raise Malformed. Whether it was asked for, its nonce and its number of targets tell."""
    _, nonce = _head(data, _ANSWER)
    own, *targets = (_read_entry(*entry) for entry in _ENTRY.iter_unpack(data[_HEAD.size :]))
    return Answer(nonce, own, tuple(targets))


def _size(count: int) -> int:
    return _HEAD.size + (1 + count) * _ENTRY.size


def _head(data: bytes, kind: int) -> tuple[int, bytes]:
    if len(data) < _HEAD.size:
        raise Malformed(f"{len(data)} bytes")
    magic, its_kind, count, nonce = _HEAD.unpack_from(data)
    if magic != _MAGIC or its_kind != kind or count > MAX_TARGETS or len(data) != _size(count):
        raise Malformed(f"kind {its_kind}, {count} targets, {len(data)} bytes")
    return count, nonce


def _packed(address: Address) -> bytes:
    return _MAPPED + address.packed if address.version == 4 else address.packed


def _address(packed: bytes) -> Address:
    return IPv4Address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)


def _write_entry(entry: Entry) -> bytes:
    host, port = entry.seen or ("::", 0)
    return _ENTRY.pack(_packed(ip_address(host)), port, _KNOWN if entry.known else 0)


def _read_entry(packed: bytes, port: int, flags: int) -> Entry:
    if bool(port) != any(packed):
        raise Malformed(f"address {packed.hex()}, port {port}")
    return Entry((str(_address(packed)), port) if port else None, bool(flags & _KNOWN))
