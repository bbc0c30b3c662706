# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device's end of the fallback before a relay that floods it: its memory stays bounded, and it lives."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import hostile_bridge
from harness.fallback import Blocked
from harness.service import Relay
from harness.topology import Lab

Figure = Callable[..., None]
_SECONDS = 3.0
_MAX_GROWTH = 24 * 2**20  # bytes


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocked]:
    lab = Lab(tmp_path_factory.mktemp("hostile"))
    relay = Relay(lab.relay_host, lab.folder)
    try:
        made = Blocked(lab, relay)
        made.block()
        yield made
    finally:
        relay.remove()
        lab.remove()


@pytest.mark.parametrize("kind", hostile_bridge.KINDS)
def test_flood(blocked: Blocked, figure: Figure, kind: str) -> None:
    certificate = blocked.certificate
    words = [sys.executable, str(Path(hostile_bridge.__file__)), kind, str(certificate.file), str(certificate.key)]
    carrier = blocked.carry()
    carrier.wait_said("ended: ")  # nobody listens yet
    hostile = blocked.lab.start(blocked.lab.relay_host.spawn(*words, log="hostile"))
    try:
        before = most = carrier.memory()
        ended = carrier.text().count("ended: ")
        hostile.wait_until("it listens", lambda: ":443 " in blocked.lab.relay_host.run("ss", "-ltn"), 10)
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            most = max(most, carrier.memory())
            time.sleep(0.02)
        grown = f"RSS {before / 2**20:.1f}, at most {most / 2**20:.1f} MiB"
        figure(f"fallback, hostile relay: {kind}", grown, "< 24 MiB more")
        assert most - before < _MAX_GROWTH
        assert carrier.running
        assert "Traceback" not in carrier.text()
        hostile.stop()
        carrier.wait_said("ended: ", ended + 1)
    finally:
        carrier.stop()
        hostile.stop()
