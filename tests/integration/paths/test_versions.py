# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites with IPv6, alone or beside IPv4."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from harness.capture import Capture
from harness.paths import Figure, Journey, Paths, Watched, endpoints
from harness.service import PORT
from harness.topology import RELAY_V4, Lab


@pytest.fixture
def paths(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Paths]:
    made = Paths(lab, *request.param)
    yield made
    made.close()


def _version(paths: Paths) -> set[int]:
    """The IP versions of both sides' paths."""
    ends = [agent.path(other)["endpoint"] for agent, other in paths.views()]
    return {ip_address(end.rpartition(":")[0].strip("[]")).version for end in ends}


@pytest.mark.parametrize("paths", [(False, True)], indirect=True, ids=["v6"])
def test_sites_without_ipv4(paths: Paths, figure: Figure) -> None:
    paths.up()
    paths.wait("direct")
    home = paths.sites[0]
    with Watched(paths.ann, paths.bob) as watched:
        journey = Journey(paths, watched, figure)
        assert _version(paths) == {6}
        journey.change("IPv6: direct path cut", lambda: home.partition_from("2001:db8:2::/64"), "relay", 2, "one")
        assert _version(paths) == {6}
        journey.change("IPv6: direct path back", home.heal, "direct", 0.5, lost=False)


@pytest.mark.parametrize("paths", [(True, True)], indirect=True, ids=["both"])
def test_sites_with_both(paths: Paths, figure: Figure) -> None:
    """A relay sees a device at one address; when an IP version fails, the other one takes over."""
    home, away = paths.sites
    with Capture(paths.relays[0].host, "eth0", f"udp port {PORT}") as capture:
        paths.up()
        paths.wait("direct")
        with Watched(paths.ann, paths.bob) as watched:
            journey = Journey(paths, watched, figure)
            cut = [away.wan_v4, "2001:db8:2::/64"]
            journey.change("both: direct paths cut", lambda: home.partition_from(*cut), "relay", 2, "one")
            seen = [each.source[0] for each in capture.read()]
            assert set(seen) <= {site.wan_v4 for site in paths.sites} | {RELAY_V4[0]}, "one source for each device"

            moment = time.monotonic()
            home.partition_from(*cut, *(addresses[0] for addresses in paths.addresses.values()))
            watched.stream.wait_flowing(20)
            gap, lost = watched.since(moment)
            figure("path: both: relays gone by IPv4", f"gap {gap * 1000:.0f} ms, {lost} lost", "gap < 8 s")
            assert gap < 8
            assert ":" in endpoints(paths.ann)[paths.bob.public_key].rpartition(":")[0]
            journey.change("both: all is back", home.heal, "direct", 8, wait=60)
