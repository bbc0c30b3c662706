# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registered devices forge source addresses: nobody loses his place, nothing circles, and what they cost is bounded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.capture import Capture, udp_socket
from harness.client import Client, random_index, transport
from harness.forger import Forger, Place
from harness.netns import Namespace
from harness.offload import offloaded, wait_offloaded
from harness.processes import wait_until
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, RELAY_V6, STRANGER_V4, Lab
from harness.traffic import Stream
from harness.wireguard import Device
from peer_common import packets

Figure = Callable[..., None]
_STRANGER_V6 = "2001:db8:ffff::66"
_RELAYS = {  # two addresses of each relay
    4: [RELAY_V4, ("203.0.113.12", "203.0.113.13")],
    6: [(RELAY_V6, "2001:db8:ffff::11"), ("2001:db8:ffff::12", "2001:db8:ffff::13")],
}
_PLANES = pytest.mark.parametrize("plane", ["userspace", "kernel"])
_FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def stranger(lab: Lab) -> Namespace:
    host = lab.stranger()
    host.ip(f"addr add {_STRANGER_V6}/64 dev eth0 nodad")
    return host


def client(stack: contextlib.ExitStack, host: Namespace, family: int, number: int, relay: Place) -> Client:
    """Make a device in the stranger's hands, of another group than everybody."""
    end = stack.enter_context(udp_socket(host, STRANGER_V4 if family == 4 else _STRANGER_V6))
    return Client(f"mallory{number}", f"10.77.2.{number}", end, relay)


def admit(relay: Relay, *clients: Client, rate_limit_mbit: float = 0) -> None:
    for made in clients:
        relay.registrations[made.name] = registration = made.registration()
        registration.groups, registration.rate_limit_mbit = ["others"], rate_limit_mbit


def bound(relay: Relay, *clients: Client) -> None:
    for made in clients:
        made.register(relay.public_key)
    wait_until("all are bound", lambda: all(relay.device(made.name)["state"] == "bound" for made in clients), 5)


def place(endpoint: str) -> Place:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def dropped(relay: Relay, reason: str) -> int:
    return relay.status()["drops"].get(reason, {}).get("packets", 0)


@_FAMILIES
@_PLANES
def test_forged_keepalives_take_nobodys_place(
    lab: Lab, relay: Relay, stranger: Namespace, figure: Figure, plane: str, family: int
) -> None:
    relay.data_plane = plane
    at = RELAY_V4[0] if family == 4 else RELAY_V6
    devices = [
        Device(lab, lab.site().host(name, family == 4, family == 6), name, [f"10.77.1.{number}/32"])
        for number, name in enumerate(("ann", "bob"), 1)
    ]
    ann, bob = devices
    with contextlib.ExitStack() as stack:
        mallory = client(stack, stranger, family, 1, (at, PORT))
        relay.register(*devices)
        admit(relay, mallory)
        relay.start()
        for device in devices:
            relay.connect(device, *devices, address=at)
            device.up()
        relay.wait_bound(*devices)
        bound(relay, mallory)
        forger = stack.enter_context(Forger(stranger))
        with Stream(ann, bob, rate=100) as stream:
            wait_offloaded(stream, relay) if plane == "kernel" else stream.wait_flowing()
            moment, home = time.monotonic(), relay.endpoint("ann")
            own = relay.endpoint("mallory1")
            for _ in range(100):
                forger.send(mallory.session.seal(b""), place(home), (at, PORT))
                time.sleep(0.04)
            assert relay.endpoint("ann") == home
            assert plane == "userspace" or offloaded(relay)
        lost = sum(sent > moment for direction in stream.directions for sent in direction.lost())
        assert relay.endpoint("mallory1") == own
    figure(
        f"forged keepalives (IPv{family}, {plane})", f"{dropped(relay, 'address_unproven')} refused, {lost} lost", "0"
    )
    assert dropped(relay, "address_unproven") == 100
    assert lost == 0


@pytest.fixture
def relays(lab: Lab, relay: Relay, tmp_path: Path) -> Iterator[list[Relay]]:
    """Two relays with two addresses of each family. Their hosts believe sources that are their own, as for IPv6."""
    second = lab.namespace("relay2")
    lab.attach(second, "eth0")
    (tmp_path / "second").mkdir()
    other = Relay(second, tmp_path / "second", name="relay2")
    for number, host in enumerate((lab.relay_host, second)):
        host.sysctl(net__ipv4__conf__all__accept_local=1, net__ipv4__conf__eth0__accept_local=1)
        host.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__eth0__rp_filter=0)
        host.ip(
            *(f"addr replace {address}/24 dev eth0" for address in _RELAYS[4][number]),
            *(f"addr replace {address}/64 dev eth0 nodad" for address in _RELAYS[6][number]),
        )
    try:
        yield [relay, other]
    finally:
        other.remove()


