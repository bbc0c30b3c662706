# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's table holds. Addresses are those of `peer_relay.addresses`."""

from __future__ import annotations

from typing import NamedTuple

FULL = "the kernel's table is full"


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
