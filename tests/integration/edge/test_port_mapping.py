# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The clients of PCP, NAT-PMP and UPnP with the real miniupnpd, and packets through what it maps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from harness.knocks import Knocks
from harness.miniupnpd import GATEWAY, INSIDE, INSIDE_V6, NEIGHBOR, WAN_ADDRESS, Home
from harness.netns import Namespace
from harness.processes import wait_until
from port_mapping import discovery, lifetime, stun
from port_mapping.mapping import Conflict, NoAddress, Refused, Unreachable, Wanted
from port_mapping.verdict import verdict

Figure = Callable[..., None]
METHODS = ["pcp", "nat-pmp", "upnp"]
WANTED = Wanted(40100, 40000, lease=600)
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


class Client:
    """A client of the library that makes its calls in a host's namespace."""

    def __init__(self, host: Namespace, method: str = "auto", family: int = 4):
        self._host = host
        with host.inside():
            self._client = discovery.find(method, family=family)

    def __getattr__(self, name: str) -> object:
        value = getattr(self._client, name)
        return self._inside(value) if callable(value) else value

    def _inside(self, call: Callable) -> Callable:
        def made(*arguments: object) -> object:
            with self._host.inside():
                return call(*arguments)

        return made


@EVERY_METHOD
def test_a_mapping_comes_lets_the_internet_in_and_goes(home: Home, knocks: Knocks, method: str) -> None:
    home.start()
    client = Client(home.inside, method)
    assert (client.method, client.gateway, client.local_address) == (method, GATEWAY, INSIDE)
    assert not knocks.received
    granted = client.map(WANTED)
    assert (granted.external_address, granted.external_port) == (WAN_ADDRESS, 40000)
    assert 590 < granted.lease <= 600
    knocks.wait_arriving()
    renewed = client.map(WANTED)
    # UPnP asks what is left of the lease, and a second may have begun meanwhile.
    assert (renewed.external_address, renewed.external_port) == (WAN_ADDRESS, 40000)
    assert 590 < renewed.lease <= 600
    client.map(replace(WANTED, protocol="tcp"))
    target = (INSIDE, 40100)
    assert home.mappings() == {("udp", 40000): target, ("tcp", 40000): target}
    client.unmap(WANTED)
    client.unmap(replace(WANTED, protocol="tcp"))
    client.unmap(WANTED)  # is gone: as good
    knocks.wait_silent()
    assert home.mappings() == {}


def test_the_first_protocol_that_answers_is_taken(home: Home) -> None:
    home.start()
    assert Client(home.inside).method == "pcp"
    home.router.nft("insert rule inet router input udp dport 5351 @th,64,8 2 drop")  # the version: no PCP any more
    assert Client(home.inside).method == "nat-pmp"
    home.stop()
    home.start("enable_natpmp=no")
    assert Client(home.inside).method == "upnp"


def test_a_router_that_opens_no_port_is_told_with_the_cure(home: Home, figure: Figure) -> None:
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"(?s)pcp.*nat-pmp.*upnp.*turn on UPnP or NAT-PMP"):
        Client(home.inside)
    closed = time.monotonic() - start
    home.router.nft('insert rule inet router input iifname "lan0" drop')
    start = time.monotonic()
    with pytest.raises(Unreachable):
        Client(home.inside)
    figure(
        "no router speaks any protocol: known after",
        f"ports closed {closed:.1f} s, silent {_since(start):.1f} s",
        "15 s",
    )
    assert _since(start) < 15


def _since(moment: float) -> float:
    return time.monotonic() - moment


@EVERY_METHOD
def test_the_port_of_somebody_else_is_left_to_them(home: Home, method: str) -> None:
    home.start()
    Client(home.neighbor, "upnp").map(WANTED)
    taken = home.mappings()
    assert taken == {("udp", 40000): (NEIGHBOR, 40100)}
    client = Client(home.inside, method)
    with pytest.raises(Conflict, match=r"40000") as refusal:
        client.map(WANTED)
    assert home.mappings() == taken, "nothing else either"
    if method == "upnp":
        assert NEIGHBOR in str(refusal.value)
        assert client.holder(WANTED)[:2] == (NEIGHBOR, 40100)
    client.unmap(WANTED)
    assert home.mappings() == taken
    assert client.map(replace(WANTED, external_port=40001)).external_port == 40001


@EVERY_METHOD
def test_the_port_that_a_rule_denies(home: Home, method: str) -> None:
    home.start("enable_natpmp=yes", "deny 40000 0.0.0.0/0 0-65535", "allow 1024-65535 192.168.1.0/24 1024-65535")
    client = Client(home.inside, method)
    # PCP and NAT-PMP have the same answer for a port that is taken.
    with pytest.raises(Refused if method == "upnp" else Conflict, match="rule"):
        client.map(WANTED)
    assert home.mappings() == {}


