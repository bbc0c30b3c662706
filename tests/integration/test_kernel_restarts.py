# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Under load, the service with the kernel data plane stops, starts, crashes and is upgraded: no packet is lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest
from harness.offload import ANOTHER_TABLE, offloaded, pair, wait_offloaded
from harness.processes import wait_until
from harness.service import PORT, Relay
from harness.topology import Site
from harness.traffic import Iperf, Stream
from harness.trio import Trio

Figure = Callable[..., None]
_LOAD = 20  # Mbit/s of iperf3
_DATA = 200  # bytes of IP: more than a handshake


@pytest.fixture
def relay(relay: Relay) -> Relay:
    relay.data_plane = "kernel"
    return relay


class Crossings:
    """Data packets that cross the routers of ann and bob, on the relay's side: what the relay gets and what it gives.

    wireguard-go on a busy machine loses packets by itself, which is not the relay's affair.
    """

    def __init__(self, *sites: Site):
        self._sites = sites
        for site in sites:
            to, back = (f"udp {word} {PORT} ip length > {_DATA} counter" for word in ("dport", "sport"))
            site.router.nft(
                f"table ip count {{ chain forward {{ type filter hook forward priority -20; {to}; {back}; }}; }}"
            )

    def lost(self) -> tuple[int, int]:
        """Return how many packets the relay was given, and how many fewer it has passed on."""
        counts = []
        for site in self._sites:
            rules = json.loads(site.router.run("nft", "-j", "list", "table", "ip", "count"))["nftables"]
            counts.append(
                [
                    word["counter"]["packets"]
                    for rule in rules
                    for word in rule.get("rule", {}).get("expr", [])
                    if "counter" in word
                ]
            )
        given, taken = sum(to for to, _ in counts), sum(back for _, back in counts)
        return given, given - taken


@pytest.mark.parametrize(
    ("number", "patch"),
    [(signal.SIGTERM, ""), (signal.SIGKILL, ""), (signal.SIGTERM, ANOTHER_TABLE.format(5000))],
    ids=["stop", "crash", "upgrade"],
)
def test_restarts_lose_nothing(trio_up: Trio, figure: Figure, number: signal.Signals, patch: str) -> None:
    """The upgrade is one that wants another table, and so another program."""
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=200, size=300) as stream:
        wait_offloaded(stream, relay)
        time.sleep(1)  # the state is on disk
        with stream.paused():  # or else a packet is counted at one of the routers alone
            crossings = Crossings(*trio_up.sites[:2])
        handshakes = ann.handshakes()[bob.public_key], bob.handshakes()[ann.public_key]
        iperf = Iperf(ann, bob, _LOAD, 6)
        try:
            time.sleep(1)
            start = time.monotonic()
            relay.stop(number)
            relay.patch = patch
            time.sleep(1)
            relay.start()
            up = time.monotonic()
            wait_until("the kernel still forwards both ways", lambda: offloaded(relay), 5)
            before = pair(relay)
            time.sleep(2)
            after = pair(relay)
        finally:
            iperf.result()
    given, lost = crossings.lost()
    figure(
        f"kernel plane: {number.name}{', other table' if patch else ''}, {up - start:.1f} s away",
        f"{lost} of {given} lost",
        "0",
    )
    assert lost == 0
    assert given > 4000
    assert after["kernel_packets"] - before["kernel_packets"] == after["packets"] - before["packets"] > 0
    assert (ann.handshakes()[bob.public_key], bob.handshakes()[ann.public_key]) == handshakes, "no new handshake"
