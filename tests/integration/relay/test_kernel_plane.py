# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service with the kernel data plane, under running tunnels of stock devices."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest
from harness.offload import ANOTHER_TABLE, offloaded, pair, wait_offloaded
from harness.processes import wait_until
from harness.service import Relay
from harness.topology import RELAY_V4, RELAY_V6, Lab
from harness.traffic import Stream
from harness.trio import Trio
from harness.wireguard import Device

Figure = Callable[..., None]
_SHORT_ROUTES = "import peer_relay.core.switchboard as board; board.PENDING_ROUTE, board.CONFIRMED_ROUTE = 1, 3"
_WITHOUT_BPF = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"]


@pytest.fixture
def relay(relay: Relay) -> Relay:
    relay.data_plane = "kernel"
    return relay


def test_the_kernel_takes_over_a_pair(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=200) as stream:
        wait_offloaded(stream, relay)
        before = pair(relay)
        time.sleep(2)
        after = pair(relay)
    grown = after["packets"] - before["packets"]
    assert grown > 350
    assert after["kernel_packets"] - before["kernel_packets"] == grown, "none by userspace any more"
    assert not stream.lost()
    status = relay.status()
    assert status["data_plane"] == "kernel"
    assert status["data_plane_reason"] is None
    assert status["kernel"]["entries"] == 2
    assert status["kernel"]["interfaces"].keys() == {"eth0"}
    assert pair(relay)["last_packet_seconds"] < 2
    assert relay.device("ann")["last_seen_seconds"] < 2
    assert relay.device("bob")["tx_packets"] >= len(stream.there.sent)
    assert "ann -> bob  up" in relay.command("status", "--pairs")
    assert 'peer_relay_pair_kernel_packets_total{from="ann",to="bob"}' in relay.get("/metrics").decode()


