# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices change address, sleep, lose packets or lose the network; their tunnels come back by themselves."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Callable

import pytest
from harness.capture import Capture
from harness.processes import wait_until
from harness.service import PORT
from harness.topology import RELAY_V4, Site
from harness.traffic import Stream
from harness.trio import Trio
from harness.wireguard import KEEPALIVE
from peer_relay.wireguard.noise import tai64n

Figure = Callable[..., None]
_REBIND = 2.0  # seconds until traffic is back after a NAT rebinding


@pytest.mark.parametrize("change", [Site.new_ports, Site.new_address], ids=["port", "address"])
@pytest.mark.parametrize("talker", ["both", "device"])
def test_nat_rebinding(trio_up: Trio, figure: Figure, change: Callable[[Site], None], talker: str) -> None:
    ann, bob = trio_up.devices[:2]
    with Stream(ann, bob, rate=5) as stream:
        stream.wait_flowing()
        if talker == "device":  # nobody sends to it: its own packets alone must bring it back
            stream.only_there()
        before = trio_up.relay.endpoint("ann")
        moment = time.monotonic()
        change(trio_up.sites[0])
        stream.wait_flowing(10)
    took = stream.back_after(moment)
    figure(f"NAT rebinding ({change.__name__}, {talker} sending)", f"{took:.2f} s", f"< {_REBIND:g} s")
    assert trio_up.relay.endpoint("ann") != before
    assert took < _REBIND


def test_roaming_to_another_site(trio_up: Trio, figure: Figure) -> None:
    ann, bob = trio_up.devices[:2]
    with Stream(ann, bob, rate=10) as stream:
        stream.wait_flowing()
        moment = time.monotonic()
        trio_up.sites[2].welcome(ann.host, trio_up.sites[0])
        ann.rebind()
        stream.wait_flowing(10)
    took = stream.back_after(moment)
    figure("roaming to another site", f"{took:.2f} s", f"< {_REBIND:g} s")
    assert trio_up.relay.endpoint("ann").startswith(trio_up.sites[2].wan_v4)
    assert trio_up.relay.device("ann")["key_used_at"] == []
    assert took < _REBIND


def test_device_moves_to_the_relays_second_address(trio_up: Trio, figure: Figure) -> None:
    ann, bob, _ = trio_up.devices
    relay = trio_up.relay
    with Stream(ann, bob, rate=10) as stream, Capture(relay.host, "eth0", f"udp port {PORT}") as capture:
        stream.wait_flowing()
        moment, wall = time.monotonic(), time.time()
        # The first address is no longer reached from there, or its late packets would lead the device back to it.
        trio_up.sites[0].partition_from(RELAY_V4[0])
        relay.connect(ann, *trio_up.devices, address=RELAY_V4[1])
        stream.wait_flowing(10)
        settled = time.time()
        time.sleep(1)
        seen = capture.stop()
    took = stream.back_after(moment)
    figure("relay's second address: traffic back", f"{took:.2f} s", f"< {_REBIND:g} s")
    assert took < _REBIND
    home = trio_up.sites[0].wan_v4
    replies = {datagram.source[0] for datagram in seen if datagram.destination[0] == home and datagram.time > settled}
    assert replies == {RELAY_V4[1]}
    assert {d.source[0] for d in seen if d.destination[0] == home and d.time < wall} == {RELAY_V4[0]}
    others = {d.source[0] for d in seen if d.destination[0] == trio_up.sites[1].wan_v4}
    assert others == {RELAY_V4[0]}, "a device that stayed is still answered from the first address"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_device_without_traffic_moves_while_the_relay_is_away(
    trio_up: Trio, figure: Figure, number: signal.Signals
) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    before = relay.endpoint("ann")
    time.sleep(2)  # the state is on the disk
    relay.stop(number)
    trio_up.sites[0].new_ports()
    relay.start()
    moment = time.monotonic()
    with Stream(bob, ann, rate=5) as stream:
        wait_until("ann is bound elsewhere", lambda: relay.endpoint("ann") != before, KEEPALIVE + 125)
        took = time.monotonic() - moment
        stream.wait_flowing(15)
    figure(f"NAT rebinding while the relay was {number.name}, no traffic: found again", f"{took:.1f} s", "< 27 s")
    # The next keepalive, and a round trip.
    assert took < KEEPALIVE + 2


def test_loss_and_reordering(trio_up: Trio, figure: Figure) -> None:
    ann, bob = trio_up.devices[:2]
    with Stream(ann, bob, rate=100, size=1000) as stream:
        stream.wait_flowing()
        trio_up.sites[0].reorder(ann.host, 20)
        trio_up.sites[1].lose(5)
        time.sleep(6)
        stream.wait_flowing()
    share = stream.lost() / stream.sent()
    figure(
        "5 % loss and reordering: loss in the tunnel", f"{share:.1%}, {stream.there.late} late", "2 to 9 %, > 20 late"
    )
    assert stream.there.late > 20
    assert 0.02 < share < 0.09


def test_partition_and_return(trio_up: Trio, figure: Figure) -> None:
    ann, bob = trio_up.devices[:2]
    with Stream(ann, bob, rate=10) as stream:
        stream.wait_flowing()
        trio_up.sites[0].partition()
        time.sleep(12)
        moment = time.monotonic()
        trio_up.sites[0].heal()
        stream.wait_flowing(15)
    took = stream.back_after(moment)
    figure("12 s partition: traffic back", f"{took:.2f} s", "< 6 s")
    # WireGuard retries a handshake every 5 s; a running session needs none.
    assert took < 6


def test_suspended_device(trio_up: Trio, figure: Figure) -> None:
    ann, bob = trio_up.devices[:2]
    with Stream(ann, bob, rate=10) as stream:
        stream.wait_flowing()
        ann.process.send_signal(signal.SIGSTOP)
        time.sleep(10)
        trio_up.sites[0].new_ports()  # the router has forgotten the sleeper
        moment = time.monotonic()
        ann.process.send_signal(signal.SIGCONT)
        stream.wait_flowing(15)
    took = stream.back_after(moment)
    figure("device suspended for 10 s, mapping gone: traffic back", f"{took:.2f} s", f"< {_REBIND:g} s")
    assert took < _REBIND


def test_a_device_whose_clock_has_gone_back_returns(trio_up: Trio, figure: Figure) -> None:
    """As a board without battery after a power cut: that its handshakes are the older ones is made so at the relay."""
    ann, relay = trio_up.devices[0], trio_up.relay
    relay.stop()
    saved = json.loads(relay.state.read_text())
    entry = saved["devices"][base64.b64decode(ann.public_key).hex()]
    entry |= {"binding": None, "sessions": [], "routes": [], "timestamp": tai64n(time.time() + 1e6).hex()}
    relay.state.write_text(json.dumps(saved))
    relay.start()
    ann.remove_peer(relay.public_key)
    relay.connect(ann)  # begins anew, as after a boot
    took = relay.wait_bound(ann, seconds=60)
    figure("a device whose clock has gone back is at the relay again", f"{took:.1f} s", "< 45 s")
    assert took < 45
    assert relay.device("ann")["drops"]["timestamp_replayed"] > 3
    ann.host.run("ping", "-c", "3", "-W", "2", "10.77.0.1")
