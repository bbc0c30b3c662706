# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever forges, replays or lies moves no path."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
from collections.abc import Iterator

import pytest
from harness.capture import Capture, Datagram
from harness.forger import Forger
from harness.paths import Figure, Journey, Paths, Watched, endpoints
from harness.service import ADDRESSES, Relay
from harness.topology import Lab
from peer_common.directory import PORT as DIRECTORY
from peer_common.directory import Answer, Entry, write_answer

_MAGIC, _SIZE = b"\xf7prp", 32
_PING, _PONG = 1, 2
_CONTROL = 7078
_ELSEWHERE = ("198.18.0.7", 4444)  # the attacker's
# A relay that says of everybody, asker included, that he is elsewhere.
_LIES = f"""
import os, sys
from peer_relay.core import directory_answers
from peer_common.directory import Entry
truth = directory_answers._entry
lie = Entry({_ELSEWHERE!r}, known=True)
directory_answers._entry = lambda device, now: lie if os.path.exists({{sign!r}}) else truth(device, now)
from peer_relay.__main__ import main
sys.exit(main())
"""


class LyingRelay(Relay):
    """It lies as long as `lie` exists."""

    def _program(self, *words: str) -> list[str]:
        self.lie = self.folder / "lie"
        return [sys.executable, "-c", _LIES.format(sign=str(self.lie)), "--settings", str(self.settings), *words]


def _probes(datagrams: list[Datagram]) -> list[Datagram]:
    return [each for each in datagrams if each.payload.startswith(_MAGIC) and len(each.payload) == _SIZE]


def _ports(paths: Paths) -> list[int]:
    ports = (device.host.run("wg", "show", device.interface, "listen-port") for device in paths.devices)
    return [int(port) for port in ports]


def test_forged_and_replayed_probes(journey: Journey) -> None:
    """Ann's own router is in the wrong hands, and has no key."""
    paths = journey.paths
    router = paths.sites[0].router
    host, port = endpoints(paths.ann)[paths.bob.public_key].rsplit(":", 1)
    bob, ann = (host, int(port)), ("192.168.1.11", _ports(paths)[0])
    with Capture(router, "lan0", "udp") as capture, Forger(router) as forger:
        time.sleep(11)  # an idle path is probed every 5 s
        found = _probes(capture.read())
        to_ann = [probe.payload for probe in found if probe.destination == ann]
        by_ann = [probe.payload for probe in found if probe.source == ann]
        assert to_ann
        assert by_ann

        def forge() -> None:
            for _ in range(200):
                for kind in (_PING, _PONG):
                    head = bytes([kind, secrets.choice([0, 1, 2, 3])])
                    guess = _MAGIC + head + secrets.token_bytes(26)
                    hint = _MAGIC + head + to_ann[0][6:8] + (2**40).to_bytes(8, "big") + secrets.token_bytes(16)
                    for payload in (guess, hint):
                        forger.send(payload, bob, ann)
                        forger.send(payload, _ELSEWHERE, ann)
                time.sleep(0.005)

        def replay() -> None:
            for payload in (*to_ann, *by_ann) * 20:
                forger.send(payload, bob, ann)
                forger.send(payload, _ELSEWHERE, ann)
                time.sleep(0.005)

        journey.undisturbed("forged probes", forge)
        journey.undisturbed("replayed probes", replay)
        seen = capture.stop()
        assert sum(each.source == _ELSEWHERE for each in seen) > 400, "it did not even arrive"
        assert not [each for each in seen if each.destination[0] == _ELSEWHERE[0]], "strangers get an answer"
    assert {agent.path(other)["path"] for agent, other in paths.views()} == {"direct"}


