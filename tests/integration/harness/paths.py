# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two devices with agents at sites of their own, two relays, and everything that can happen to their paths."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from harness.agent import Agent
from harness.connection import Connection
from harness.fallback import Bridge, Certificate
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, RELAY_V6, Lab
from harness.traffic import Direction, Stream
from harness.wireguard import Device

SECOND_RELAY = "203.0.113.12"
SECOND_RELAY_V6 = "2001:db8:ffff::12"
Figure = Callable[..., None]
_RATE = 100  # packets a second, each way: a gap is known to 10 ms
_WATCHED = 2.0  # seconds after a change in which its losses show
_SYMMETRIC = """
table ip symmetric
delete table ip symmetric
flush chain inet router postrouting
add rule inet router postrouting ip saddr 192.168.0.0/16 oifname "wan*" masquerade random,fully-random
"""


class Paths:
    """`ann` and `bob`, who know each other and both relays; nothing runs before `up`."""

    def __init__(self, lab: Lab, v4: bool = True, v6: bool = False, relay: type[Relay] = Relay):
        """Take the IP versions of the sites (the relays have both), and what the first relay is."""
        self.lab = lab
        self.sites = [lab.site(), lab.site()]
        self.relays = [relay(lab.relay_host, lab.folder, name="one"), self._second_relay()]
        certificate = Certificate(lab.folder, "certificate")
        self.bridge = Bridge(lab.relay_host, certificate)
        self.fallback = {
            "fallback_url": f"wss://{RELAY_V4[0]}:443/",
            "fallback_fingerprint": certificate.fingerprint,
        }
        versions = ((v4, (RELAY_V4[0], SECOND_RELAY)), (v6, (RELAY_V6, SECOND_RELAY_V6)))
        ways = zip(*(addresses for wanted, addresses in versions if wanted), strict=True)
        self.addresses = dict(zip(("one", "two"), ways, strict=True))  # relay -> where it is reached, best first
        self.devices = [
            Device(lab, site.host(name, v4, v6), name, [f"10.77.1.{number}/32", f"fd77:7065:6572::1:{number}/128"])
            for number, (site, name) in enumerate(zip(self.sites, ("ann", "bob"), strict=True), 1)
        ]
        self.ann, self.bob = self.devices
        self.tables = [relay_table(relay, *self.addresses[relay.name]) for relay in self.relays]
        self.tables[0] |= self.fallback
        self.agents = [Agent(lab, device, self.tables, self.devices) for device in self.devices]

    def _second_relay(self) -> Relay:
        host = self.lab.namespace("relay2")
        self.lab.attach(host, "eth0")
        host.ip(
            f"addr add {SECOND_RELAY}/24 dev eth0",
            f"addr add {SECOND_RELAY_V6}/64 dev eth0 nodad",
            "route add default via 203.0.113.1",
            "route add default via 2001:db8:ffff::1",
        )
        folder = self.lab.folder / "two"
        folder.mkdir()
        return Relay(host, folder, name="two", addresses=["10.77.0.2", "fd77:7065:6572::2"])

    def up(self, agents: bool = True, bound: bool = True) -> None:
        """Start everything, the agents last, unless they are not wanted, once the relays know all, if they can."""
        for relay in self.relays:
            relay.register(*self.devices)
            relay.start()
        self.bridge.start()
        for device in self.devices:
            self.connect(device)
            device.up()
        for relay in self.relays if bound else ():
            relay.wait_bound(*self.devices)
        if agents:
            self.start_agents()

    def connect(self, device: Device) -> None:
        """Configure a device: both relays, and the other device at the first."""
        for relay in self.relays:
            others = self.devices if relay is self.relays[0] else ()
            relay.connect(device, *others, address=self.addresses[relay.name][0])

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


def relay_table(relay: Relay, *addresses: str) -> dict:
    """A relay in an agent's settings."""
    return {
        "name": relay.name,
        "public_key": relay.public_key,
        "addresses": relay.addresses,
        "endpoints": [endpoint(address) for address in addresses],
    }


def endpoint(address: str, port: int = PORT) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def endpoints(device: Device) -> dict[str, str]:
    """Where each of the device's peers is, by public key."""
    lines = device.host.run("wg", "show", device.interface, "endpoints").splitlines()
    return dict(line.split("\t") for line in lines)


class Watched:
    """A stream each way and one TCP connection, through all that happens."""

    def __init__(self, one: Device, other: Device):
        self.devices = (one, other)
        self.stream = Stream(one, other, rate=_RATE)
        self.connection = Connection(one, other)

    def since(self, moment: float) -> tuple[float, int]:
        """Return the longest time without delivered data since then, and the packets lost."""
        time.sleep(0.5)  # what is under way may still arrive
        gap = longest_gap(self.stream, moment)
        until = time.monotonic() - 0.5
        lost = (sent for direction in self.stream.directions for sent in direction.lost(until) if sent >= moment)
        return gap, sum(1 for _ in lost)

    def close(self) -> None:
        self.connection.close()
        self.stream.stop()

    def __enter__(self) -> Watched:
        self.stream.wait_flowing(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Journey:
    """Changes, one after the other, with traffic all the time."""

    def __init__(self, paths: Paths, watched: Watched, figure: Figure):
        self.paths = paths
        self.watched = watched
        self._figure = figure

    def change(
        self,
        what: str,
        make: Callable[[], object],
        kinds: str | tuple[str, str],
        goal: float,
        via: str | None = None,
        wait: float = 20,
        lost: bool = True,
    ) -> float:
        """Make a change, wait for the path that it leads to, note what it cost, and return how long it took."""
        moment, wall = time.monotonic(), time.time()
        make()
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        self.paths.wait(*kinds, via=via, seconds=wait, after=wall)
        took = time.monotonic() - moment
        time.sleep(_WATCHED)
        note = f", {took:.1f} s to {kinds[0]}"
        self._measure(what, moment, goal, lost, note)
        return took

    def undisturbed(self, what: str, make: Callable[[], object], seconds: float = _WATCHED, goal: float = 0.5) -> None:
        """Do something that moves nothing: the traffic shows no loss, and WireGuard sends where it sent before."""
        devices = self.watched.devices
        before, moment = [endpoints(device) for device in devices], time.monotonic()
        make()
        time.sleep(seconds)
        self._measure(what, moment, goal, False, "")
        for device, places in zip(devices, before, strict=True):
            now = endpoints(device)
            for other in devices:
                key = other.public_key
                assert now.get(key) == places.get(key), f"{what}: {device.name} reaches {other.name} otherwise"

    def _measure(self, what: str, moment: float, goal: float, lost: bool, note: str) -> None:
        gap, missing = self.watched.since(moment)
        self.watched.connection.check()
        wanted = f"gap < {goal:g} s" if lost else "none lost"
        self._figure(f"path: {what}", f"gap {gap * 1000:.0f} ms, {missing} lost{note}", wanted)
        assert gap < goal, what
        assert lost or not missing, what


def longest_gap(stream: Stream, moment: float) -> float:
    """Return the longest time without delivered data since then, in either direction."""
    return max(_gap(direction, moment) for direction in stream.directions)


def _gap(direction: Direction, moment: float) -> float:
    arrivals = sorted(at for at in list(direction.received.values()) if at >= moment)
    return max(later - earlier for earlier, later in itertools.pairwise([moment, *arrivals, time.monotonic()]))
