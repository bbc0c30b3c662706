# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's time ends to the second, with sessions that are up, by the relay alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from harness.offload import wait_offloaded
from harness.processes import wait_until
from harness.topology import Lab
from harness.traffic import Stream
from harness.trio import Trio

Figure = Callable[..., None]
_FROM_NOW = 6  # seconds


@pytest.mark.parametrize("plane", ["userspace", "kernel"])
def test_a_guest_goes_in_its_second(lab: Lab, relay, plane: str, figure: Figure) -> None:
    relay.data_plane = plane
    trio = Trio(lab, relay)
    trio.up()
    guest, home = trio.devices[:2]
    with Stream(guest, home, rate=100) as stream:
        if plane == "kernel":
            wait_offloaded(stream, relay)
        else:
            stream.wait_flowing()
        moment = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=_FROM_NOW)
        relay.registrations[guest.name].expires = moment
        relay.reload()
        wait_until("the relay knows", lambda: relay.status()["expiring"], 5)
        left = moment.timestamp() - time.time()
        assert left > 1, "the test needs time to see packets arrive before"
        end = time.monotonic() + left
        time.sleep(left + 3)
    for direction in stream.directions:
        last = max(direction.received.values())
        figure(f"{plane} plane, {direction.name}: last packet after the guest's end", f"{last - end:+.2f} s", "< 1 s")
        assert -0.3 < last - end < 1
    assert guest.name not in {device["name"] for device in relay.status()["devices"]}
    assert f"{guest.name}: has expired" in relay.log()
    relay.stop()
    relay.start()
    assert guest.name not in relay.names(), "nor after a restart"
    with Stream(home, trio.devices[2]) as others:
        others.wait_flowing()
