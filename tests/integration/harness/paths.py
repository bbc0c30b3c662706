# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two devices with agents at sites of their own, two relays, and everything that can happen to their paths."""

from __future__ import annotations

import time
from collections.abc import Iterable

from harness.agent import Agent
from harness.connection import Connection
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, Lab, Site
from harness.traffic import Direction, Stream
from harness.wireguard import KEEPALIVE, Device

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
        }

    def up(self, agents: bool = True) -> float:
        """Start everything; return when the agents were started."""
        for relay in self.relays:
            relay.register(*self.devices)
            relay.start()
        for device in self.devices:
            self.relays[0].connect(device, *self.devices)
            self.relays[1].connect(device, address=SECOND_RELAY)
            device.up()
        for relay in self.relays:
            relay.wait_bound(*self.devices)
        moment = time.monotonic()
        if agents:
            for agent in self.agents:
                agent.start()
        return moment

    def wait(self, kind: str, via: str | None = None, seconds: float = 15) -> float:
        """Wait until both agents have a path of that kind; return how long that took."""
        start = time.monotonic()
        for agent, other in zip(self.agents, reversed(self.devices), strict=True):
            agent.wait_path(other, kind, via, seconds)
        return time.monotonic() - start

    def block_udp(self, site: Site) -> None:
        site.lose_udp = True
        site._drop("meta l4proto udp drop")

    def symmetric(self) -> None:
        """Have both routers give each destination another port."""
        for site in self.sites:
            site.router.nft(_SYMMETRIC)

    def close(self) -> None:
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
    times: Iterable[float] = [moment, *arrivals, time.monotonic()]
    return max(later - earlier for earlier, later in zip(times, times[1:]))
