# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a device's file sets up beside its interface: nothing leaks when somebody removes some of it, and it comes back.

The real rules, packet filter and guard, with a veth pair for the tunnel: "exit" is at its other end.
"""

from __future__ import annotations

import base64
import json
import runpy
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jinja2
import pytest
from ansible.plugins.filter.core import FilterModule as CoreFilters
from ansible.plugins.test.core import TestModule as CoreTests
from harness.netns import Namespace, link
from harness.processes import Process, wait_until

ROOT = Path(__file__).parents[3]
runpy.run_path(str(ROOT / "tests/unit/conftest.py"))  # makes the collection importable

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import (
    EXIT_TABLE,
    OFFERED_MARK,
    Interface,
    render,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import word

OUT, OUT6, OFFERED, OTHER, SERVICE = "203.0.113.9", "2001:db8:9::9", "10.43.0.10", "10.99.0.10", "10.96.0.10"
ALL = (28783, 28784, 28785, 28786, 28787)


class Device:
    """A namespace with the tunnel "pr0", an uplink "wan0", and two networks behind it, one of which it offers."""

    def __init__(self, folder: Path):
        self.files = folder / "wireguard"
        self.files.mkdir()
        self.host, self.exit, self.world, self.lan, self.other = self.all = [
            Namespace(label, folder) for label in ("device", "exit", "world", "lan", "other")
        ]
        for name, other in (("pr0", self.exit), ("wan0", self.world), ("lan0", self.lan), ("other0", self.other)):
            link(self.host, name, other, "eth0")
        self.host.ip(
            "addr add 10.77.1.1/16 dev pr0",
            "addr add 192.168.1.2/24 dev wan0",
            "addr add 2001:db8:1::2/64 dev wan0",
            "addr add 10.43.0.1/24 dev lan0",
            "addr add 10.99.0.1/24 dev other0",
            "route add default via 192.168.1.1",
            "route add default via 2001:db8:1::1",
        )
        self.host.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__all__src_valid_mark=1)
        for name in ("lan0", "other0"):
            self.host.sysctl(**{f"net__ipv4__conf__{name}__rp_filter": 1})
        self.exit.ip("addr add 10.77.0.2/16 dev eth0", f"addr add {OUT}/32 dev lo")
        self.exit.ip(
            *(f"route add {network} via 10.77.1.1" for network in ("10.43.0.0/24", "10.99.0.0/24", "10.96.0.0/16"))
        )
        self.world.ip("addr add 192.168.1.1/24 dev eth0", "addr add 2001:db8:1::1/64 dev eth0")
        self.world.ip(f"addr add {OUT}/32 dev lo", f"addr add {OUT6}/128 dev lo")
        self.lan.ip("addr add 10.43.0.10/24 dev eth0", "route add default via 10.43.0.1")
        self.other.ip("addr add 10.99.0.10/24 dev eth0", "route add default via 10.99.0.1")
        self.guard: Process | None = None

    def set_up(self, exit_node: bool, offered: list[str]) -> None:
        """As the role has it."""
        keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
        networks = [["10.77.0.1/32"], ["10.77.0.2/32", *(["0.0.0.0/0"] if exit_node else [])]]
        peers = [
            {"name": name, "public_key": key, "endpoint": "192.0.2.1:40000", "inner_endpoint": ""}
            | {"allowed_ips": allowed, "persistent_keepalive": 0}
            for name, key, allowed in zip(("relay", "exit"), keys, networks, strict=True)
        ]
        options = {"name": "pr0", "mtu": 1420, "private_key_file": None, "listen_port": 0, "keep_endpoints": False}
        options |= {"addresses": ["10.77.1.1/16"], "peers": peers, "offered_only": bool(offered)}
        options |= {"post_up": ["nft --file /etc/wireguard/pr0.nft"], "pre_down": ["nft delete table inet pr0"]}
        (self.files / "pr0.conf").write_text(render(Interface.from_options(options)))
        made = jinja2.Environment(trim_blocks=True, autoescape=False)
        made.filters |= CoreFilters().filters() | {"homelab.peer_relay.word": word}
        made.tests |= CoreTests().tests()
        (self.files / "pr0.nft").write_text(
            made.from_string((ROOT / "roles/peer/templates/table.nft.j2").read_text()).render(
                peer_interface="pr0",
                peer_networks=["10.77.0.0/16"],
                peer_subnets=offered,
                peer_exit_node=False,
                __peer_forwards=bool(offered),
                __peer_restricted=bool(offered),
                __peer_uses_exit_node=exit_node,
                __peer_wanted={"addresses": ["10.77.1.1/16"]},
                __peer_mark=EXIT_TABLE,
                __peer_offered_mark=OFFERED_MARK,
            )
        )
        self.hooks("PostUp")

    def hooks(self, name: str) -> None:
        for line in (self.files / "pr0.conf").read_text().splitlines():
            key, _equals, command = line.partition(" = ")
            if key == name and "private-key" not in command:
                self.sh(command.replace("%i", "pr0"))

    def sh(self, command: str) -> str:
        return self.host.run("sh", "-ec", f"mount --bind {self.files} /etc/wireguard; {command}")

    def start_guard(self) -> None:
        command = f"mount --bind {self.files} /etc/wireguard; cd {ROOT}/services; exec python3 -m peer_guard pr0"
        self.guard = self.host.spawn("sh", "-ec", command, log="guard")

    def reaches(self, address: str, source: Namespace | None = None) -> bool:
        command = ["ip", "netns", "exec", (source or self.host).name, "ping", "-n", "-q", "-c", "1", "-W", "1", address]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def left_by_uplink(self, *addresses: str) -> int:
        """How many packets to the addresses arrive where the uplink leads."""
        rules = f"ip daddr {OUT} counter name out\nip6 daddr {OUT6} counter name out\n"
        chain = f"chain c {{ type filter hook input priority 0;\n{rules}}}\n"
        self.world.nft(f"table inet seen\ndelete table inet seen\ntable inet seen {{ counter out {{}}\n{chain}}}\n")
        for address in addresses:
            self.reaches(address)
        listing = json.loads(self.world.run("nft", "-j", "list", "counter", "inet", "seen", "out"))
        return int(listing["nftables"][1]["counter"]["packets"])

    def rules(self, version: int) -> list[int]:
        found = [rule["priority"] for rule in json.loads(self.host.run("ip", "-j", f"-{version}", "rule"))]
        return [priority for priority in found if priority in ALL]

    def has_table(self) -> bool:
        return "chain" in self.host.run("sh", "-c", "nft list table inet pr0 2>&1 || true")

    def remove(self) -> None:
        if self.guard:
            self.guard.stop()
        for namespace in self.all:
            namespace.remove()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    Path("/etc/wireguard").mkdir(exist_ok=True)
    made = Device(tmp_path)
    yield made
    made.remove()


LOSSES = [
    *(f"ip rule del priority {priority}" for priority in ALL[2:]),
    "ip -6 rule del priority 28786",
    "ip route flush table 28786",
    "ip route del default dev pr0 table 28786",
    "ip link del pr0",
    "ip link set pr0 down",
    "nft flush ruleset",
]


@pytest.mark.parametrize("loss", ["true", *LOSSES])
def test_nothing_leaves_around_the_exit_node(device: Device, loss: str) -> None:
    assert device.left_by_uplink(OUT, OUT6) > 1
    device.set_up(exit_node=True, offered=[])
    assert device.reaches(OUT), "by the exit node"
    device.host.run("sh", "-c", loss)
    left = device.left_by_uplink(OUT, OUT6)
    # Both default routes of a table at once are the guard's to put back.
    assert left == 0 or loss == "ip route flush table 28786"
    assert device.reaches("192.168.1.1") or "28785" in loss, "local networks stay"
    assert device.reaches("2001:db8:1::1")


def test_sockets_of_a_link_keep_it(device: Device) -> None:
    device.set_up(exit_node=True, offered=[])
    assert "dev wan0" in device.host.run("ip", "route", "get", OUT, "oif", "wan0")
    assert "dev wan0" in device.host.run("ip", "route", "get", OUT, "mark", str(EXIT_TABLE))
    assert "dev pr0" in device.host.run("ip", "route", "get", OUT)


def test_going_down_takes_all_away(device: Device) -> None:
    device.set_up(exit_node=True, offered=["10.43.0.0/24"])
    assert device.rules(4) == device.rules(6) == list(ALL)
    device.hooks("PreDown")
    assert device.rules(4) == device.rules(6) == []
    assert not device.has_table()
    device.host.ip("link set pr0 down")
    assert not device.host.run("sh", "-c", "ip route show table 28786 2>/dev/null || true")


@pytest.mark.parametrize(
    "loss",
    [
        "true",
        "nft flush ruleset",
        "nft delete table inet pr0",
        "nft flush table inet pr0",
        "nft flush chain inet pr0 forward",
        "ip rule del priority 28783",
        "ip rule del priority 28784",
    ],
)
def test_only_what_is_offered_is_let_in(device: Device, loss: str) -> None:
    assert device.reaches(OTHER, device.exit), "the host forwards"
    device.set_up(exit_node=False, offered=["10.43.0.0/24"])
    assert device.reaches(OFFERED, device.exit)
    device.host.run("sh", "-c", loss)
    assert not device.reaches(OTHER, device.exit)
    if "nft" not in loss and "28783" not in loss:
        assert device.reaches(OFFERED, device.exit)


def test_connections_of_those_behind_are_answered(device: Device) -> None:
    """In a network that is not offered, behind the strictest reverse path filter, by somebody's own masquerade."""
    device.set_up(exit_node=False, offered=["10.43.0.0/24"])
    post = 'type nat hook postrouting priority srcnat; oifname "pr0" masquerade;'
    device.host.nft(f"table ip own {{ chain post {{ {post} }}\n}}")
    assert device.reaches("10.77.0.2", device.other)


