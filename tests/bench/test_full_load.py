# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel plane with all that it can carry: restarts of the service lose nothing, strangers cost pairs nothing."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import relays  # noqa: F401  it says where the others are
from contestants import OursInTheKernel
from harness.offload import ANOTHER_TABLE
from harness.service import PORT
from hosts import MARK, RELAY_IN, SENDERS
from load import Flow, Trains, head
from peer_common import packets

_SIZE = 1452
_WINDOWS = (64, 256)  # datagrams under way: the better one is taken
_LOAD_SECONDS = 6.0
_PAIR_RATE = 2000  # packets a second
_PAIR_LOSS = 0.001
_STRANGERS = 250
# Before the sink. A protocol number for nftables, as it says so itself.
_COUNT = """
table netdev arrived {{
  chain load {{
    type filter hook ingress devices = {{ eth0, eth1 }} priority -10; policy accept;
    meta l4proto udp @th,128,64 0x{mark} counter
  }}
}}
"""


class Counted(OursInTheKernel):
    """Counts each datagram of load that arrives; the interface counts everything."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)
        self.hosts.devices.run("nft", "-f", "-", stdin=_COUNT.format(mark=MARK.hex()))

    def arrived(self) -> int:
        rules = json.loads(self.hosts.devices.run("nft", "-j", "list", "table", "netdev", "arrived"))["nftables"]
        words = [word for rule in rules for word in rule.get("rule", {}).get("expr", [])]
        return next(word["counter"]["packets"] for word in words if "counter" in word)

    def came(self) -> int:
        """How many datagrams have reached the relay's host?"""
        return int(self.hosts.relay.run("cat", "/sys/class/net/in0/statistics/rx_packets"))


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Counted]:
    contestant = Counted("kernel", tmp_path, 100)
    yield contestant
    contestant.close()


@pytest.mark.parametrize(
    ("number", "patch"),
    [(signal.SIGTERM, ""), (signal.SIGKILL, ""), (signal.SIGTERM, ANOTHER_TABLE.format(5000))],
    ids=["stop", "crash", "upgrade"],
)
def test_a_restart_loses_nothing(
    relay: Counted, number: signal.Signals, patch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upgrade is one that wants another table, and so another program."""
    load = relay.load(_SIZE, False, False)
    load.run(0.2, _WINDOWS)  # finds how much may be under way
    time.sleep(1)  # the state is on disk
    sent, arrived = load.sent, relay.arrived()
    rates = []
    thread = threading.Thread(target=lambda: rates.append(load.run(_LOAD_SECONDS, _WINDOWS).rate))
    thread.start()
    time.sleep(1)
    relay.relay.stop(number)
    relay.relay.patch = patch
    time.sleep(1)
    relay.relay.start(60)
    back = load.sent
    thread.join()
    time.sleep(0.5)
    sent, back, arrived = load.sent - sent, load.sent - back, relay.arrived() - arrived
    what = f"{number.name} and a start{' with another table' if patch else ''}"
    with capsys.disabled():
        print(f"\nkernel plane, {what}, at {rates[0]:,.0f} packets/s: {sent - arrived} of {sent:,} lost")
    assert back > 0, "the load went on after the start"
    assert arrived == sent


def test_strangers_cost_pairs_nothing(relay: Counted, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config):
    """As many datagrams as can be sent, of strangers and to the relay, and a paced pair beside them."""
    seconds = pytestconfig.getoption("flood_seconds")
    strangers = [
        Flow(str(IPv4Address(f"{SENDERS}.200.1") + number), (RELAY_IN, PORT), head(kind, number), "", b"")
        for number in range(_STRANGERS)
        for kind in (packets.TRANSPORT, packets.INITIATION)
    ]
    flood = Trains(strangers, 148, relay.frame)
    pair = relay.flows[0]
    packet = pair.head + bytes(_SIZE - len(pair.head))
    descriptor = relay.devices.socket.fileno()
    relay.hosts.loaded(True)
    arrived, came = relay.arrived(), relay.came()
    sent = trains = 0
    start = now = time.monotonic()
    while now - start < seconds:
        flood.send(descriptor, trains)
        trains += 1
        while sent < (now - start) * _PAIR_RATE:
            relay.devices.send(pair.source, packet, pair.target)
            sent += 1
        now = time.monotonic()
    time.sleep(0.5)
    lost, rate = sent - (relay.arrived() - arrived), (relay.came() - came) / seconds
    with capsys.disabled():
        print(
            f"\nkernel plane, {rate:,.0f} packets/s of strangers for {seconds:.0f} s: {lost} of {sent:,} lost of a pair"
        )
    assert rate > 10 * _PAIR_RATE
    assert lost <= sent * _PAIR_LOSS
