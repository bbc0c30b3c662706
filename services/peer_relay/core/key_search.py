# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order the keys of devices are tried on an initiation: those first that are likely to be meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peer_relay.core.device import Device


def known_peers(device: Device) -> Iterator[Device]:
    """Yield those that a device has asked for before: alternately whom it asked longest ago, and latest.

    Sessions are renewed in turn, so that the next one is at the one end; what is asked for again, without an answer or
    because the others are not in use, is near the other one.
    """
    left = len(device.pairs)
    for oldest, newest in zip(device.pairs, reversed(device.pairs), strict=True):
        yield oldest
        if left > 1:
            yield newest
        left -= 2
        if left <= 0:
            return


def new_peers(device: Device, reachable: Sequence[Device]) -> Iterator[Device]:
    """Yield the others that a device may reach, beginning behind the one that it asked for last: many have an order."""
    start = device.next_search
    for position in (*range(start, len(reachable)), *range(min(start, len(reachable)))):
        peer = reachable[position]
        if peer is not device and peer not in device.pairs:
            device.next_search = position + 1
            yield peer


def in_turn(*orders: Iterator[Device]) -> Iterator[Device]:
    """Yield from each of the orders in turn, until all are at their end."""
    waiting = list(orders)
    while waiting:
        for order in list(waiting):
            peer = next(order, None)
            if peer is None:
                waiting.remove(order)
            else:
                yield peer
