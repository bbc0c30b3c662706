# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers who flood the fallback: its memory stays bounded, and a device keeps its connection and its traffic."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness import fallback_flood
from harness.fallback import Blocked
from harness.netns import Namespace
from harness.processes import wait_until
from harness.service import Relay
from harness.topology import RELAY_V4, STRANGER_NETWORK, Lab
from harness.traffic import Stream

Figure = Callable[..., None]
_SECONDS = 3.0
_CONNECTIONS = 32  # at a time
_MAX_GROWTH = 24 * 2**20  # bytes, with all of them together


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocked]:
    """One lab for all floods: what one leaves behind is seen with the next."""
    lab = Lab(tmp_path_factory.mktemp("floods"))
    relay = Relay(lab.relay_host, lab.folder)
    try:
        made = Blocked(lab, relay, "--stranger-seconds", "2")
        made.bridge.start()
        made.carrier = made.carried()
        yield made
        made.bridge.stop()
    finally:
        relay.remove()
        lab.remove()


@pytest.fixture(scope="module")
def stranger(blocked: Blocked) -> Namespace:
    return blocked.lab.stranger()


@pytest.mark.parametrize("kind", fallback_flood.KINDS)
def test_flood(blocked: Blocked, stranger: Namespace, figure: Figure, kind: str) -> None:
    first = ip_network(STRANGER_NETWORK)[1]
    sources = [str(first + number // 15) for number in range(_CONNECTIONS)]
    words = [sys.executable, str(Path(fallback_flood.__file__)), kind, RELAY_V4[0], str(_SECONDS), *sources]
    bridge = blocked.bridge
    before = most = bridge.memory()
    descriptors = bridge.descriptors()
    with Stream(blocked.ann, blocked.bob) as stream:
        stream.wait_flowing(15)
        flood = blocked.lab.start(stranger.spawn(*words, log=f"flood-{time.monotonic_ns()}"))
        while flood.running:
            most = max(most, bridge.memory())
            time.sleep(0.02)
        assert flood.wait() == 0, flood.text()
        stream.wait_flowing(15)
    connections, megabytes = json.loads(flood.text().splitlines()[-1])
    after = bridge.memory()
    lost = stream.lost() / stream.sent()
    figure(
        f"fallback, flood: {kind}",
        f"RSS {before / 2**20:.1f}, at most {most / 2**20:.1f}, then {after / 2**20:.1f} MiB; "
        f"{connections} connections, {megabytes:.0f} MB sent; {lost:.1%} of a device's packets lost",
        "< 24 MiB more",
    )
    assert connections
    assert most - before < _MAX_GROWTH
    assert blocked.carrier.text().count("up 127.0.0.1:") == 1, "the device has kept its connection"
    assert lost < 0.1
    wait_until("all that the flood opened is closed", lambda: bridge.descriptors() <= descriptors, 15)
    assert "Traceback" not in bridge.text()