def test_probes_held_back_and_sent_from_elsewhere(journey: Journey) -> None:
    """Who drops packets can have them come late, and from elsewhere; that must do no more than the dropping."""
    paths, (home, away) = journey.paths, journey.paths.sites
    ann = ("192.168.1.11", _ports(paths)[0])

    def hold_back() -> None:
        home.partition_from(away.wan_v4)
        sent = 0
        end = time.monotonic() + 6
        while time.monotonic() < end:
            held = [probe for probe in _probes(capture.read()) if probe.source[0] == away.wan_v4]
            for probe in held[sent:]:
                forger.send(probe.payload, _ELSEWHERE, ann)
            sent = len(held)
            assert _ELSEWHERE[0] not in str(endpoints(paths.ann))
            time.sleep(0.1)
        assert sent

    with Capture(home.router, "wan0", "udp") as capture, Forger(home.router) as forger:
        journey.change("probes come from elsewhere", hold_back, "relay", 2)


def test_directory_and_agent_forged_outside_the_tunnel(journey: Journey) -> None:
    """A neighbour in ann's LAN sends her what only the tunnel may bring."""
    paths = journey.paths
    neighbour = paths.sites[0].host("neighbour")
    neighbour.ip("route add 10.77.1.1 via 192.168.1.11")
    lie = Entry(_ELSEWHERE, known=True)
    message = {
        "v": 1,
        "key": base64.b64encode(bytes(32)).decode(),
        "candidates": [f"{_ELSEWHERE[0]}:{_ELSEWHERE[1]}"],
        "relays": {"two": 0.0001},
        "left": True,
        "answer": True,
        "bye": True,
    }
    before = [relay["seen"] for relay in paths.agents[0].status()["relays"]]

    def forge() -> None:
        for number in range(1, 500):
            answer = write_answer(Answer(number.to_bytes(8, "big"), lie, (lie,)))
            forger.send(answer, (ADDRESSES[0], DIRECTORY), ("10.77.1.1", _CONTROL))
            forger.send(json.dumps(message).encode(), ("10.77.1.2", _CONTROL), ("10.77.1.1", _CONTROL))
            time.sleep(0.01)

    with Capture(paths.ann.host, "eth0", "udp") as capture, Forger(neighbour) as forger:
        journey.undisturbed("directory and agent forged outside the tunnel", forge, 8)
        seen = capture.stop()
    assert sum(each.destination == ("10.77.1.1", _CONTROL) for each in seen) > 900, "it did not even arrive"
    assert not [each for each in seen if each.destination[0] == _ELSEWHERE[0]]
    assert [relay["seen"] for relay in paths.agents[0].status()["relays"]] == before


@pytest.fixture
def lied_to(lab: Lab) -> Iterator[Paths]:
    made = Paths(lab, relay=LyingRelay)
    yield made
    made.close()


def test_a_lying_relay(lied_to: Paths, lab: Lab, figure: Figure) -> None:
    paths, relay = lied_to, lied_to.relays[0]
    victim = lab.stranger()
    with Capture(victim, "eth0", "udp") as capture:
        paths.up()
        paths.wait("direct")
        with Watched(paths.ann, paths.bob) as watched:
            journey = Journey(paths, watched, figure)
            journey.undisturbed("a relay begins to lie", relay.lie.touch, 8)

            def start_again() -> None:
                for agent in paths.agents:
                    agent.stop()
                    agent.start()

            journey.undisturbed("agents start with a lying relay", start_again, 6)
            home, away = paths.sites
            cut = [away.wan_v4]
            journey.change("direct path cut, relay lies", lambda: home.partition_from(*cut), "relay", 2)
            moment = time.monotonic()
            home.heal()
            time.sleep(8)
            gap, lost = watched.since(moment)
        probes = capture.stop()
    figure("path: lying relay, healed", f"gap {gap * 1000:.0f} ms, {lost} lost", "none lost")
    assert not lost
    seconds = probes[-1].time - probes[0].time if probes else 1
    bits = sum(len(probe.payload) + 28 for probe in probes) * 8 / max(seconds, 30) / 2
    figure(
        "path: probes to the lying relay's victim", f"{len(probes)}, {bits:.0f} bit/s for each agent", "< 1000 bit/s"
    )
    assert bits < 1000
