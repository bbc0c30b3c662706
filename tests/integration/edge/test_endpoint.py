# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay at home behind a router without hairpin NAT: a laptop works at home and away, and finds its way by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.netns import Namespace
from harness.processes import Process, wait_until
from harness.service import ADDRESSES, PORT, Relay
from harness.topology import Lab
from harness.traffic import Stream
from harness.wireguard import Device

Figure = Callable[..., None]
SCRIPT = Path(__file__).parents[3] / "roles" / "peer" / "files" / "endpoint.sh"
# It looks every 10 s, gives the relay 4 s to answer, and switches: 15 s, and some for a busy machine.
CHANGE_OVER = 20.0


def watch(device: Device, relay: Relay, public: str, inner: str, hosts: Path | None = None) -> Process:
    """Run the watcher as its unit does; `hosts` stands in for /etc/hosts."""
    words = ["sh", str(SCRIPT), device.interface, relay.public_key, public, inner, ADDRESSES[0]]
    if hosts:
        words = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "-", *words]
    return device.host.spawn(*words, log=f"watcher-{device.name}")


class Home:
    """The relay and a server at home, a laptop that travels, and a device that is always away."""

    def __init__(self, lab: Lab):
        self.site = lab.site()
        self.away = lab.site()
        host = self.site.host("homerelay", v6=True)
        self.relay = Relay(host, lab.folder)
        self.inner_host = "192.168.1.11"  # the site's first host
        self.inner = f"{self.inner_host}:{PORT}"
        self.forward()
        places = {"server": self.site, "laptop": self.site, "phone": self.away}
        self.server, self.laptop, self.phone = self.devices = [
            Device(lab, site.host(name, v6=True), name, [f"10.77.1.{number}/32"])
            for number, (name, site) in enumerate(places.items(), 1)
        ]
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

    @property
    def public(self) -> str:
        return f"{self.site.wan_v4}:{PORT}"

    def forward(self) -> None:
        """Forward the port, from outside only."""
        self.site.router.nft(
            "table ip forwards { chain prerouting { type nat hook prerouting priority dstnat; "
            f'iifname "wan0" udp dport {PORT} dnat to {self.inner}; }}; }}\n'
            "insert rule inet router forward ct status dnat accept"
        )

    def leave(self) -> None:
        self.away.welcome(self.laptop.host, self.site)
        self.laptop.rebind()

    def come_home(self) -> None:
        self.site.welcome(self.laptop.host, self.away)
        self.laptop.rebind()


@pytest.fixture
def home(lab: Lab) -> Iterator[Home]:
    made = Home(lab)
    yield made
    made.relay.stop()


def endpoints(device: Device) -> set[str]:
    """Where the device's peers are."""
    lines = device.host.run("wg", "show", device.interface, "endpoints").splitlines()
    return {line.split("\t")[1] for line in lines}


def busy_seconds(process: Process) -> float:
    """What the process has used of a processor."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rules(host: Namespace) -> str:
    return host.run("ip", "rule", "show", "to", "192.168.1.11")


def test_at_home_away_and_home_again(home: Home, lab: Lab, figure: Figure) -> None:
    laptop = home.laptop
    watchers = [lab.start(watch(device, home.relay, home.public, home.inner)) for device in home.devices]
    moves = [
        ("at home, no hairpin", None, home.inner),
        ("moves away", home.leave, home.public),
        ("comes home", home.come_home, home.inner),
    ]
    with Stream(laptop, home.phone, rate=10) as far, Stream(laptop, home.server, rate=10) as near:
        for what, move, endpoint in moves:
            moment, busy = time.monotonic(), busy_seconds(laptop.process)
            if move:
                move()
            for stream in (far, near):
                stream.wait_flowing(30)
            took = max(stream.back_after(moment) for stream in (far, near))
            figure(f"watcher: laptop {what}", f"{took:.1f} s", f"< {CHANGE_OVER:g} s")
            assert took < CHANGE_OVER
            assert busy_seconds(laptop.process) - busy < 2, "packets go round in circles"
            wait_until("all peers follow", lambda wanted=endpoint: endpoints(laptop) == {wanted}, 3)
    assert endpoints(home.phone) == {home.public}
    assert endpoints(home.server) == {home.inner}
    assert rules(laptop.host)
    for watcher in watchers:
        assert watcher.stop() == 0
    assert not rules(laptop.host)


def test_an_inner_address_of_ipv6(home: Home, lab: Lab) -> None:
    inner = f"[2001:db8:1::11]:{PORT}"
    lab.start(watch(home.server, home.relay, home.public, inner))
    with Stream(home.server, home.phone, rate=10) as stream:
        stream.wait_flowing(30)
    assert endpoints(home.server) == {inner}


def test_a_name_with_a_new_address_is_found(home: Home, lab: Lab, figure: Figure) -> None:
    hosts = lab.folder / "hosts"
    hosts.write_text(f"{home.site.wan_v4} home.example\n")
    for device in (home.server, home.phone):
        lab.start(watch(device, home.relay, f"home.example:{PORT}", home.inner, hosts))
    with Stream(home.phone, home.server, rate=10) as stream:
        stream.wait_flowing(30)
        home.site.new_address()
        home.forward()
        home.away.router.ip("neigh flush dev wan0")  # the old address is nobody's
        time.sleep(10)  # the name is late, as names are
        hosts.write_text(f"{home.site.wan_v4} home.example\n")
        moment = time.monotonic()
        stream.wait_flowing(30)
    took = stream.back_after(moment)
    figure("watcher: home has another address", f"{took:.1f} s after the DNS knows", f"< {CHANGE_OVER:g} s")
    assert took < CHANGE_OVER
    assert endpoints(home.phone) == {home.public}


def test_an_interface_that_goes_and_comes(home: Home, lab: Lab) -> None:
    laptop = home.laptop
    watcher = lab.start(watch(laptop, home.relay, home.public, home.inner))
    with Stream(laptop, home.phone, rate=10) as stream:
        stream.wait_flowing(30)
        laptop.host.ip(f"link set {laptop.interface} down")
        time.sleep(16)  # it tries, and in vain
        laptop.host.ip(f"link set {laptop.interface} up", f"route add 10.77.0.0/16 dev {laptop.interface}")
        stream.wait_flowing(30)
    laptop.process.stop()
    time.sleep(11)
    assert watcher.running, "it waits for the interface"
    assert watcher.stop() == 0
