# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A flood from strangers: no answers but cookie replies, no harm to a tunnel, every datagram counted by its reason."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable

import pytest
from harness import flood
from harness.capture import Capture
from harness.processes import Process
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, STRANGER_NETWORK
from harness.traffic import Iperf
from harness.trio import Trio
from harness.wireguard import Device
from peer_common import packets

Figure = Callable[..., None]
_RATE = 20_000  # packets a second
_TUNNEL_RATES = (100, 50, 25)  # Mbit/s
_TUNNEL_LOSS = 0.01
_UNPACED = 20  # datagrams that the pair sends beside the paced ones: iperf3's control, keepalives, handshakes
_MEMORY_GROWTH = 4 * 2**20


def _start_flood(trio: Trio, seconds: float) -> Process:
    mac = trio.relay.host.run("cat", "/sys/class/net/eth0/address").strip()
    arguments = ["eth0", mac, RELAY_V4[0], trio.relay.public_key, str(_RATE), str(seconds)]
    return trio.lab.start(trio.lab.stranger().spawn(sys.executable, flood.__file__, *arguments, log="flood"))


def _kernel_drops(relay: Relay) -> int:
    """Datagrams that the kernel dropped because the relay's sockets were full."""
    lines = relay.host.run("cat", "/proc/net/udp", "/proc/net/udp6").splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.split()[1].endswith(f":{PORT:04X}"))


def _counted(relay: Relay) -> dict[str, int]:
    return {reason: count["packets"] for reason, count in relay.status()["drops"].items()}


def _tunnel_loss(one: Device, other: Device, megabits: float, seconds: float) -> tuple[int, float, float]:
    """Return (datagrams lost, share lost, Mbit/s received) of a paced flow."""
    sent, lost, received = Iperf(one, other, megabits, seconds).result()
    return lost, lost / sent, received


def test_strangers(trio_up: Trio, figure: Figure, pytestconfig: pytest.Config) -> None:
    seconds = pytestconfig.getoption("flood_seconds")
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    # Half of what wireguard-go and this machine can carry at all: the flood's own sender takes its share as well.
    for megabits in _TUNNEL_RATES:
        _, calm_loss, calm_rate = _tunnel_loss(ann, bob, megabits, 3)
        if calm_loss < _TUNNEL_LOSS / 5:
            break
    before, kernel_before = _counted(relay), _kernel_drops(relay)
    with Capture(relay.host, "eth0", f"udp and src port {PORT} and dst net {STRANGER_NETWORK}") as capture:
        strangers = _start_flood(trio_up, seconds)
        time.sleep(2)
        memory = relay.memory()
        lost, loss, rate = _tunnel_loss(ann, bob, megabits / 2, seconds - 2)
        strangers.wait(seconds + 30)
        time.sleep(1)
        answers = capture.stop()
    sent = json.loads(strangers.text())
    counted = {reason: count - before.get(reason, 0) for reason, count in _counted(relay).items()}
    kernel = _kernel_drops(relay) - kernel_before
    grown = relay.memory() - memory
    figure("strangers: flood", f"{sent['sent'] / sent['seconds']:,.0f} packets/s for {sent['seconds']:.0f} s", "20,000")
    figure("strangers: tunnel without the flood", f"{calm_rate:.0f} Mbit/s, {calm_loss:.2%} lost")
    figure("strangers: tunnel under the flood", f"{rate:.0f} Mbit/s, {loss:.2%} lost", f"< {_TUNNEL_LOSS:.0%}")
    figure("strangers: cookie replies, of 64 bytes for 148", f"{len(answers):,} of {sent['kinds']['valid_mac1']:,}")
    figure("strangers: memory grown by", f"{grown / 2**20:.1f} MiB", f"< {_MEMORY_GROWTH / 2**20:.0f} MiB")
    # What the kernel dropped for want of room is the strangers', but for what the pair has lost.
    uncounted = sent["sent"] - sum(counted.values())
    figure(
        "strangers: sent - counted, dropped by the kernel",
        f"{sent['sent']:,} - {sum(counted.values()):,} = {uncounted:,}, {kernel:,}",
        "the same, but for what the pair lost",
    )
    valid = {
        (stray.address, stray.port)
        for stray in flood.strays(base64.b64decode(relay.public_key))
        if stray.kind == "valid_mac1"
    }
    assert answers, "strangers with a valid mac1 are asked for a cookie"
    assert {(answer.kind, len(answer.payload)) for answer in answers} == {(3, packets.COOKIE_REPLY_SIZE)}
    assert {answer.destination for answer in answers} <= valid
    assert grown < _MEMORY_GROWTH
    assert 0 <= kernel - uncounted <= lost + _UNPACED
    for kind, reasons in flood.KINDS.items():
        together = [other for other, theirs in flood.KINDS.items() if theirs == reasons]
        total = sum(sent["kinds"][other] for other in together)
        found = sum(counted.get(reason, 0) for reason in reasons)
        assert total - kernel <= found <= total, f"{kind}: {counted}"
    assert loss < _TUNNEL_LOSS