def circle(relays: list[Relay], stranger: Namespace, family: int, plane: str, hops: list[tuple[str, str]]) -> int:
    """Bind two devices at relays' addresses, as far as that goes, and send 20 packets there once.

    hops[n] are a forged source and the address of a relay's that it writes to; the devices take them in turn. Return
    how many packets the relays have forwarded then.
    """
    with contextlib.ExitStack() as stack:
        forger = stack.enter_context(Forger(stranger))
        mallories = [client(stack, stranger, family, number, ("", PORT)) for number in (1, 2)]
        index = random_index()
        for relay in relays:
            relay.data_plane = plane
            admit(relay, *mallories)
            relay.start()
            own = _RELAYS[family][relay.name == "relay2"]
            for mallory in mallories:
                mallory.relay = (own[0], PORT)
            bound(relay, *mallories)
            # The same index both ways.
            mallories[0].call(mallories[1], index, index)
            homes = [relay.endpoint(mallory.name) for mallory in mallories]
            here = [hop for hop in hops if hop[1] in own]
            for _ in range(5):
                for mallory, (source, local) in zip(mallories, here, strict=True):
                    forger.send(mallory.session.seal(b""), (source, PORT), (local, PORT))
                time.sleep(0.3)
            assert [relay.endpoint(mallory.name) for mallory in mallories] == homes
        for number in range(20):
            for source, local in hops:
                forger.send(transport(index, number, 100), (source, PORT), (local, PORT))
        time.sleep(2)
        pairs = [pair for relay in relays for pair in relay.status()["pairs"]]
    return sum(pair["packets"] for pair in pairs)


@_FAMILIES
@_PLANES
def test_nothing_circles_in_a_relay(relays: list[Relay], stranger: Namespace, plane: str, family: int) -> None:
    one, other = _RELAYS[family][0]
    assert circle(relays[:1], stranger, family, plane, [(one, other), (other, one)]) == 0


@_FAMILIES
@_PLANES
def test_nothing_circles_between_two_relays(relays: list[Relay], stranger: Namespace, plane: str, family: int) -> None:
    (a1, a2), (b1, b2) = _RELAYS[family]
    assert circle(relays, stranger, family, plane, [(b1, a2), (b2, a1), (a1, b2), (a2, b1)]) == 0


@_PLANES
def test_alternating_ports_cost_a_bounded_number_of_moves(
    relay: Relay, stranger: Namespace, figure: Figure, plane: str
) -> None:
    relay.data_plane = plane
    with contextlib.ExitStack() as stack:
        ann, bob = (client(stack, stranger, 4, number, (RELAY_V4[0], PORT)) for number in (1, 2))
        admit(relay, ann, bob)
        relay.start()
        bound(relay, ann, bob)
        ann.call(bob, random_index(), random_index())
        ends = [ann.end, stack.enter_context(udp_socket(stranger, STRANGER_V4))]
        begun = time.monotonic()
        for number in range(1000):
            ends[number % 2].sendto(ann.session.seal(b""), ann.relay)
            time.sleep(0.003)
        wait_until("all have arrived", lambda: relay.device(ann.name)["rx_packets"] > 1000, 5)
        allowed = 10 + (time.monotonic() - begun) * 0.2 + 1
    moves = relay.log().count("mallory1: moved to")
    figure(f"1,000 keepalives from two ports in turn ({plane})", f"{moves} moves", "at most 10 and one in 5 s")
    assert 0 < moves <= allowed
    assert dropped(relay, "moves_limited") > 400


def test_limited_device_sends_no_more_by_initiations(relay: Relay, stranger: Namespace, figure: Figure) -> None:
    """To forty devices, so that the limit of a pair is not what holds."""
    with contextlib.ExitStack() as stack:
        ann, *others = (client(stack, stranger, 4, number, (RELAY_V4[0], PORT)) for number in range(1, 42))
        admit(relay, ann, rate_limit_mbit=0.1)
        admit(relay, *others)
        relay.start()
        bound(relay, ann, *others)
        ready = [ann.initiation(other.identity.public, random_index()).datagram for other in others]
        with Capture(relay.host, "eth0") as capture:
            begun = time.monotonic()
            while time.monotonic() < begun + 5:
                for datagram in ready:
                    ann.send(datagram)
                time.sleep(0.01)
            took = time.monotonic() - begun
            seen = capture.stop()
    sizes = {True: 0, False: 0}  # in, out
    for datagram in seen:
        if datagram.kind == packets.INITIATION:
            sizes[datagram.destination[0] == RELAY_V4[0]] += len(datagram.payload)
    rate = sizes[False] * 8 / took / 1e6
    figure("limit of 0.1 Mbit/s, initiations", f"{rate:.2f} of {sizes[True] * 8 / took / 1e6:.2f} Mbit/s pass", "0.34")
    # The burst that every device has, what handshakes may run ahead, and the rate; what waited in the socket is late.
    most = 131_072 + 16_384 + (took + 2) * 12_500
    assert sizes[True] > 2 * most
    assert 0 < sizes[False] <= most
    assert relay.device(ann.name)["drops"]["rate_limited"]
