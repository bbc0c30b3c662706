# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers: datagrams from many spoofed addresses, sent as raw frames at a steady rate by a process of its own.

python flood.py INTERFACE RELAY_MAC RELAY_ADDRESS RELAY_PUBLIC_KEY RATE SECONDS    prints what it sent, as JSON
"""

from __future__ import annotations

import base64
import ctypes
import json
import random
import socket
import struct
import sys
import time
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

_POOL = 20_000  # different datagrams; after the last one the first one comes again
_BATCH = 50
_SOURCES = IPv4Network("198.18.0.0/15")
_PORT = 40000
# What is sent, and the reasons under which a relay may count it.
KINDS = {
    "noise": {"not_wireguard"},
    "valid_mac1": {"handshake_invalid", "cookie_required", "handshake_limited"},
    "bad_mac1": {"source_not_bound"},
    "response": {"unknown_source"},
    "cookie_reply": {"unknown_source"},
    "transport": {"unknown_source"},
}
_TYPED = {"bad_mac1": (1, 148), "response": (2, 92), "cookie_reply": (3, 64), "transport": (4, 0)}


class Stray(NamedTuple):
    """A stranger's datagram."""

    kind: str
    address: str
    port: int
    payload: bytes


def strays(relay_key: bytes) -> list[Stray]:
    """Make the pool: the same one each time for the same key. Half of it are initiations with a valid mac1."""
    draw = random.Random(relay_key)
    mac1_key = blake2s(b"mac1----" + relay_key).digest()
    pool = []
    for number in range(_POOL):
        kind = "valid_mac1" if number % 2 else draw.choice([kind for kind in KINDS if kind != "valid_mac1"])
        if kind == "noise":
            payload = bytes([draw.randrange(5, 256)]) + draw.randbytes(draw.randrange(1400))
        elif kind == "valid_mac1":
            message = struct.pack("<I", 1) + draw.randbytes(112)
            payload = message + blake2s(message, key=mac1_key, digest_size=16).digest() + bytes(16)
        else:
            number_of_type, size = _TYPED[kind]
            size = size or draw.randrange(32, 1400)
            payload = struct.pack("<I", number_of_type) + draw.randbytes(size - 4)
        address = IPv4Address(int(_SOURCES.network_address) + draw.randrange(1, _SOURCES.num_addresses - 1))
        pool.append(Stray(kind, str(address), draw.randrange(1024, 65536), payload))
    return pool


def _checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _frame(stray: Stray, mac: bytes, relay: bytes) -> bytes:
    udp = struct.pack(">HHHH", stray.port, _PORT, 8 + len(stray.payload), 0) + stray.payload
    source = IPv4Address(stray.address).packed
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, source, relay)
    head = head[:10] + struct.pack(">H", _checksum(head)) + head[12:]
    return mac + bytes.fromhex("020000000099") + b"\x08\x00" + head + udp


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class MessageHeader(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_IoVec)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("length", ctypes.c_uint32),
    ]


def _send(interface: str, frames: list[bytes], rate: float, seconds: float) -> tuple[int, float]:
    """Send the frames in turn; return how many were sent, and in which time."""
    libc = ctypes.CDLL(None, use_errno=True)
    vectors = (_IoVec * len(frames))(*(_IoVec(frame, len(frame)) for frame in frames))
    messages = (MessageHeader * len(frames))()
    for number in range(len(frames)):
        messages[number].vector = ctypes.pointer(vectors[number])
        messages[number].vectors = 1
    total, sent = int(rate * seconds), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        descriptor, start = wire.fileno(), time.monotonic()
        while sent < total:
            position = sent % len(frames)
            batch = ctypes.byref(messages, position * ctypes.sizeof(MessageHeader))
            done = libc.sendmmsg(descriptor, batch, min(_BATCH, len(frames) - position), 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += done
            ahead = start + sent / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
    return sent, time.monotonic() - start


def main() -> None:
    interface, mac, relay, key, rate, seconds = sys.argv[1:]
    pool = strays(base64.b64decode(key))
    mac_bytes, relay_bytes = bytes.fromhex(mac.replace(":", "")), IPv4Address(relay).packed
    sent, took = _send(
        interface, [_frame(stray, mac_bytes, relay_bytes) for stray in pool], float(rate), float(seconds)
    )
    kinds = dict.fromkeys(KINDS, 0)
    for number, stray in enumerate(pool):
        kinds[stray.kind] += sent // len(pool) + (number < sent % len(pool))
    print(json.dumps({"sent": sent, "seconds": took, "kinds": kinds}))


if __name__ == "__main__":
    main()
