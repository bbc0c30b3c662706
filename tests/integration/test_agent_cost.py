# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the path agent costs while nothing happens."""

from __future__ import annotations

import time

from harness.agent import Agent
from harness.capture import Capture
from harness.paths import Figure, relay_table
from harness.processes import wait_until
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, Lab
from harness.wireguard import Device

_CROWD = 50
_QUIET = 20.0  # seconds of an idle agent
_HEADERS = 28  # of IPv4 and UDP


def test_an_idle_agent_costs_next_to_nothing(lab: Lab, relay: Relay, figure: Figure) -> None:
    """Ann is behind one NAT, and fifty others, with an agent each, behind another."""
    ann = Device(lab, lab.site().host("ann"), "ann", ["10.77.1.1/32"])
    site, table = lab.site(), [relay_table(relay, RELAY_V4[0])]
    names = [f"c{number}" for number in range(1, _CROWD + 1)]
    crowd = [Device(lab, site.host(name), name, [f"10.77.2.{number}/32"]) for number, name in enumerate(names, 1)]
    relay.register(ann, *crowd)
    relay.start()
    relay.connect(ann, *crowd)
    for device in crowd:
        relay.connect(device, ann)
        device.up()
    ann.up()
    agent = Agent(lab, ann, table, crowd)
    agents = [agent, *(Agent(lab, device, table, [ann]) for device in crowd)]
    for each in agents:
        each.launch()
    for each in agents:
        each.wait_ready(60)

    def all_direct() -> bool:
        return [peer["path"] for peer in agent.status()["peers"]] == ["direct"] * _CROWD

    wait_until("all are direct", all_direct, 60, 0.5)
    time.sleep(5)
    before = agent.busy_seconds()
    with Capture(ann.host, "eth0", f"udp and not port {PORT}") as capture:
        time.sleep(_QUIET)
        seen = capture.stop()
    share = (agent.busy_seconds() - before) / _QUIET
    bits = sum(len(datagram.payload) + _HEADERS for datagram in seen) * 8 / _QUIET / _CROWD
    figure(f"agent: idle with {_CROWD} devices on direct paths", f"{share:.2%} of a core", "< 1 %")
    figure("agent: traffic of an idle pair, both ways", f"{bits:.0f} bit/s", "< 1000 bit/s")
    assert bits < 1000
    assert share < 0.01