def test_a_start_drops_what_no_longer_belongs(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        wait_offloaded(stream, relay)
        time.sleep(1)
        relay.stop(signal.SIGKILL)
        relay.registrations["ann"].groups = ["others"]
        relay.start()
        moment = time.monotonic()
        time.sleep(1)
    assert relay.status()["kernel"]["entries"] == 0
    assert not any(direction.arrived_after(moment) for direction in stream.directions)


def test_a_change_of_groups_cuts_at_once(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=200) as stream:
        wait_offloaded(stream, relay)
        relay.registrations["ann"].groups = ["others"]
        relay.reload()
        wait_until("the change is taken over", lambda: relay.device("ann")["groups"] == ["others"], 5, interval=0.001)
        moment = time.monotonic()
        time.sleep(1)
        assert not any(direction.arrived_after(moment) for direction in stream.directions)
        assert relay.status()["kernel"]["entries"] == 0
        relay.registrations["ann"].groups = ["default"]
        relay.reload()
        stream.wait_flowing(20)  # WireGuard's next handshake


def test_a_rate_limit_takes_a_device_out(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        wait_offloaded(stream, relay)
        relay.registrations["ann"].rate_limit_mbit = 10
        relay.reload()
        wait_until("userspace forwards", lambda: pair(relay)["plane"] == "userspace", 5)
        assert pair(relay)["why_userspace"] == "ann has a rate limit"
        assert pair(relay, "bob", "ann")["plane"] == "kernel"
        assert relay.status()["kernel"]["refusals"] == {"rate_limit": 1}
        relay.registrations["ann"].rate_limit_mbit = 0
        relay.reload()
        wait_until("the kernel forwards again", lambda: offloaded(relay), 5)
    assert not stream.lost()


def moved(relay: Relay, before: str) -> dict:
    """Return the first status in which ann is bound elsewhere."""
    found: dict = {}

    def elsewhere() -> bool:
        found.update(relay.status())
        return found["devices"][0]["endpoint"] != before

    wait_until("ann is bound elsewhere", elsewhere, 5, interval=0.001)
    return found


@pytest.mark.parametrize("change", ["new_ports", "new_address"])
def test_roaming_moves_the_entries(trio_up: Trio, figure: Figure, change: str) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=50) as stream:
        wait_offloaded(stream, relay)
        before = relay.endpoint("ann")
        moment = time.monotonic()
        getattr(trio_up.sites[0], change)()
        status = moved(relay, before)
        bound = time.monotonic()
        counted = pair(relay)
        stream.wait_flowing()
        time.sleep(1)
        after = pair(relay)
    figure(f"kernel plane: roaming ({change}): bound elsewhere after", f"{bound - moment:.3f} s")
    # The first document that knows the new address knows the entries there.
    assert {told["plane"] for told in status["pairs"]} == {"kernel"}
    assert relay.status()["kernel"]["entries"] == 2
    assert after["kernel_packets"] - counted["kernel_packets"] == after["packets"] - counted["packets"] > 0
    assert stream.back_after(moment) < 2


def test_entries_of_idle_pairs_end(trio: Trio) -> None:
    relay = trio.relay
    relay.stop()
    relay.patch = _SHORT_ROUTES
    relay.start()
    trio.up()
    ann, bob = trio.devices[:2]
    with Stream(ann, bob) as stream:
        wait_offloaded(stream, relay)
        stream.stop()
        wait_until("they are gone", lambda: relay.status()["kernel"]["entries"] == 0, 6)
    assert pair(relay)["why_userspace"] == "no session of the two yet"


def test_two_families_stay_in_userspace(lab: Lab, relay: Relay) -> None:
    sites = [lab.site(), lab.site()]
    ann = Device(lab, sites[0].host("ann"), "ann", ["10.77.1.1/32"])
    bob = Device(lab, sites[1].host("bob", v4=False, v6=True), "bob", ["10.77.1.2/32"])
    eve = Device(lab, sites[0].host("eve", v4=False, v6=True), "eve", ["10.77.1.3/32"])
    everybody = ann, bob, eve
    relay.register(*everybody)
    relay.start()
    for device in everybody:
        relay.connect(device, *everybody, address=RELAY_V4[0] if device is ann else RELAY_V6)
        device.up(routes=[f"route add 10.77.0.0/16 dev {device.interface}"])
    relay.wait_bound(*everybody)
    with Stream(ann, bob, rate=50) as mixed, Stream(eve, bob, rate=50) as same:
        mixed.wait_flowing()
        same.wait_flowing()
        wait_until("IPv6 is forwarded by the kernel", lambda: pair(relay, "eve", "bob")["kernel_packets"] > 20, 5)
        for one, other in (("ann", "bob"), ("bob", "ann")):
            told = pair(relay, one, other)
            assert told["plane"] == "userspace"
            assert told["why_userspace"] == "one of the two is reached by IPv4, the other by IPv6"
            assert told["kernel_packets"] == 0
            assert told["packets"] > 20
    assert not mixed.lost()
    assert not same.lost()


@pytest.mark.parametrize("family", [4, 6])
def test_a_narrower_last_hop_is_heard_of_at_once(lab: Lab, relay: Relay, figure: Figure, family: int) -> None:
    sites = [lab.site(), lab.site()]
    devices = [
        Device(lab, site.host(name, v4=family == 4, v6=family == 6), name, [f"10.77.1.{number}/32"])
        for number, (site, name) in enumerate(zip(sites, ("ann", "bob"), strict=True), 1)
    ]
    relay.register(*devices)
    relay.start()
    for device in devices:
        relay.connect(device, *devices, address=RELAY_V4[0] if family == 4 else RELAY_V6)
        device.up(routes=[f"route add 10.77.0.0/16 dev {device.interface}"])
    relay.wait_bound(*devices)
    with Stream(*devices, rate=100, size=1350) as stream:
        wait_offloaded(stream, relay)
        sites[1].narrow()
        time.sleep(3)
        stream.wait_flowing(40)
    lost = stream.there.lost()
    figure(
        f"kernel plane, IPv{family}: large packets lost at a narrower last hop",
        f"{len(lost)} in {max(lost) - min(lost):.2f} s" if lost else "0",
        "< 20 in 0.2 s",
    )
    assert len(lost) < 20
    assert not stream.back.lost()


def test_the_relays_address_goes_and_comes_back(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=50) as stream:
        wait_offloaded(stream, relay)
        relay.host.ip(f"addr del {RELAY_V4[0]}/24 dev eth0")
        wait_until("the entries are gone", lambda: relay.status()["kernel"]["entries"] == 0, 5)
        assert RELAY_V4[0] in pair(relay)["why_userspace"]
        # As the only address of its network it takes the default route along.
        relay.host.ip(f"addr add {RELAY_V4[0]}/24 dev eth0", "route replace default via 203.0.113.1")
        wait_until("the entries are back", lambda: offloaded(relay), 5)
        stream.wait_flowing()


@pytest.mark.parametrize("gone", [False, True], ids=["down", "gone"])
def test_the_interface_goes_and_comes_back(trio_up: Trio, gone: bool) -> None:
    ann, bob = trio_up.devices[:2]
    relay, lab = trio_up.relay, trio_up.lab
    with Stream(ann, bob, rate=50) as stream:
        wait_offloaded(stream, relay)
        hardware = json.loads(relay.host.run("ip", "-j", "link", "show", "eth0"))[0]["address"]
        relay.host.ip("link del eth0" if gone else "link set eth0 down")
        wait_until("the entries are gone", lambda: relay.status()["kernel"]["entries"] == 0, 5)
        if gone:
            lab.attach(relay.host, "eth0")
            # The neighbours remember that.
            relay.host.ip(
                f"link set eth0 address {hardware}", *(f"addr add {address}/24 dev eth0" for address in RELAY_V4)
            )
        else:
            relay.host.ip("link set eth0 up")
        relay.host.ip("route replace default via 203.0.113.1")
        wait_until("the entries are back", lambda: offloaded(relay), 5)
        stream.wait_flowing()
        before = pair(relay)["kernel_packets"]
        time.sleep(1)
        assert pair(relay)["kernel_packets"] > before
    assert "data plane: userspace" not in relay.log()


def test_a_full_table(trio: Trio) -> None:
    relay = trio.relay
    relay.stop()
    relay.patch = ANOTHER_TABLE.format(2)
    relay.start()
    trio.up()
    ann, bob, cat = trio.devices
    with Stream(ann, bob, rate=50) as first, Stream(ann, cat, rate=50) as second:
        first.wait_flowing()
        second.wait_flowing()
        wait_until("it is full", lambda: relay.status()["kernel"]["refusals"].get("table_full"), 5)
        assert relay.status()["kernel"]["entries"] == 2
        told = [told for told in relay.status()["pairs"] if told["why_userspace"] == "the kernel's table is full"]
        assert told
        assert "entries is full" in doctor(relay, code=1)
        # Room for others.
        relay.registrations["bob"].groups = ["others"]
        relay.reload()
        wait_until("the others have the room", lambda: pair(relay, "ann", "cat")["plane"] == "kernel", 5)
        time.sleep(0.5)
    assert not second.lost()


def doctor(relay: Relay, code: int) -> str:
    """Run the doctor and return what it says."""
    try:
        text = relay.command("doctor")
        assert code == 0, text
        return text
    except RuntimeError as error:
        assert f"exit {code}" in str(error), error
        return str(error)


@pytest.mark.parametrize(("wanted", "code"), [("auto", 0), ("kernel", 1)])
def test_without_the_capability(trio: Trio, wanted: str, code: int) -> None:
    relay = trio.relay
    relay.stop()
    relay.command("unload")  # what is loaded may be used without it
    relay.data_plane = wanted
    relay.wrapper = _WITHOUT_BPF
    relay.start()
    trio.up()
    ann, bob = trio.devices[:2]
    with Stream(ann, bob, rate=100) as stream:
        stream.wait_flowing()
    assert not stream.lost()
    status = relay.status()
    assert status["data_plane"] == "userspace"
    assert "CAP_BPF" in status["data_plane_reason"]
    assert status["healthy"]
    assert len([line for line in relay.log().splitlines() if "CAP_BPF" in line]) == 1
    assert "CAP_BPF" in doctor(relay, code)
    assert "CAP_BPF" in relay.command("status")
    assert bool(status["problems"]) == bool(code)


def test_losing_the_capability_ends_what_the_kernel_forwards(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=200) as stream:
        wait_offloaded(stream, relay)
        time.sleep(1)
        relay.stop()
        relay.wrapper, relay.patch = _WITHOUT_BPF, ANOTHER_TABLE.format(5000)
        relay.start()
        moment = time.monotonic()
        time.sleep(1)
        stream.wait_flowing()
    assert relay.status()["data_plane"] == "userspace"
    assert not (relay.bpf / "table").exists()
    assert not [at for direction in stream.directions for at in direction.lost() if at > moment]
    assert pair(relay)["kernel_packets"] == 0


def test_switching_planes_by_reload_loses_nothing(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=200) as stream:
        wait_offloaded(stream, relay)
        for plane in ("userspace", "auto", "userspace", "kernel"):
            relay.data_plane = plane
            relay.reload()
            forwards = "userspace" if plane == "userspace" else "kernel"
            wait_until(f"{forwards} forwards", lambda name=forwards: relay.status()["data_plane"] == name, 5)
            time.sleep(1)
            assert (pair(relay)["plane"], pair(relay, "bob", "ann")["plane"]) == (forwards, forwards)
    assert not stream.lost()


def test_unload_leaves_nothing(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        wait_offloaded(stream, relay)
        time.sleep(1)
        relay.stop()
        moment = time.monotonic()
        time.sleep(0.5)
        assert any(direction.arrived_after(moment) for direction in stream.directions)
        relay.command("unload")
        moment = time.monotonic()
        time.sleep(0.5)
        assert not any(direction.arrived_after(moment) for direction in stream.directions)
    assert not (relay.bpf / "table").exists()
    assert "clsact" not in relay.host.run("tc", "qdisc", "show", "dev", "eth0")