@pytest.mark.parametrize("method", ["pcp", "upnp"])  # for NAT-PMP the daemon logs the refusal of each of 65535 ports
def test_a_router_that_allows_this_host_no_port(home: Home, method: str) -> None:
    home.start("enable_natpmp=yes", "allow 1024-65535 192.168.1.12/32 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535")
    client = Client(home.inside, method)
    with pytest.raises(Refused if method == "upnp" else Conflict, match="rule"):
        client.map(WANTED)
    assert home.mappings() == {}
    assert Client(home.neighbor, method).map(WANTED).external_port == 40000


def test_a_lease_ends_unless_it_is_renewed(home: Home) -> None:
    home.start()
    leases = {
        Client(home.inside, method): replace(WANTED, internal_port=port, external_port=port, lease=2)
        for port, method in enumerate(METHODS, 40001)
    }
    ports = {("udp", wanted.external_port) for wanted in leases.values()}
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for client, wanted in leases.items():
            assert client.map(wanted).lease == 2
        assert home.mappings().keys() == ports
        time.sleep(0.5)
    wait_until("every lease has ended", lambda: not home.mappings(), 5)


@pytest.mark.parametrize("uptime", ["system_uptime=no", "system_uptime=yes"])
def test_a_restart_of_the_daemon_shows_in_the_signs_of_life(home: Home, uptime: str) -> None:
    """Even when its epoch is the machine's uptime, as it is on most routers: then its UPnP side tells."""
    settings = ("enable_natpmp=yes", uptime)
    home.start(*settings)
    clients = [Client(home.inside, method) for method in METHODS]
    first = [(client.look(), time.monotonic()) for client in clients]
    time.sleep(1)
    second = [(client.look(), time.monotonic()) for client in clients]
    assert not any(lifetime.restarted(*before, *after) for before, after in zip(first, second, strict=True))
    home.stop()
    time.sleep(1.2)  # starts are numbered by the second
    home.start(*settings)
    time.sleep(1)  # an epoch may go back by one second
    third = [(client.look(), time.monotonic()) for client in clients]
    assert all(lifetime.restarted(*before, *after) for before, after in zip(second, third, strict=True))


def test_another_external_address_is_seen(home: Home) -> None:
    home.start()
    clients = [Client(home.inside, method) for method in METHODS]
    for client in clients[1:]:
        assert client.look().external_address == WAN_ADDRESS
    home.move("11.22.33.121")
    for client in clients[1:]:
        wait_until("the other address", lambda c=client: c.look().external_address == "11.22.33.121", 5)
    assert clients[0].map(WANTED).external_address == "11.22.33.121"


@EVERY_METHOD
@pytest.mark.parametrize("address", ["100.64.0.5", "192.168.100.5"])
def test_a_router_without_a_public_address(home: Home, method: str, address: str) -> None:
    """It opens no port, and keeps its address to itself."""
    home.move(address)
    home.start()
    client = Client(home.inside, method)
    with pytest.raises(NoAddress, match=r"carrier-grade NAT.*cloud"):
        client.map(WANTED)
    assert home.mappings() == {}


@pytest.mark.parametrize("method", ["pcp", "upnp"])
def test_a_pinhole_lets_the_internet_in_by_ipv6(home: Home, method: str) -> None:
    home.start()
    client = Client(home.inside, method, family=6)
    wanted = Wanted(40000, 40000, family=6, lease=600)
    with Knocks(home.outside, (INSIDE_V6, 40000), home.inside, (INSIDE_V6, 40000)) as knocks:
        time.sleep(0.3)
        assert not knocks.received
        granted = client.map(wanted)
        assert (granted.external_address, granted.external_port) == (INSIDE_V6, 40000)
        knocks.wait_arriving()
        assert client.map(wanted).lease <= 600
        assert home.pinholes() == 1
        client.unmap(wanted)
        knocks.wait_silent()
    # What was renewed by PCP, this daemon lets nobody delete: the client has its lease end at once.
    wait_until("the pinhole is closed", lambda: not home.pinholes(), 5)


@pytest.fixture
def stun_server(home: Home) -> str:
    """A real STUN server in the Internet."""
    host = home.lab.relay_host
    words = "--stun-only --no-tls --no-dtls --no-cli --simple-log --log-file=stdout --listening-ip=203.0.113.10"
    home.lab.start(host.spawn("turnserver", *words.split(), f"--pidfile={home.lab.folder}/stun.pid", log="stun"))
    wait_until("coturn listens", lambda: ":3478" in host.run("ss", "-Hlun"), 10)
    return "203.0.113.10"


def test_the_address_that_others_see(home: Home, stun_server: str) -> None:
    """Another one than the router's own when the provider translates addresses."""
    with home.inside.inside():
        seen = stun.ask(stun_server)
        assert seen == WAN_ADDRESS
        assert verdict(WAN_ADDRESS, seen).kind == "public"
    home.lab.wan.nft(
        "table inet provider { chain postrouting { type nat hook postrouting priority srcnat;"
        " ip saddr 11.22.33.0/24 snat ip to 203.0.113.1; }; }"
    )
    with home.inside.inside():
        seen = stun.ask(stun_server)
        assert seen == "203.0.113.1"
        assert verdict(WAN_ADDRESS, seen).kind == "differs"
