# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of relays and the way to the fallback, without any pair."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from peer_agent.core.actions import AskDirectory, CloseFallback, OpenFallback, SetRelayEndpoint
from peer_agent.core.paths import RelayView
from peer_agent.core.relay_choice import RelayChoice
from peer_agent.core.relay_liveness import Relay, RelayLiveness
from peer_agent.endpoints import Endpoint

PLACES = [Endpoint(f"203.0.113.{number}", 40000) for number in range(1, 4)]
LOCAL = Endpoint("127.0.0.1", 7000)
SEEN = Endpoint("198.51.100.1", 20000)
TRIP = 0.05


class Run:
    """Relays that answer, or not, after a round trip."""

    def __init__(
        self,
        count: int,
        answers: Callable[[str, bool], bool] = lambda name, udp: True,
        trips: dict[str, float] | None = None,
    ):
        self.now = 1000.0
        self.answers = answers
        self.trips = trips or {}
        self.relays = RelayLiveness((Relay(f"relay{n}", PLACES[n], True) for n in range(count)), self.now)
        self.reach = {f"relay{n}": PLACES[n] for n in range(count)}
        self.asked: list[tuple[float, str]] = []
        self.connects: list[str] = []
        self._answers: list[tuple[float, str, bytes]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.relays.tick(self.now)
            while self.relays.outbox:
                self._do(self.relays.outbox.pop(0))
            self.now += 0.01
            while self._answers and self._answers[0][0] <= self.now:
                _, name, nonce = self._answers.pop(0)
                assert self.relays.answered(self.now, name, nonce, SEEN)

    def _do(self, action: object) -> None:
        match action:
            case AskDirectory(name, nonce):
                self.asked.append((self.now, name))
                if self.answers(name, self.reach[name] != LOCAL):
                    self._answers.append((self.now + self.trips.get(name, TRIP), name, nonce))
                    self._answers.sort()
            case SetRelayEndpoint(name, endpoint):
                self.reach[name] = endpoint
            case OpenFallback(name):
                self.connects.append(name)
            case CloseFallback(name):
                self.connects.append(f"-{name}")

    def view(self, name: str = "relay0") -> RelayView:
        return next(view for view in self.relays.views() if view.name == name)


def test_a_relay_that_is_well_is_asked_seldom() -> None:
    run = Run(1)
    run.run(100)
    assert len(run.asked) <= 11
    assert run.view()[:4] == ("relay0", PLACES[0], True, False)
    assert run.view().seen == SEEN
    assert run.view().rtt == pytest.approx(TRIP, abs=0.02)


def test_a_suspicion_ends_within_a_second_or_so() -> None:
    run = Run(2)
    run.run(5)
    run.answers = lambda name, udp: name != "relay0"
    run.relays.suspect(run.now, "relay0")
    run.run(1.2)
    assert [view.alive for view in run.relays.views()] == [False, True]
    assert not run.connects
    run.answers = lambda name, udp: True
    run.run(2)
    assert run.view().alive


def test_suspicion_without_a_cause_costs_some_questions_only() -> None:
    run = Run(1)
    run.run(5)
    before = len(run.asked)
    for _ in range(10):
        run.relays.suspect(run.now, "relay0")
        run.run(1)
    assert run.view().alive
    assert len(run.asked) - before <= 12


def test_one_lucky_answer_brings_no_relay_back() -> None:
    run = Run(1, lambda name, udp: False)
    run.relays = RelayLiveness([Relay("relay0", PLACES[0], False)], run.now)
    run.run(5)
    assert not run.view().alive
    lucky = iter([True])
    run.answers = lambda name, udp: next(lucky, False)
    run.run(5)
    assert not run.view().alive


def test_a_relay_that_has_come_back_is_watched_for_a_minute() -> None:
    run = Run(1)
    run.run(5)
    run.answers = lambda name, udp: False
    run.run(13)
    assert not run.view().alive
    run.answers = lambda name, udp: True
    run.run(3)
    assert run.view().alive
    asked = len(run.asked)
    run.run(60)
    assert 25 <= len(run.asked) - asked <= 33
    asked = len(run.asked)
    run.run(60)
    assert len(run.asked) - asked <= 7


@pytest.mark.parametrize("seed", range(3))
def test_an_idle_pair_stays_away_from_a_relay_that_dies_again_and_again(seed: int) -> None:
    """It is the nearest by far, and 5 s dead every 20 to 60 s."""
    randomness = random.Random(seed)
    run = Run(2, trips={"relay0": 0.01, "relay1": 0.1})
    run.run(5)
    choice, at, returns, dies = RelayChoice(), "relay0", 0, run.now
    run.answers = lambda name, udp: name != "relay0" or not dies <= run.now < dies + 5
    start = run.now
    while run.now < start + 600:
        run.run(0.1)
        if run.now > dies + 5:
            dies = run.now + randomness.uniform(20, 60)
        before, (at, _) = at, choice.choose(run.now, at, run.relays.views(), THEIRS)
        returns += (before, at) == ("relay1", "relay0")
    assert returns <= 1
    (problem,) = run.relays.problems()
    assert problem.startswith("relay0: has stopped answering ")
    dies = float("inf")
    run.run(500)
    for _ in range(40):
        run.run(1)
        at, _ = choice.choose(run.now, at, run.relays.views(), THEIRS)
    assert at == "relay0", "it has proven itself at last"
    run.run(200)
    assert not run.relays.problems()


def test_fallback_is_tried_in_turn_and_left_once_udp_works() -> None:
    run = Run(2, lambda name, udp: not udp)
    run.run(3)
    assert run.connects == ["relay0"]
    run.relays.fallback(run.now, "relay0", None)
    run.run(3)
    assert run.connects[-1] == "relay1"
    run.relays.fallback(run.now, "relay1", LOCAL)
    run.run(60)
    assert run.view("relay1")[:4] == ("relay1", LOCAL, True, True)
    assert run.view("relay1").seen is None
    assert run.connects.count("relay0") == 1
    assert run.reach["relay1"] == LOCAL
    run.answers, before = lambda name, udp: True, len(run.asked)
    run.run(7)
    assert run.connects[-1] == "-relay1"
    assert run.reach["relay1"] == PLACES[1]
    run.run(7)
    assert all(view.alive and not view.fallback for view in run.relays.views())
    assert len(run.asked) - before < 20


def test_a_fallback_that_goes_silent_is_opened_again() -> None:
    run = Run(1, lambda name, udp: not udp)
    run.run(3)
    run.relays.fallback(run.now, "relay0", LOCAL)
    run.run(10)
    run.answers = lambda name, udp: False
    run.run(20)
    assert run.connects[1:3] == ["-relay0", "relay0"]


def test_a_fallback_that_stood_is_opened_again_at_once() -> None:
    run = Run(2, lambda name, udp: not udp)
    run.run(3)
    run.relays.fallback(run.now, "relay0", LOCAL)
    run.run(10)
    run.relays.fallback(run.now, "relay0", None, "fallback_failed")
    run.run(0.1)
    assert run.connects[-2:] == ["-relay0", "relay0"], "the same one: others may be worse"
    run.relays.fallback(run.now, "relay0", None, "fallback_failed")
    run.run(1)
    assert run.connects[-1] == "-relay0", "one that ends soon has time"
    run.run(1.5)
    assert run.connects[-1] == "relay1"


def test_after_a_restart_the_fallback_is_opened_at_once_unless_udp_works() -> None:
    run = Run(2, lambda name, udp: not udp)
    run.relays = RelayLiveness((Relay(f"relay{n}", PLACES[n], True) for n in range(2)), run.now, "relay1")
    run.run(0.1)
    assert run.connects == ["relay1"]
    run.relays.fallback(run.now, "relay1", LOCAL)
    run.run(1)
    assert run.view("relay1")[:4] == ("relay1", LOCAL, True, True)
    run.answers = lambda name, udp: True
    run.run(7)
    assert all(view.alive and not view.fallback for view in run.relays.views())


def test_elsewhere_the_fallback_is_opened_at_once() -> None:
    run = Run(1, lambda name, udp: not udp)
    run.run(3)
    run.relays.fallback(run.now, "relay0", LOCAL)
    run.run(1)
    run.relays.fallback(run.now, "relay0", None)
    run.relays.network(run.now)
    run.run(0.1)
    assert run.connects[-1] == "relay0"


def test_the_reason_of_a_failed_fallback_lasts_until_it_works() -> None:
    run = Run(1, lambda name, udp: not udp)
    run.run(3)
    run.relays.fallback(run.now, "relay0", None, "certificate_refused")
    run.run(4)
    assert run.view().failure == "certificate_refused"
    run.relays.fallback(run.now, "relay0", LOCAL)
    run.run(1)
    assert run.view().failure == ""


def test_answers_to_nothing_are_told_apart() -> None:
    run = Run(1)
    run.run(5)
    assert not run.relays.answered(run.now, "relay0", bytes(8), SEEN)
    assert not run.relays.answered(run.now, "nobody", bytes(8), SEEN)


# --- choice -----------------------------------------------------------------------------------------------------------


def views(*trips: float | None, dead: str = "", fallback: str = "", flapping: str = "") -> list[RelayView]:
    names = [f"relay{number}" for number in range(len(trips))]
    return [
        RelayView(name, PLACES[n], name not in dead, name in fallback, trips[n], steady=name not in flapping)
        for n, name in enumerate(names)
    ]


THEIRS = {"relay0": 0.01, "relay1": 0.01, "relay2": 0.01}


@pytest.mark.parametrize(
    ("among", "theirs", "best"),
    [
        (views(0.1, 0.1, dead="relay0"), None, "relay1"),
        (views(0.1, 0.2, 0.05, dead="relay0"), THEIRS, "relay2"),
        (views(0.1, 0.2, 0.05, dead="relay0"), {"relay1": 0.1}, "relay1"),
        (views(0.1, 0.2, 0.05, dead="relay0"), {}, "relay2"),
        (views(0.1, 0.2, fallback="relay0"), THEIRS, "relay1"),
        (views(0.1, 0.2, fallback="relay0", dead="relay1"), THEIRS, "relay0"),
        (views(0.1, 0.2, dead="relay0 relay1"), THEIRS, "relay0"),
        (views(0.1, 0.2, 0.3, dead="relay0", flapping="relay1"), THEIRS, "relay2"),
        (views(0.1, 0.2, 0.3, dead="relay0", flapping="relay1"), None, "relay2"),
        (views(0.1, 0.2, dead="relay0", flapping="relay1"), THEIRS, "relay1"),
        (views(0.1, 0.2, fallback="relay0", flapping="relay1"), THEIRS, "relay1"),
        (views(0.1, 0.2, 0.2, dead="relay0"), {"relay1": 5.01, "relay2": 0.1}, "relay2"),
    ],
)
def test_choice(among: list[RelayView], theirs: dict[str, float] | None, best: str) -> None:
    assert RelayChoice().choose(0.0, "relay0", among, theirs)[0] == best


def test_a_relay_that_works_is_kept_until_another_is_much_better_for_long() -> None:
    choice = RelayChoice()
    for second in range(100):
        assert choice.choose(second, "relay0", views(0.1, 0.09), THEIRS)[0] == "relay0"
    for second in range(100, 130):
        assert choice.choose(second, "relay0", views(0.1, 0.02), THEIRS)[0] == "relay0"
    assert choice.choose(131, "relay0", views(0.1, 0.02), THEIRS) == ("relay1", True)
