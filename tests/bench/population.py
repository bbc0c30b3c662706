# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices of the service under load: as many senders as receivers, and a session of each with each.

The handshakes with the relay are real. Those of a pair carry only what a relay can read: indexes and mac1.
"""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

from harness.client import Client, random_index
from harness.service import PORT, Relay
from hosts import RECEIVERS, RELAY_IN, RELAY_OUT, SENDERS
from load import Devices, Flow, head
from peer_common import packets

_RENEW_AFTER = 100.0  # seconds; the relay forgets a pair's indexes after 300


class Pair(NamedTuple):
    one: Client
    other: Client
    one_index: int  # under which the first one receives
    other_index: int


def addresses_of(network: str, count: int) -> list[str]:
    return [f"{network}.{number // 250}.{number % 250 + 1}" for number in range(count)]


class Population:
    """Registered in `relay` when made; `connect` once that runs."""

    def __init__(self, devices: Devices, relay: Relay, pairs: int):
        self._devices, self._relay = devices, relay
        side = math.isqrt(pairs - 1) + 1
        self._senders, self._receivers = (
            [
                Client(f"{name}{number}", f"10.77.{half}.{number + 1}", devices.end(address), (gateway, PORT))
                for number, address in enumerate(addresses_of(network, side))
            ]
            for name, half, network, gateway in (("one", 1, SENDERS, RELAY_IN), ("other", 2, RECEIVERS, RELAY_OUT))
        )
        for client in (*self._senders, *self._receivers):
            relay.registrations[client.name] = client.registration()
        self._pairs = [
            Pair(one, other, random_index(), random_index()) for other in self._receivers for one in self._senders
        ][:pairs]
        self._renewed = float("-inf")

    def connect(self) -> list[Flow]:
        """Let all devices and pairs shake hands; return the ways from senders to receivers."""
        for client in (*self._senders, *self._receivers):
            client.register(self._relay.public_key)
        self.renew()
        return [
            Flow(
                pair.one.end.address,
                pair.one.relay,
                head(packets.TRANSPORT, pair.other_index),
                pair.other.end.address,
                head(packets.TRANSPORT, pair.one_index),
            )
            for pair in self._pairs
        ]

    def renew(self) -> None:
        """Shake hands again, under the same indexes, before the relay forgets them."""
        if time.monotonic() - self._renewed < _RENEW_AFTER:
            return
        for pair in self._pairs:
            shake_hands(pair)
        self._renewed = time.monotonic()


def shake_hands(pair: Pair) -> None:
    one, other = pair.one, pair.other
    message = packets.HEAD.pack(packets.INITIATION, pair.one_index) + os.urandom(108)
    one.send(packets.append_macs(message, other.identity.mac1_key))
    while packets.sender_index(other.receive(packets.INITIATION)) != pair.one_index:
        pass
    message = packets.HEAD.pack(packets.RESPONSE, pair.other_index)
    message += packets.HEAD.pack(pair.one_index, 0) + os.urandom(44)
    other.send(packets.append_macs(message, one.identity.mac1_key))
    one.receive(packets.RESPONSE, pair.one_index)
