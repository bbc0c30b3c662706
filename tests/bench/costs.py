# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service costs besides forwarding: memory, its start, handshakes, and the way to the first packet."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from contestants import Ours
from harness.client import Client, random_index, transport
from harness.netns import Namespace
from harness.service import PORT, Registration, Relay
from hosts import RECEIVERS, RELAY_IN, RELAY_OUT, SENDERS
from load import Arrival, Flow
from peer_common import packets
from peer_relay import addresses, state
from population import Pair, addresses_of, shake_hands

_BURST = 250  # handshakes at once: fewer than the relay answers without asking for cookies
_PAIRS = 30
_TTL = 64  # of what a host sends


class First(NamedTuple):
    """Seconds until the data plane forwarded the first data to a peer."""

    of_device: float  # from the device's first packet to the relay
    of_pair: float  # from the first packet between two devices that the relay knows


class Costs(NamedTuple):
    """Figures of one run of the service."""

    memory: dict[int, float]  # MiB by registered devices
    start: dict[int, float]  # seconds until it is ready, by registered devices, each known from a run before
    handshake: float  # seconds of the relay's processor for one
    handshakes: float  # a second, of as many as come at once
    first: dict[str, First]  # by data plane


def _known_devices(relay: Relay, count: int) -> None:
    """Let the relay have that many devices, and know all of them, each with a session, from before its start."""
    known = {}
    keys = [os.urandom(32) for _ in range(count)]
    local = addresses.host_bytes(addresses.pack(RELAY_IN, PORT))
    for number, key in enumerate(keys):
        address = f"10.77.{1 + number // 250}.{1 + number % 250}"
        relay.registrations[f"device{number}"] = Registration(
            f"device{number}", base64.b64encode(key).decode(), [address]
        )
        binding = addresses.pack(f"{SENDERS}.{number // 250}.{number % 250 + 1}", PORT)
        known[key.hex()] = {
            "binding": [binding.hex(), local.hex()],
            "timestamp": bytes(12).hex(),
            "routes": [[number, keys[number ^ 1].hex(), 300.0]],
        }
    relay.state.write_text(
        json.dumps({"format": state.FORMAT, "wall": time.time(), "timestamp": bytes(12).hex(), "devices": known})
    )


def _start(host: Namespace, folder: Path, devices: int) -> tuple[float, float]:
    """Start the service with that many known devices; return MiB of resident memory and seconds until it was ready."""
    folder.mkdir()
    relay = Relay(host, folder)
    _known_devices(relay, devices)
    start = time.monotonic()
    relay.start(60)
    took = time.monotonic() - start
    try:
        return relay.memory() / 2**20, took
    finally:
        relay.remove()


def _processor(pid: int) -> float:
    """Seconds that a process has worked."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class _Newcomers(Ours):
    """Devices that are registered, and that nobody has heard of; the first half of them are senders."""

    def start(self, pairs: int) -> list[Flow]:
        self.relay = Relay(self.hosts.relay, self.hosts.logs, data_plane=self.data_plane)
        self._clients = [
            Client(f"{label}{number}", f"10.77.{label}.{number + 1}", self.devices.end(address), (gateway, PORT))
            for label, network, gateway in ((1, SENDERS, RELAY_IN), (2, RECEIVERS, RELAY_OUT))
            for number, address in enumerate(addresses_of(network, pairs))
        ]
        for client in self._clients:
            self.relay.registrations[client.name] = client.registration()
        self.relay.start()
        self.process = self.relay.process
        return []

    def handshakes(self) -> tuple[float, float]:
        """Let all shake hands with the relay at once: seconds of its processor for one, and how many a second."""
        relay_key = base64.b64decode(self.relay.public_key)
        initiations = [client.initiation(relay_key, random_index()).datagram for client in self._clients]
        worked, start = _processor(self.process.pid), time.perf_counter()
        for client, initiation in zip(self._clients, initiations, strict=True):
            client.send(initiation)
        for _ in self._clients:
            self.devices.receive()
        took = time.perf_counter() - start
        return (_processor(self.process.pid) - worked) / len(self._clients), len(self._clients) / took

    def first_packets(self) -> First:
        """Let pairs arrive in turn."""
        of_device, of_pair = [], []
        half = len(self._clients) // 2
        for one, other in zip(self._clients[:half], self._clients[half:], strict=True):
            other.register(self.relay.public_key)
            start = time.perf_counter()
            one.register(self.relay.public_key)
            middle = time.perf_counter()
            pair = Pair(one, other, random_index(), random_index())
            shake_hands(pair)
            while True:
                one.send(transport(pair.other_index, 0, 128))
                if self._forwarded(self.devices.receive(other.end.address)):
                    break
            end = time.perf_counter()
            of_device.append(end - start)
            of_pair.append(end - middle)
        return First(statistics.median(of_device), statistics.median(of_pair))

    def _forwarded(self, arrival: Arrival) -> bool:
        """Tell whether this data plane did it: the kernel counts down what it forwards, a socket starts anew."""
        return arrival.datagram[0] == packets.TRANSPORT and arrival.ttl == _TTL


class _NewcomersInTheKernel(_Newcomers):
    data_plane = "kernel"

    def _forwarded(self, arrival: Arrival) -> bool:
        return arrival.datagram[0] == packets.TRANSPORT and arrival.ttl == _TTL - 1


def measure(logs: Path, devices: tuple[int, ...]) -> Costs:
    """Run the service for these numbers of devices, and with newcomers."""
    host = Namespace("costs", logs)
    try:
        starts = {count: _start(host, logs / f"devices{count}", count) for count in devices}
    finally:
        host.remove()
    with contextlib.closing(_Newcomers("newcomers", logs, _BURST // 2)) as burst:
        handshake, rate = burst.handshakes()
    first = {}
    for kind in (_Newcomers, _NewcomersInTheKernel):
        with contextlib.closing(kind(f"first, {kind.data_plane}", logs, _PAIRS)) as pairs:
            if pairs.relay.status()["data_plane"] == kind.data_plane:
                first[kind.data_plane] = pairs.first_packets()
    return Costs(
        {count: memory for count, (memory, _) in starts.items()},
        {count: took for count, (_, took) in starts.items()},
        handshake,
        rate,
        first,
    )
