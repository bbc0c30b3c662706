# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which candidates are told, and which of those that answer is taken."""

from __future__ import annotations

from ipaddress import ip_network

from agent_world import behind_nats
from peer_agent.core.actions import PairAction, SendProbe
from peer_agent.core.candidates import DIRECT, LAN, Candidates
from peer_agent.core.nomination import Nomination
from peer_agent.endpoints import Endpoint

OVERLAY = ip_network("10.77.0.0/16")
BRIDGES = [Endpoint(f"172.{number}.0.1", 51820) for number in range(17, 29)]


def test_what_a_relay_sees_is_told_and_taken_before_a_dozen_bridges() -> None:
    world = behind_nats()
    for device in world.devices.values():
        device.pair.network(world.now, [*BRIDGES, Endpoint(device.host, 51820)], [])
    world.run(20)
    a, b = world.devices.values()
    assert (a.kind, b.kind) == ("direct", "direct")


def trial(trips: dict[Endpoint, float], direct: Endpoint | None = None, seconds: float = 10) -> tuple[str | None, int]:
    """Let candidates answer after their round trips; return the kind of the one that is nominated, and the pings."""
    outbox: list[PairAction] = []
    candidates = Candidates([OVERLAY])
    candidates.classify([ip_network("10.42.0.0/16")])
    candidates.set_signaled(trips)
    nomination = Nomination(candidates, True, outbox)
    running = candidates.get(direct) if direct else None
    if running:
        running.rtt = trips[direct]
    now, pings, answers = 0.0, 0, []
    nomination.hole_punching.begin_round(now)
    while now < seconds:
        nomination.advance(now, running)
        for action in outbox:
            assert isinstance(action, SendProbe)
            pings += 1
            answers.append((now + trips[action.target], action.probe.number, action.target))
        outbox.clear()
        if nomination.nominee:
            return nomination.nominee.kind, pings
        now += 0.02
        for answer in [answer for answer in answers if answer[0] <= now]:
            answers.remove(answer)
            candidates.match_pong(answer[0], *answer[1:])
        candidates.expire(now)
    return None, pings


NEAR, FAR = Endpoint("10.42.1.1", 51820), Endpoint("198.51.100.1", 51820)


def test_a_lan_wins_by_its_round_trip() -> None:
    assert trial({NEAR: 0.010, FAR: 0.012})[0] == LAN
    assert trial({NEAR: 0.012, FAR: 0.010})[0] == LAN, "it needs no router, which is worth a little"
    assert trial({NEAR: 0.040, FAR: 0.010})[0] == DIRECT, (
        "a container overlay that runs through a tunnel, maybe this one"
    )


def test_a_direct_path_is_left_for_a_shorter_lan_only_and_a_longer_one_is_not_pinged_for_ever() -> None:
    assert trial({NEAR: 0.010, FAR: 0.020}, FAR)[0] == LAN
    kind, pings = trial({NEAR: 0.030, FAR: 0.020}, FAR, seconds=30)
    assert kind is None
    assert pings < 20
