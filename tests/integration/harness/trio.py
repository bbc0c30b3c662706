# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three devices at a relay."""

from __future__ import annotations

from harness.service import Relay
from harness.topology import Lab
from harness.wireguard import Device


class Trio:
    """Three sites with one device each, all at the relay; no tunnel traffic yet."""

    def __init__(self, lab: Lab, relay: Relay):
        self.lab = lab
        self.relay = relay
        self.sites = [lab.site() for _ in range(3)]
        self.devices = [
            Device(lab, site.host(name), name, [f"10.77.1.{number}/32", f"fd77:7065:6572::1:{number}/128"])
            for number, (site, name) in enumerate(zip(self.sites, ("ann", "bob", "cat"), strict=True), 1)
        ]
        relay.register(*self.devices)
        relay.start()
        for device in self.devices:
            relay.connect(device, *self.devices)

    def up(self) -> None:
        for device in self.devices:
            device.up()
        self.relay.wait_bound(*self.devices)
