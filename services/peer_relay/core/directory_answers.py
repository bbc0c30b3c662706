# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the directory tells a device: where the relay sees it, and those that it may talk to; of others nothing."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from peer_common.directory import Answer, Entry, Malformed, read_request, write_answer

from peer_relay import addresses
from peer_relay.core.device import Device

Find = Callable[[IPv4Address | IPv6Address], Device | None]


def answer(asker: Device, message: bytes, find: Find, now: float) -> bytes | None:
    """Return the answer to a device's request, of the same size; None when it is no request.

    A device out of reach looks like one that does not exist.
    """
    try:
        request = read_request(message)
    except Malformed:
        return None
    found = (find(target) for target in request.targets)
    targets = tuple(_entry(device, now) if device and asker.may_reach(device) else Entry() for device in found)
    return write_answer(Answer(request.nonce, _entry(asker, now), targets))


def _entry(device: Device, now: float) -> Entry:
    if not device.binding or not device.live(now):
        return Entry(known=True)
    host, port = addresses.unpack(device.binding.address)
    # A scope means something to this host alone.
    return Entry((host.partition("%")[0], port), known=True)