def test_a_service_network_is_translated_on_the_device(device: Device) -> None:
    """As kube-proxy does: the service's address is offered, the pod's is not."""
    device.set_up(exit_node=False, offered=["10.96.0.0/16"])
    pre = f"type nat hook prerouting priority dstnat; ip daddr {SERVICE} dnat to {OTHER};"
    device.host.nft(f"table ip own {{ chain pre {{ {pre} }}\n}}")
    assert device.reaches(SERVICE, device.exit)
    assert not device.reaches(OTHER, device.exit)


@pytest.mark.parametrize(
    "loss",
    [
        *LOSSES[:6],
        "ip link set pr0 down; ip link set pr0 up",
        "nft flush ruleset",
        "nft flush chain inet pr0 forward",
        "for p in 28783 28784 28785 28786 28787; do ip -4 rule del priority $p; ip -6 rule del priority $p; done; "
        "nft flush ruleset",
    ],
)
def test_the_guard_puts_back_what_is_missing(
    device: Device, loss: str, figure: Callable[[str, str, str], None]
) -> None:
    device.set_up(exit_node=True, offered=["10.43.0.0/24"])
    device.start_guard()
    listing = device.host.run("nft", "--stateless", "list", "ruleset")
    routes = device.host.run("ip", "route", "show", "table", "28786")

    def whole() -> bool:
        return (
            device.rules(4) == device.rules(6) == list(ALL)
            and device.host.run("nft", "--stateless", "list", "ruleset") == listing
            and device.host.run("sh", "-c", "ip route show table 28786 2>/dev/null || true") == routes
        )

    guard = device.guard
    assert guard
    device.host.run("ip", "rule", "del", "priority", "28787")
    wait_until("the guard is at work", whole, 30)
    device.host.run("sh", "-c", loss)
    took = wait_until(f"all is back after '{loss}'", whole, 10)
    figure(f"put back after: {loss[:60]}", f"{took:.2f} s", "1 s")
    assert "somebody removed, and this put back" in guard.text()
    assert device.left_by_uplink(OUT, OUT6) == 0
    assert device.reaches(OUT)
    assert device.reaches(OFFERED, device.exit)
    assert guard.memory() < 32 << 20


@pytest.mark.parametrize("damage", ["flush table inet pr0", "delete chain inet pr0 forward", "delete table inet pr0"])
def test_what_was_damaged_before_the_guard_looked_is_put_right(device: Device, damage: str) -> None:
    device.set_up(exit_node=False, offered=["10.43.0.0/24"])
    listing = device.host.run("nft", "--stateless", "list", "ruleset")
    device.host.run("nft", *damage.split())
    device.start_guard()
    wait_until("the table is whole", lambda: device.host.run("nft", "--stateless", "list", "ruleset") == listing, 20)
    assert device.reaches(OFFERED, device.exit)
    assert not device.reaches(OTHER, device.exit)
