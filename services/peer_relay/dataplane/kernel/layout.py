# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries as the program in forward.c reads them, which has the same structures."""

from __future__ import annotations

import struct
import sys

from peer_relay import addresses
from peer_relay.dataplane.kernel.entry import Count, Key, Target

NAME = "pr_entries_1"  # the map's: another number for another layout

_TARGET = struct.Struct("=16s16s2s2sIIII4x")
_COUNT = struct.Struct("=QQQ")
KEY_SIZE, TARGET_SIZE, VALUE_SIZE = 40, _TARGET.size, _TARGET.size + _COUNT.size
LAST = struct.Struct(f"={VALUE_SIZE - 8}xQ")  # of a value: when it was last used
_MAPPED = bytes(10) + b"\xff\xff"
_LINK_LOCAL = 0xFE80 >> 6


def obstacle(key: Key, target: Target) -> str:
    """Return why the kernel cannot forward this, "" if it can."""
    size = len(key.source)
    if not size == len(key.local) == len(target.destination) == len(target.local):
        return "it goes between IPv4 and IPv6"
    if size == addresses.V6_SIZE and any(
        int.from_bytes(addresses.host_bytes(part)[:2], "big") >> 6 == _LINK_LOCAL
        for part in (key.source, key.local, target.destination, target.local)
    ):
        return "it has a link-local address"
    return ""


def _hosts(one: bytes, other: bytes) -> bytes:
    if len(one) == addresses.V4_SIZE:
        return _MAPPED + one[4:] + _MAPPED + other[4:]
    return addresses.host_bytes(one) + addresses.host_bytes(other)


def _change(after: bytes, before: bytes) -> int:
    """Return the difference of two sums of 32-bit words in ones' complement arithmetic."""
    return (int.from_bytes(after, sys.byteorder) - int.from_bytes(before, sys.byteorder)) % 0xFFFFFFFF


def encode_key(key: Key) -> bytes:
    """Return a key as the program reads it."""
    return _hosts(key.source, key.local) + key.receiver_index.to_bytes(4, "little") + key.source[2:4] + key.local[2:4]


def encode_target(key: Key, target: Target) -> bytes:
    """Return the target of a key as the program reads it: the checksums' changes depend on both."""
    hosts = _hosts(target.destination, target.local)
    ports = target.destination[2:4] + target.local[2:4]
    changes = _change(hosts, _hosts(key.source, key.local)), _change(ports, key.source[2:4] + key.local[2:4])
    return hosts + ports + struct.pack("=IIII4x", target.interface, target.mtu, *changes)


def _address(host: bytes, port: bytes) -> bytes:
    return addresses.join(host[12:] if host.startswith(_MAPPED) else host, int.from_bytes(port, "big"))


def decode_key(data: bytes) -> Key:
    """Return a key from what the program reads."""
    index = int.from_bytes(data[32:36], "little")
    return Key(_address(data[:16], data[36:38]), _address(data[16:32], data[38:]), index)


def decode_target(data: bytes) -> Target:
    """Return a target from what the program reads."""
    destination, local, destination_port, local_port, interface, mtu, _, _ = _TARGET.unpack_from(data)
    return Target(_address(destination, destination_port), _address(local, local_port), interface, mtu)


def decode_count(data: bytes) -> Count:
    """Return what an entry has counted."""
    return Count(*_COUNT.unpack_from(data, TARGET_SIZE))
