# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two real WireGuard hosts that use one key: the relay says so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from harness.processes import wait_until
from harness.service import Relay
from harness.topology import Lab
from harness.traffic import Stream
from harness.wireguard import Device

_SAID_WITHIN = 240  # seconds


@pytest.mark.parametrize("traffic", [False, True], ids=["idle", "talking"])
def test_two_hosts_with_one_key_are_named(lab: Lab, relay: Relay, figure: Callable[..., None], traffic: bool) -> None:
    ann, copy, bob = (
        Device(lab, lab.site().host(name), name, [f"10.77.1.{number}/32"])
        for name, number in (("ann", 1), ("copy", 1), ("bob", 2))
    )
    copy.use_key_of(ann)
    relay.register(ann, bob)
    relay.start()
    for device in (ann, copy, bob):
        relay.connect(device, *((bob,) if device is copy else (ann, bob)))
        device.up(routes=[f"route add 10.77.0.0/16 dev {device.interface}"])
        time.sleep(1)  # nobody starts a copy in the same moment
    moment = time.monotonic()
    with Stream(ann, bob, rate=10) if traffic else contextlib.nullcontext() as stream:
        if stream:
            with Stream(copy, bob, rate=10):
                wait_until("it is said", lambda: relay.device("ann")["key_used_at"], _SAID_WITHIN)
        else:
            wait_until("it is said", lambda: relay.device("ann")["key_used_at"], _SAID_WITHIN)
    figure(
        f"two hosts with one key ({'talking' if traffic else 'idle'}): said after", f"{time.monotonic() - moment:.0f} s"
    )
    hosts = {endpoint.rpartition(":")[0] for endpoint in relay.device("ann")["key_used_at"]}
    assert hosts == {"203.0.113.21", "203.0.113.22"}
    assert relay.device("bob")["key_used_at"] == []
    with pytest.raises(RuntimeError, match="two hosts use its key"):
        relay.command("doctor")
    assert "two hosts use its key" in relay.command("status")
    assert b'peer_relay_device_key_used_twice{device="ann"} 1.0' in relay.get("/metrics")
