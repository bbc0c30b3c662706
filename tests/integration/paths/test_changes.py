# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two devices keep a path to each other, the best there is, whatever happens to their networks and relays."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from harness.capture import Capture
from harness.paths import Figure, Journey, Paths, Watched
from harness.service import PORT
from harness.topology import Lab


@pytest.fixture
def journey(paths: Paths, figure: Figure) -> Iterator[Journey]:
    """Traffic flows; the agents are yet to start."""
    paths.up(agents=False)
    with Watched(paths.ann, paths.bob) as watched:
        yield Journey(paths, watched, figure)


def test_every_change(journey: Journey, lab: Lab, figure: Figure) -> None:
    paths, (home, away) = journey.paths, journey.paths.sites
    one = paths.relays[0]

    took = journey.change("1. both behind ordinary NAT", paths.start_agents, "direct", 0.5, lost=False)
    assert took < 5

    journey.change("2. direct path cut", lambda: home.partition_from(away.wan_v4), "relay", 2, "one")
    journey.change("3. direct path back", home.heal, "direct", 0.5, lost=False)

    home.partition_from(away.wan_v4)
    paths.wait("relay", via="one")
    journey.change("4. relay one killed", lambda: one.stop(signal.SIGKILL), "relay", 3, "two")
    one.start()
    home.heal()
    paths.wait("direct", seconds=60)

    # The other site reaches the relay, and so this one, by UDP all the time.
    journey.change("5. all UDP blocked at one site", home.block_udp, ("fallback", "relay"), 5, "one")
    journey.change("6. UDP back", home.heal, "direct", 5, wait=60)

    third = lab.site()
    journey.change("8. laptop roams", lambda: third.welcome(paths.ann.host, home), "direct", 2)

    journey.change("9. same LAN", lambda: away.welcome(paths.ann.host, third), "lan", 2)
    with Capture(away.router, "lan0", "udp") as capture:  # the router's bridge is also the switch of its LAN
        time.sleep(2)
        traffic = [seen for seen in capture.stop() if PORT not in (seen.source[1], seen.destination[1])]
    lan = {host for seen in traffic for host, _ in (seen.source, seen.destination)}
    assert lan == {"192.168.2.11", "192.168.2.12"}, "the router is involved"


def test_symmetric_nat_stays_on_the_relay(paths: Paths, figure: Figure, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--steady-seconds")
    paths.symmetric()
    paths.up()
    with Watched(paths.ann, paths.bob) as watched:
        paths.wait("relay")
        time.sleep(5)
        moment, before = time.monotonic(), [agent.process.text() for agent in paths.agents]
        time.sleep(seconds)
        gap, lost = watched.since(moment)
        watched.connection.check()
    figure(
        f"path: 7. symmetric NAT on both, {seconds:g} s",
        f"gap {gap * 1000:.0f} ms, {lost} lost",
        "none lost, no change",
    )
    assert [agent.process.text() for agent in paths.agents] == before, "something changed"
    assert {agent.path(other)["path"] for agent, other in paths.views()} == {"relay"}
    assert not lost
