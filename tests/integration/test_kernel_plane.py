# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service with the kernel data plane, under running tunnels of stock devices."""

from __future__ import annotations

import pytest
from conftest import Trio
from harness.processes import wait_until
from harness.service import Relay
from harness.traffic import Stream


@pytest.fixture
def relay(relay: Relay) -> Relay:
    relay.data_plane = "kernel"
    return relay


def pair(relay: Relay, one: str = "ann", other: str = "bob") -> dict:
    return next(pair for pair in relay.status()["pairs"] if (pair["from"], pair["to"]) == (one, other))


def test_a_pair_moves_into_the_kernel(trio_up: Trio) -> None:
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    with Stream(ann, bob, rate=100) as stream:
        stream.wait_flowing()
        wait_until("the kernel forwards", lambda: pair(relay)["kernel_packets"] > 100, 5)
    assert not stream.lost()
