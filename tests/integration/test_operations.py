# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay is restarted, killed and reloaded under running tunnels."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest
from harness.processes import wait_until
from harness.traffic import Iperf, Stream
from harness.trio import Trio
from harness.wireguard import Device

Figure = Callable[..., None]
_LOAD = 20  # Mbit/s of iperf3 beside the numbered stream


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_restart_loses_only_its_own_packets(trio_up: Trio, figure: Figure, number: signal.Signals) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        stream.wait_flowing()
        handshakes = ann.handshakes()[bob.public_key], bob.handshakes()[ann.public_key]
        iperf = Iperf(ann, bob, _LOAD, 8)
        try:
            time.sleep(3)
            down = time.monotonic()
            code = relay.stop(number)
            relay.start()
            up = time.monotonic()
            time.sleep(2)
        finally:
            sent, lost, _ = iperf.result()
    outage = up - down
    outside = [at for direction in stream.directions for at in direction.lost() if not down - 0.05 <= at <= up + 0.05]
    figure(
        f"restart by {number.name} under iperf3",
        f"away {outage:.2f} s, {lost} of {sent} lost, {len(outside)} lost outside",
        "0 outside",
    )
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert not outside
    assert (ann.handshakes()[bob.public_key], bob.handshakes()[ann.public_key]) == handshakes, "no new handshake"
    assert lost <= sent / 8 * (outage + 0.2)


def test_reload_adds_and_removes_devices_without_loss(trio_up: Trio, figure: Figure) -> None:
    ann, bob, cat = trio_up.devices
    relay = trio_up.relay
    dan = Device(trio_up.lab, trio_up.sites[2].host("dan"), "dan", ["10.77.1.4/32", "fd77:7065:6572::1:4/128"])
    relay.connect(dan, ann)
    relay.connect(ann, dan)
    with Stream(ann, bob, rate=100) as stream:
        stream.wait_flowing()
        start = time.monotonic()
        iperf = Iperf(ann, bob, _LOAD, 8)
        try:
            time.sleep(1)
            relay.register(dan)
            relay.reload()
            wait_until("dan is known", lambda: "dan" in relay.names(), 5)
            dan.up()
            joined = relay.wait_bound(dan)
            dan.host.run("ping", "-c", "1", "-W", "5", "10.77.1.1")
            del relay.registrations["cat"]
            relay.reload()
            wait_until("cat is gone", lambda: "cat" not in relay.names(), 5)
        finally:
            sent, lost, _ = iperf.result()
    missed = [at for direction in stream.directions for at in direction.lost() if at > start]
    figure("reload adds and removes a device under iperf3", f"{lost} of {sent} lost, {len(missed)} of the stream", "0")
    figure("a device added by reload is bound after", f"{joined:.2f} s")
    assert lost == 0
    assert not missed
    with pytest.raises(RuntimeError):
        cat.host.run("ping", "-c", "1", "-W", "1", "10.77.1.1")


@pytest.mark.parametrize(
    ("broken", "names"),
    [("[relay]\nlisten_port = ", "relay.toml"), ("[relay]\nlisten_prot = 1\n", "listen_prot"), ("", "relay")],
    ids=["torn", "unknown key", "empty"],
)
def test_broken_settings_keep_the_last_good_ones(trio_up: Trio, broken: str, names: str) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        stream.wait_flowing()
        start = time.monotonic()
        relay.settings.write_text(broken)
        relay.process.send_signal(signal.SIGHUP)
        wait_until("the error shows in the status", lambda: relay.status()["settings_error"], 5)
        assert names in relay.status()["settings_error"]
        assert len(relay.status()["devices"]) == 3
        relay.reload()
        wait_until("the error is gone", lambda: not relay.status()["settings_error"], 5)
    assert not [at for direction in stream.directions for at in direction.lost() if at > start]


@pytest.mark.parametrize("content", [None, "", '{"version": 99}', "[1, 2, 3]", "\x00\xff"], ids=repr)
def test_broken_state_is_kept_aside(trio_up: Trio, content: str | None) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    ann.host.run("ping", "-c", "1", "-W", "5", bob.address.split("/")[0])
    relay.stop(signal.SIGKILL)
    whole = relay.state.read_bytes()
    json.loads(whole)
    relay.state.write_bytes(whole[: len(whole) // 2] if content is None else content.encode("latin-1"))
    broken = relay.state.read_bytes()
    relay.start()
    assert "state.json" in relay.log()
    kept = [path for path in relay.state.parent.glob("state.json?*") if path.read_bytes() == broken]
    assert kept, "the broken file is kept aside"
    # Nobody is known by address any more; whoever makes a new handshake is back at once.
    for device in (ann, bob):
        for peer in (relay, ann, bob):
            device.remove_peer(peer.public_key)
        relay.connect(device, ann, bob)
    relay.wait_bound(ann, bob)
    with Stream(ann, bob) as stream:
        stream.wait_flowing(10)
