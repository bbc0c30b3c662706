# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay at home behind a router without hairpin NAT: a laptop works at home and away; names get other addresses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.agent import Agent
from harness.capture import Capture
from harness.paths import Figure, endpoint, endpoints, longest_gap, relay_table
from harness.processes import Process, wait_until
from harness.service import PORT, Relay
from harness.topology import Lab
from harness.traffic import Stream
from harness.wireguard import Device

_NAME = "home.example"


class Home:
    """The relay and a server at home, a laptop that travels, and a phone without agent that is always away."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.site = lab.site()
        self.away = lab.site()
        self.relay = Relay(self.site.host("homerelay", v6=True), lab.folder)
        self.inner_host = "192.168.1.11"  # the site's first host
        self.forward()
        places = {"server": self.site, "laptop": self.site, "phone": self.away}
        self.server, self.laptop, self.phone = self.devices = [
            Device(lab, site.host(name, v6=True), name, [f"10.77.1.{number}/32"])
            for number, (name, site) in enumerate(places.items(), 1)
        ]
        self.hosts = lab.folder / "hosts"
        self.name()
        self.agents: list[Agent] = []

    @property
    def public(self) -> str:
        return endpoint(self.site.wan_v4)

    @property
    def inner(self) -> str:
        return endpoint(self.inner_host)

    def name(self) -> None:
        """Have the DNS know home's address."""
        self.hosts.write_text(f"127.0.0.1 localhost\n{self.site.wan_v4} {_NAME}\n")

    def up(self, *places: str) -> None:
        """Start everything; the agents know these endpoints of the relay."""
        self.relay.register(*self.devices)
        self.relay.start()
        for device in self.devices:
            self.relay.connect(device, *self.devices, address=self.site.wan_v4)
        for device in (self.laptop, self.phone):
            # The server offers the LAN to the others, as in the example inventory.
            device.add_peer(self.server.public_key, self.public, ["10.77.1.1/32", "192.168.1.0/24"])
        for device in self.devices:
            device.up()
            if device is not self.server:
                device.host.ip(f"route add 192.168.1.0/24 dev {device.interface} metric 4096")
        relay = relay_table(self.relay) | {"endpoints": list(places)}
        for device in (self.server, self.laptop):
            agent = Agent(self.lab, device, [relay], self.devices)
            agent.hosts = self.hosts
            agent.start()
            self.agents.append(agent)

    def forward(self) -> None:
        """Forward the port, from outside only."""
        self.site.router.nft(
            "table ip forwards { chain prerouting { type nat hook prerouting priority dstnat; "
            f'iifname "wan0" udp dport {PORT} dnat to {self.inner}; }}; }}\n'
            "insert rule inet router forward ct status dnat accept"
        )

    def leave(self) -> None:
        self.away.welcome(self.laptop.host, self.site)

    def come_home(self) -> None:
        self.site.welcome(self.laptop.host, self.away)


@pytest.fixture
def home(lab: Lab) -> Iterator[Home]:
    made = Home(lab)
    yield made
    made.relay.stop()


def busy_seconds(process: Process) -> float:
    """What the process has used of a processor."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reaches(device: Device, relay: Relay) -> str:
    return endpoints(device)[relay.public_key]


def test_at_home_away_and_home_again(home: Home, figure: Figure) -> None:
    laptop = home.laptop
    home.up(home.public, home.inner)
    agent = home.agents[1]
    moves = [
        # WireGuard repeats a handshake after 5 s, and the first ones were lost at the router.
        ("at home, no hairpin", None, home.inner, "lan", 8),
        ("moves away", home.leave, home.public, "relay", 3),
        ("comes home", home.come_home, home.inner, "lan", 5),
    ]
    with Stream(laptop, home.phone, rate=50) as far, Stream(laptop, home.server, rate=50) as near:
        for what, move, place, kind, goal in moves:
            moment, wall, busy = time.monotonic(), time.time(), busy_seconds(laptop.process)
            if move:
                move()
            time.sleep(0.5)  # a moment in which packets may still come the way of before
            for stream in (far, near):
                stream.wait_flowing(30)
            time.sleep(1)
            to_phone, to_server = (longest_gap(stream, moment) for stream in (far, near))
            measured = f"gap {to_phone:.1f} s to the phone by relay, {to_server:.1f} s to the server"
            figure(f"home: laptop {what}", measured, f"< {goal} s")
            assert busy_seconds(laptop.process) - busy < 2, "packets go round in circles"
            wait_until("the relay is reached there", lambda wanted=place: reaches(laptop, home.relay) == wanted, 5)
            assert endpoints(laptop)[home.phone.public_key] == place, "one source for all"
            if kind == "lan":
                agent.wait_path(home.server, kind, seconds=20, after=wall - 5)
            assert to_phone < goal
            assert to_server < goal
    assert reaches(home.server, home.relay) == home.inner
    assert endpoints(home.phone)[home.relay.public_key] == home.public


def test_an_inner_address_of_ipv6(home: Home) -> None:
    inner = f"[2001:db8:1::11]:{PORT}"
    home.up(home.public, inner)
    with Stream(home.server, home.phone, rate=10) as stream:
        stream.wait_flowing(30)
    assert reaches(home.server, home.relay) == inner


def test_a_name_with_another_address(home: Home, figure: Figure) -> None:
    home.up(f"{_NAME}:{PORT}", home.inner)
    laptop = home.laptop
    home.leave()
    with Stream(laptop, home.phone, rate=50) as stream:
        stream.wait_flowing(30)
        assert reaches(laptop, home.relay) == home.public
        home.site.new_address()
        home.forward()
        home.away.router.ip("neigh flush dev wan0")  # the old address is nobody's
        time.sleep(8)  # the name is late, as names are
        home.name()
        moment = time.monotonic()
        wait_until("the agent knows", lambda: reaches(laptop, home.relay) == home.public, 20)
        took = time.monotonic() - moment
        home.phone.add_peer(home.relay.public_key, home.public, ["10.77.0.1/32"], 25)  # nobody does it for a phone
        home.phone.add_peer(laptop.public_key, home.public, ["10.77.1.2/32"])
        stream.wait_flowing(30)
    figure("home: has another address", f"{took:.1f} s after the DNS knows", "< 8 s")
    assert took < 8


def test_one_source_for_both_ip_versions(home: Home) -> None:
    """A name with addresses of both: a relay must not see a device at two places by turns."""
    inner_v6 = "2001:db8:1::11"
    home.hosts.write_text(f"{home.inner_host} {_NAME}\n{inner_v6} {_NAME}\n")
    with Capture(home.relay.host, "eth0", f"udp port {PORT}") as capture:
        home.up(f"{_NAME}:{PORT}")
        with Stream(home.server, home.laptop, rate=10) as stream:
            stream.wait_flowing(30)
            time.sleep(8)
        seen = capture.stop()
    port = int(home.server.host.run("wg", "show", home.server.interface, "listen-port"))
    half = (seen[0].time + seen[-1].time) / 2
    sources = {each.source[0] for each in seen if each.source[1] == port and each.time > half}
    assert sources == {"192.168.1.12"}
