# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two devices with agents at sites of their own, two relays, and everything that can happen to their paths."""

from __future__ import annotations

import itertools
import time

from harness.agent import Agent
from harness.connection import Connection
from harness.fallback import Bridge, Certificate
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, Lab
from harness.traffic import Direction, Stream
from harness.wireguard import Device

SECOND_RELAY = "203.0.113.12"
_RATE = 100  # packets a second, each way: a gap is known to 10 ms
_SYMMETRIC = """
table ip symmetric
delete table ip symmetric
flush chain inet router postrouting
add rule inet router postrouting ip saddr 192.168.0.0/16 oifname "wan*" masquerade random,fully-random
"""


class Paths:
    """`ann` and `bob`, who know each other and both relays; nothing runs before `up`."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.sites = [lab.site(), lab.site()]
        self.relays = [Relay(lab.relay_host, lab.folder, name="one"), self._second_relay()]
        certificate = Certificate(lab.folder, "certificate")
        self.bridge = Bridge(lab.relay_host, certificate)
        self.fallback = {
            "fallback_url": f"wss://{RELAY_V4[0]}:443/",
            "fallback_fingerprint": certificate.fingerprint,
        }
        self.endpoints = dict(zip(("one", "two"), (RELAY_V4[0], SECOND_RELAY), strict=True))
        self.devices = [
            Device(lab, site.host(name), name, [f"10.77.1.{number}/32", f"fd77:7065:6572::1:{number}/128"])
            for number, (site, name) in enumerate(zip(self.sites, ("ann", "bob"), strict=True), 1)
        ]
        self.ann, self.bob = self.devices
        self.tables = [self._table(relay) for relay in self.relays]
        self.agents = [Agent(lab, device, self.tables, self.devices) for device in self.devices]

    def _second_relay(self) -> Relay:
        host = self.lab.namespace("relay2")
        self.lab.attach(host, "eth0")
        host.ip(f"addr add {SECOND_RELAY}/24 dev eth0", "route add default via 203.0.113.1")
        folder = self.lab.folder / "two"
        folder.mkdir()
        return Relay(host, folder, name="two", addresses=["10.77.0.2", "fd77:7065:6572::2"])

    def _table(self, relay: Relay) -> dict:
        endpoint = f"{self.endpoints[relay.name]}:{PORT}"
        return {
            "name": relay.name,
            "public_key": relay.public_key,
            "addresses": relay.addresses,
            "endpoints": [endpoint],
            **(self.fallback if relay.name == "one" else {}),
        }

    def up(self, agents: bool = True) -> None:
        """Start everything, the agents last."""
        for relay in self.relays:
            relay.register(*self.devices)
            relay.start()
        self.bridge.start()
        for device in self.devices:
            self.relays[0].connect(device, *self.devices)
            self.relays[1].connect(device, address=SECOND_RELAY)
            device.up()
        for relay in self.relays:
            relay.wait_bound(*self.devices)
        if agents:
            self.start_agents()

    def start_agents(self) -> None:
        for agent in self.agents:
            agent.start()

    def views(self) -> list[tuple[Agent, Device]]:
        """Each agent with the device that it looks at."""
        return list(zip(self.agents, reversed(self.devices), strict=True))

    def wait(self, *kinds: str, via: str | None = None, seconds: float = 15, after: float = 0) -> None:
        """Wait until ann's and bob's paths are of these kinds, or of the one, since a moment of `time.time()`."""
        for (agent, other), kind in zip(self.views(), kinds * (2 // len(kinds)), strict=True):
            agent.wait_path(other, kind, via, seconds, after)

    def symmetric(self) -> None:
        """Have both routers give each destination another port."""
        for site in self.sites:
            site.router.nft(_SYMMETRIC)

    def close(self) -> None:
        self.bridge.stop()
        for relay in self.relays:
            relay.stop()


class Watched:
    """A stream each way and one TCP connection, through all that happens."""

    def __init__(self, one: Device, other: Device):
        self.stream = Stream(one, other, rate=_RATE)
        self.connection = Connection(one, other)

    def since(self, moment: float) -> tuple[float, int]:
        """Return the longest time without delivered data since then, and the packets lost."""
        time.sleep(0.5)  # what is under way may still arrive
        gaps = [_gap(direction, moment) for direction in self.stream.directions]
        until = time.monotonic() - 0.5
        lost = (sent for direction in self.stream.directions for sent in direction.lost(until) if sent >= moment)
        return max(gaps), sum(1 for _ in lost)

    def close(self) -> None:
        self.connection.close()
        self.stream.stop()


def _gap(direction: Direction, moment: float) -> float:
    arrivals = sorted(at for at in list(direction.received.values()) if at >= moment)
    return max(later - earlier for earlier, later in itertools.pairwise([moment, *arrivals, time.monotonic()]))
