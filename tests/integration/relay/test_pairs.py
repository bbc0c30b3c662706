# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs of stock devices reach each other through the relay, and it answers ping itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from harness.capture import Capture
from harness.service import ADDRESSES, PORT, Relay
from harness.topology import RELAY_V6, Lab
from harness.traffic import Stream
from harness.trio import Trio
from harness.wireguard import Device

Figure = Callable[..., None]
_FIRST_HANDSHAKE = 1.0  # seconds from both devices being registered to the pair's first packet
_TYPES = {1: 148, 2: 92, 3: 64}


def test_all_pairs_up_and_only_wireguard_on_the_wire(trio: Trio, figure: Figure) -> None:
    marker = "the-known-plaintext"
    with Capture(trio.relay.host, "eth0", "udp or tcp") as capture:
        trio.up()
        for one, other in itertools.permutations(trio.devices, 2):
            for address in other.addresses:
                one.host.run("ping", "-c", "1", "-W", "3", "-p", marker.encode().hex()[:32], address.split("/")[0])
        for device in trio.devices:
            for address in ADDRESSES:
                device.host.run("ping", "-c", "1", "-W", "3", address)
        seen = capture.stop()
    up = {(pair["from"], pair["to"]) for pair in trio.relay.status()["pairs"] if pair["state"] == "up"}
    figure("three stock devices: pairs up", f"{len(up)} directions", "6")
    assert len(up) == 6
    assert all(min(device.handshakes().values()) for device in trio.devices)
    assert seen
    for datagram in seen:
        assert PORT in (datagram.source[1], datagram.destination[1])
        size = len(datagram.payload)
        assert size >= 32 if datagram.kind == 4 else size == _TYPES[datagram.kind]
        assert marker.encode()[:8] not in datagram.payload


def _registered_to_first_packet(trio: Trio, delay: float) -> float:
    """Bring up two devices, the second one `delay` later, with traffic waiting; return seconds to the first packet."""
    ann, bob = trio.devices[:2]
    with Stream(ann, bob, rate=20) as stream:
        ann.up()
        time.sleep(delay)
        moment = time.monotonic()
        bob.up()
        stream.wait_flowing()
    return stream.back_after(moment)


@pytest.mark.parametrize(("label", "delay"), [("both at once", 0.0), ("one 3 s later", 3.0)])
def test_first_handshake_needs_no_retry(trio: Trio, figure: Figure, label: str, delay: float) -> None:
    took = _registered_to_first_packet(trio, delay)
    figure(f"first pair handshake, {label}", f"{took:.2f} s", f"< {_FIRST_HANDSHAKE:g} s")
    assert took < _FIRST_HANDSHAKE


def test_v4_only_and_v6_only_devices_meet(lab: Lab, relay: Relay, figure: Figure) -> None:
    four = Device(lab, lab.site().host("four", v4=True, v6=False), "four", ["10.77.1.1/32", "fd77:7065:6572::1:1/128"])
    six = Device(lab, lab.site().host("six", v4=False, v6=True), "six", ["10.77.1.2/32", "fd77:7065:6572::1:2/128"])
    relay.register(four, six)
    relay.start()
    relay.connect(four, six)
    relay.connect(six, four, address=RELAY_V6)
    four.up()
    six.up()
    relay.wait_bound(four, six)
    # 1312 bytes in the tunnel fit 1420 with IPv6 inside; the relay must pass full-size packets across families.
    with Stream(four, six, size=1372) as v4, Stream(six, four, size=1352, family=1) as v6:
        v4.wait_flowing()
        v6.wait_flowing()
        moment = time.monotonic()
        time.sleep(1)
    lost = [sent for direction in (*v4.directions, *v6.directions) for sent in direction.lost() if sent > moment]
    figure("v4-only and v6-only device, full-size packets", f"{len(lost)} of {v4.sent() + v6.sent()} lost", "0")
    assert not lost
    assert relay.endpoint("six").startswith("[2001:db8:")
    assert relay.endpoint("four").startswith("203.0.113.")
