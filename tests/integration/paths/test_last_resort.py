# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the fallback: proxies that close what is idle, another certificate, another network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from harness.fallback import Bridge, Certificate
from harness.paths import Figure, Paths, Watched
from harness.processes import wait_until
from harness.proxy import Proxy
from harness.topology import RELAY_V4, Lab

_PROXY = 8443
_IDLE = 4.0  # seconds: one that closes far earlier than any that is known (30 s)
_GOAL = 5.0


class Blocked:
    """Ann's site lets no UDP pass; she is on the fallback, through a proxy."""

    def __init__(self, paths: Paths, proxy: Proxy, watched: Watched, figure: Figure):
        self.paths, self.proxy, self.watched = paths, proxy, watched
        self._figure = figure

    def change(self, what: str, make: Callable[[], object], goal: float = _GOAL) -> None:
        """Make a change after which ann is on the fallback again, and note what it cost."""
        moment = time.monotonic()
        make()
        time.sleep(0.5)  # a moment in which packets may still come the way of before
        self.watched.stream.wait_flowing(30)
        time.sleep(1)
        gap, lost = self.watched.since(moment)
        self.watched.connection.check()
        self._figure(f"fallback: {what}", f"gap {gap * 1000:.0f} ms, {lost} lost", f"gap < {goal:g} s")
        assert gap < goal, what
        assert self.paths.agents[0].path(self.paths.bob)["path"] == "fallback"


@pytest.fixture
def blocked(paths: Paths, lab: Lab, figure: Figure) -> Iterator[Blocked]:
    proxy = Proxy(lab.relay_host, _PROXY, (RELAY_V4[0], 443), 3600)
    paths.tables[0]["fallback_url"] = f"wss://{RELAY_V4[0]}:{_PROXY}/"
    try:
        paths.sites[0].block_udp()
        paths.up(agents=False, bound=False)
        paths.start_agents()
        paths.agents[0].wait_path(paths.bob, "fallback", "one", seconds=20)
        with Watched(paths.ann, paths.bob) as watched:
            yield Blocked(paths, proxy, watched, figure)
    finally:
        proxy.close()


def test_connections_end_and_are_made_again(blocked: Blocked, lab: Lab) -> None:
    paths = blocked.paths
    time.sleep(5)  # one that has stood for long is made again at once
    blocked.change("all connections cut", blocked.proxy.cut, 1)

    def restart() -> None:
        paths.bridge.stop()
        paths.bridge.start()

    blocked.change("the relay's end restarts", restart)

    agent = paths.agents[0]

    def start_again() -> None:
        agent.stop()
        agent.start()
        agent.wait_path(paths.bob, "fallback")

    blocked.change("the agent restarts", start_again)

    other = lab.site()
    other.block_udp()
    blocked.change("another network, without UDP as well", lambda: other.welcome(paths.ann.host, paths.sites[0]))


def test_a_proxy_closes_what_is_idle(paths: Paths, lab: Lab, figure: Figure) -> None:
    proxy = Proxy(lab.relay_host, _PROXY, (RELAY_V4[0], 443), _IDLE)
    paths.tables[0]["fallback_url"] = f"wss://{RELAY_V4[0]}:{_PROXY}/"
    try:
        paths.sites[0].block_udp()
        paths.up(agents=False, bound=False)
        paths.start_agents()
        agent = paths.agents[0]
        agent.wait_path(paths.bob, "fallback", "one", seconds=20)
        worst = 0.0
        for _ in range(2):
            closed = proxy.closed
            wait_until("the proxy closes a connection", lambda before=closed: proxy.closed > before, 20, 0.1)
            moment = time.monotonic()
            with Watched(paths.ann, paths.bob) as watched:
                watched.connection.check()
                worst = max(worst, watched.stream.back_after(moment))
        figure("fallback: proxy closes what is idle for 4 s", f"data flows after {worst:.1f} s", f"< {_GOAL:g} s")
        assert worst < _GOAL
    finally:
        proxy.close()


def test_another_certificate(blocked: Blocked, lab: Lab, figure: Figure) -> None:
    paths, agent = blocked.paths, blocked.paths.agents[0]
    right = paths.bridge
    right.stop()
    wrong = Bridge(lab.relay_host, Certificate(lab.folder, "another"))
    wrong.start()
    lab.start(wrong.process)
    wait_until("it is refused, and said so", lambda: "not the pinned one" in str(agent.status()["problems"]), 15)
    moment = time.monotonic()
    time.sleep(3)
    assert not any(direction.arrived_after(moment) for direction in blocked.watched.stream.directions)
    assert agent.path(paths.bob)["why_not"] == "certificate_refused"
    assert not [relay for relay in agent.status()["relays"] if relay["fallback"]]
    wrong.stop()
    right.start()
    moment = time.monotonic()
    blocked.watched.stream.wait_flowing(20)
    took = blocked.watched.stream.back_after(moment)
    figure("fallback: the right certificate is back", f"data flows after {took:.1f} s", f"< {_GOAL:g} s")
    wait_until("nothing is wrong any more", lambda: not agent.status()["problems"], 5)
    blocked.watched.connection.check()
