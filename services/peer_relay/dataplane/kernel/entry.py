# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's table holds, and what it comes from. Addresses are those of `peer_relay.addresses`."""

from __future__ import annotations

from typing import NamedTuple

FULL = "the kernel's table is full"


class Refusal(NamedTuple):
    """Why the kernel does not forward something: one of a few names, and what exactly is in the way."""

    name: str
    text: str


class NextHop(NamedTuple):
    """How a destination is reached: by which interface, with the largest IP packet that fits.

    `unattached` tells why the program does not hear what comes in there; None: it does.
    """

    interface: int
    mtu: int
    unattached: Refusal | None = None


class Key(NamedTuple):
    """Which transport messages: from where, to which address and port of the relay's, with which receiver index."""

    source: bytes
    local: bytes
    receiver_index: int


class Target(NamedTuple):
    """Where they go: to whom, from which address and port of the relay's, by which interface (its number and MTU)."""

    destination: bytes
    local: bytes
    interface: int
    mtu: int


class Count(NamedTuple):
    """What went that way, and when the last of it did (CLOCK_MONOTONIC; 0: nothing yet)."""

    packets: int = 0
    bytes: int = 0
    last_ns: int = 0
