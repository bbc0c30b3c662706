# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay with the kernel data plane: who forwards for a pair."""

from __future__ import annotations

from harness.processes import wait_until
from harness.service import Relay
from harness.traffic import Stream

# Patches of the service: a table of another size, which needs another program too.
ANOTHER_TABLE = "import peer_relay.dataplane.kernel.plane as plane; plane.TABLE_SIZE = {}"


def pair(relay: Relay, one: str = "ann", other: str = "bob") -> dict:
    return next(pair for pair in relay.status()["pairs"] if (pair["from"], pair["to"]) == (one, other))


def offloaded(relay: Relay) -> bool:
    planes = {(each["from"], each["to"]): each["plane"] for each in relay.status()["pairs"]}
    return planes.get(("ann", "bob")) == planes.get(("bob", "ann")) == "kernel"


def wait_offloaded(stream: Stream, relay: Relay) -> None:
    stream.wait_flowing()
    wait_until("the kernel forwards both ways", lambda: offloaded(relay), 5)
