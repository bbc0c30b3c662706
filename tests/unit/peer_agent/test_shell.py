# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service does around the core: interfaces that vanish, sleep, other settings, names, relays' own [Peer]s."""

from __future__ import annotations

import base64
import copy
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peer_agent import clock, directory, service, settings
from peer_agent.endpoints import Endpoint
from peer_agent.interface import Interface, Peer
from peer_agent.names import Stated
from peer_agent.reasons import Failure
from peer_agent.settings import Place
from peer_agent.wg import WireGuardError

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 6)]
ONE, TWO, NAS, TV, PC = KEYS
RELAYS = {ONE: Endpoint("203.0.113.1", 40000), TWO: Endpoint("203.0.113.2", 40000)}
SETTINGS = {
    "agent": {"addresses": ["10.77.1.1"], "networks": ["10.77.0.0/16"]},
    "relay": [
        {
            "name": name,
            "public_key": key,
            "addresses": [f"10.77.0.{number}"],
            "endpoints": [str(RELAYS[key])],
            "fallback_url": "wss://relay.example/",
        }
        for number, (name, key) in enumerate((("one", ONE), ("two", TWO)), 1)
    ],
    "peer": [
        {"name": name, "public_key": key, "addresses": [f"10.77.1.{number}"]}
        for number, (name, key) in enumerate((("nas", NAS), ("tv", TV)), 2)
    ],
}


class WireGuard:
    """WireGuard as it is told."""

    def __init__(self) -> None:
        self.name = "pr0"
        self.endpoints: dict[str, Endpoint] = {**RELAYS, **dict.fromkeys((NAS, TV, PC), RELAYS[ONE])}
        self.handshake = 0
        self.there = True
        self.tool = True
        self.done: list[tuple[Any, ...]] = []

    def show(self) -> Interface:
        if not self.there:
            raise WireGuardError("wg show: Protocol not supported")
        peers = {
            key: Peer(key, False, place, "", self.handshake if key in RELAYS else 0, 0, 0, 25)
            for key, place in self.endpoints.items()
        }
        return Interface(51820, 0, peers)

    def set_endpoint(self, key: str, place: Endpoint) -> None:
        self.endpoints[key] = place
        self.done.append(("set", key, place))

    def renew(self, key: str, place: Endpoint) -> None:
        self.endpoints[key] = place
        self.done.append(("renew", key, place))

    def bind_again(self, port: int) -> None:
        self.done.append(("bind", port))

    def problem(self) -> str:
        return "" if self.tool else "wg is missing"

    def close(self) -> None:
        pass


class Counters:
    def __init__(self, wireguard: WireGuard):
        self.wireguard = wireguard
        self.gone = False

    def read(self) -> int | None:
        return None if self.gone else 100

    def close(self) -> None:
        pass


class Tunnel:
    moved = 100

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.questions: list[tuple[bytes, Any]] = []  # to relays

    def send(self, payload: bytes, address: Any, port: int) -> bool:
        self.sent.append((str(address), port))
        if port == 7077:
            self.questions.append((payload, address))
        return True


class Ground:
    """A device on one network."""

    def __init__(self) -> None:
        self.tunnel: Tunnel | None = Tunnel()
        self.raw = None
        self.host = "192.168.1.2"
        self._fresh = True

    def fit(self, _running: Interface) -> bool:
        fresh, self._fresh = self._fresh, False
        return fresh

    def leave(self) -> None:
        self._fresh = True

    def way(self, _target: Endpoint) -> str:
        return self.host

    def forget_ways(self) -> None:
        pass

    def addresses(self) -> list[Any]:
        return [ip_interface(f"{self.host}/24")]


class Fallback:
    """One that is tried for ever, unless there is a failure to report."""

    failure: Failure | None = None

    def __init__(self, _url: str, _fingerprint: str, _mark: int, _port: int, report: Callable[..., None]):
        if self.failure:
            report(None, self.failure)

    def close(self) -> None:
        pass


class Run:
    """The service, with a clock that the test turns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.content = copy.deepcopy(SETTINGS)
        self.content["agent"]["status_file"] = str(folder / "status.json")
        self.file = folder / "pr0.toml"
        self.sha256 = "one"
        monkeypatch.setattr(settings, "load", self._load)
        self.wireguard, self.ground = WireGuard(), Ground()
        self.counters = Counters(self.wireguard)
        monkeypatch.setitem(sys.modules, "peer_agent.fallback", SimpleNamespace(Fallback=Fallback))
        monkeypatch.setattr(service, "WireGuard", lambda name: self.wireguard)
        monkeypatch.setattr(service, "Counters", lambda name: self.counters)
        monkeypatch.setattr(service, "Ground", lambda *_: self.ground)
        monkeypatch.setattr(service, "clock", lambda: self.now)
        self.now = clock.clock()
        self.service = service.Service(settings.load(self.file))

    def _load(self, file: Path) -> settings.Settings:
        return replace(settings.parse(self.content, file), sha256=self.sha256)

    def advance(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while True:
            delay = self.service._advance(self.now)
            if self.now >= end:
                return
            self.now = min(end, self.now + max(delay, 0.001))

    def reload(self) -> None:
        self.service._take_over_settings()
        self.advance(0.3)

    @property
    def status(self) -> dict:
        return json.loads(Path(self.content["agent"]["status_file"]).read_text())

    def answer(self) -> None:
        """All relays answer what they were asked last."""
        for payload, address in self.ground.tunnel.questions:
            nonce, targets = directory.read_request(payload)
            answer = directory.Answer(nonce, directory.Entry(), tuple(directory.Entry() for _ in targets))
            self.service._heard(self.now, directory.write_answer(answer), address, 7077)
        self.ground.tunnel.questions.clear()

    def sent(self) -> list[tuple[str, int]]:
        """What went into the tunnel since the last time."""
        sent, self.ground.tunnel.sent = self.ground.tunnel.sent, []
        return sent

    def done(self) -> list[tuple[Any, ...]]:
        """What WireGuard was told since the last time."""
        done, self.wireguard.done = self.wireguard.done, []
        return done

    def close(self) -> None:
        parts = self.service
        parts._end()
        parts._changes.close()
        parts._selector.close()
        for sock in (parts._wake, parts._bell, parts._resolver.wake, parts._resolver._bell):
            sock.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    made = Run(tmp_path, monkeypatch)
    yield made
    made.close()


# --- the interface ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [True, False])
def test_an_interface_goes_and_comes(run: Run, counted: bool) -> None:
    run.advance(1)
    assert run.status["problems"] == []
    run.wireguard.there = False
    run.counters.gone = counted
    run.advance(8)
    assert "pr0" in run.status["problems"][0]
    assert run.status["peers"] == []
    run.wireguard.there, run.counters.gone = True, False
    run.advance(3)
    assert run.status["problems"] == []
    assert [peer["name"] for peer in run.status["peers"]] == ["nas", "tv"]


def test_wg_is_missing(run: Run) -> None:
    run.wireguard.tool = False
    run.advance(1)
    assert run.status["problems"] == ["wg is missing"]
    assert len(run.status["peers"]) == 2, "it does what it can"
    pairs = run.service._pairs
    run.wireguard.tool = True
    run.advance(6)
    assert run.status["problems"] == []
    assert run.service._pairs is pairs


def test_wg_and_the_interface_are_missing(run: Run) -> None:
    run.wireguard.tool, run.counters.gone = False, True
    run.advance(1)
    assert run.status["problems"] == ["wg is missing", "pr0 is not there: start wg-quick@pr0"]
    run.wireguard.tool = True
    run.advance(1)
    assert run.status["problems"] == ["pr0 is not there: start wg-quick@pr0"]


# --- sleep ------------------------------------------------------------------------------------------------------------


def test_after_sleep_everybody_is_asked_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.advance(5)
    run.sent(), run.done()
    monkeypatch.setattr(run.service._sleep, "passed", iter([7.0, 0.0, 0.0, 0.0]).__next__)
    run.now += 7
    run.service._advance(run.now)
    run.service._advance(run.now)
    assert {("10.77.0.1", 7077), ("10.77.0.2", 7077), ("10.77.1.2", 7078), ("10.77.1.3", 7078)} <= set(run.sent())
    assert ("bind", 51820) not in run.done()


def test_after_sleep_elsewhere_wireguard_finds_its_address_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.advance(5)
    run.done()
    run.ground.host = "192.168.2.2"
    monkeypatch.setattr(run.service._sleep, "passed", iter([7.0, 0.0]).__next__)
    run.service._advance(run.now + 7)
    assert ("bind", 51820) in run.done()


def test_sleep_is_what_only_one_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {clock.time.CLOCK_BOOTTIME: 100.0, clock.time.CLOCK_MONOTONIC: 90.0}
    monkeypatch.setattr(clock.time, "clock_gettime", clocks.__getitem__)
    sleep = clock.Sleep()
    clocks[clock.time.CLOCK_BOOTTIME] += 500
    clocks[clock.time.CLOCK_MONOTONIC] += 500
    assert sleep.passed() == 0
    clocks[clock.time.CLOCK_BOOTTIME] += 30
    assert sleep.passed() == 30
    assert sleep.passed() == 0


def test_the_time_of_day_means_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.wireguard.handshake = int(service.time.time())
    run.advance(1)
    run.done()
    for jump in (10**7, -(10**7)):
        wall = service.time.time
        monkeypatch.setattr(service.time, "time", lambda wall=wall, jump=jump: wall() + jump)
        run.advance(6)
    assert not [step for step in run.done() if step[0] == "renew"], "the session is as old as before"


# --- other settings ---------------------------------------------------------------------------------------------------


def test_a_reload_leaves_alone_who_stays(run: Run) -> None:
    run.advance(1)
    pairs = run.service._pairs
    stays = {told.peer.name: told.pair for told in pairs}["nas"]
    run.sent(), run.done()
    run.content["peer"][1] = {"name": "pc", "public_key": PC, "addresses": ["10.77.1.4"]}
    run.reload()
    assert run.service._pairs is pairs
    assert {told.peer.name: told.pair for told in pairs}["nas"] is stays
    assert [peer["name"] for peer in run.status["peers"]] == ["nas", "pc"]
    assert ("10.77.1.3", 7078) in run.sent(), "the one that goes is told"
    run.advance(2)
    sent = run.sent()
    assert ("10.77.1.4", 7078) in sent
    assert not any(address == "10.77.1.3" for address, _ in sent)
    assert not [step for step in run.done() if NAS in step]


def test_a_reload_with_another_relay_keeps_the_paths(run: Run) -> None:
    run.wireguard.handshake = int(service.time.time())
    run.wireguard.endpoints |= dict.fromkeys((NAS, TV), RELAYS[TWO])
    run.advance(1)
    run.done()
    del run.content["relay"][0]
    run.reload()
    assert [relay["name"] for relay in run.status["relays"]] == ["two"]
    assert {peer["via"] for peer in run.status["peers"]} == {"two"}
    assert not [step for step in run.done() if NAS in step]


def test_a_reload_with_an_error_changes_nothing(run: Run) -> None:
    run.advance(1)
    pairs = run.service._pairs
    run.content["agent"]["nonsense"] = 1
    run.sha256 = "two"
    run.reload()
    run.advance(1)
    assert run.service._pairs is pairs
    assert "nonsense" in run.status["problems"][0]
    assert run.status["settings_sha256"] == "one"


def test_the_status_tells_at_once_which_settings_run(run: Run) -> None:
    run.advance(1)
    pairs = run.service._pairs
    run.sha256 = "two"  # a comment, say
    run.reload()
    assert run.status["settings_sha256"] == "two"
    assert run.service._pairs is pairs
    run.counters.gone = True
    run.advance(1)
    run.sha256 = "three"
    run.reload()
    assert run.status["settings_sha256"] == "three"


# --- relays -----------------------------------------------------------------------------------------------------------


def test_the_end_of_an_earlier_fallback_is_no_way_to_a_relay(run: Run) -> None:
    run.wireguard.endpoints[ONE] = run.wireguard.endpoints[NAS] = Endpoint("127.0.0.1", 7000)
    run.advance(0.5)
    assert run.wireguard.endpoints[ONE] == RELAYS[ONE]
    assert run.wireguard.endpoints[NAS] == RELAYS[ONE]
    assert run.service._links._links["one"].fallback, "UDP was blocked, and may still be"


def test_without_a_session_another_endpoint_gets_a_new_handshake(run: Run) -> None:
    run.content["relay"][0]["endpoints"].append("192.168.1.10:40000")
    run.reload()
    run.advance(5)
    inner = Endpoint("192.168.1.10", 40000)
    assert ("renew", ONE, inner) in run.done()
    run.wireguard.handshake = int(service.time.time())
    run.advance(6)
    run.done()
    run.advance(3)
    steps = [step for step in run.done() if step[1] == ONE]
    assert steps
    assert {step[0] for step in steps} == {"set"}


def test_elsewhere_without_a_session_the_relay_is_met_anew(run: Run) -> None:
    run.wireguard.handshake = int(service.time.time())
    run.advance(6)
    run.done()
    run.ground.host = "192.168.2.2"
    run.service._look_around(run.now)
    assert [step[0] for step in run.done()] == ["bind"]
    run.now += 200
    run.ground.host = "192.168.3.2"
    run.service._look_around(run.now)
    assert ("renew", ONE, RELAYS[ONE]) in run.done()


def test_a_refused_certificate_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Failure("certificate_refused", "the certificate is not the pinned one")
    monkeypatch.setattr(Fallback, "failure", failure)
    for _ in range(40):
        run.advance(0.2)
        run.service._receive(run.service._wake, None)
    status = run.status
    assert {peer["why_not"] for peer in status["peers"]} == {"certificate_refused"}
    assert "run the playbook" in status["peers"][0]["why_not_text"]
    assert status["problems"] == [f"{name}: fallback: the certificate is not the pinned one" for name in ("one", "two")]
    for _ in range(20):
        run.advance(0.2)
        run.answer()
    assert [relay["alive"] for relay in run.status["relays"]] == [True, True]
    assert run.status["problems"] == [], "over UDP, what a fallback failed with is over"


# --- names ------------------------------------------------------------------------------------------------------------


class Resolver:
    def __init__(self) -> None:
        self.known: dict[Place, list[Endpoint]] = {}
        self.asked: list[Place] = []

    def ask(self, place: Place) -> None:
        self.asked.append(place)


def test_this_devices_own_name_is_looked_up_again() -> None:
    name, literal = Place("home.example", 51820), Place("192.0.2.7", 51820)
    resolver = Resolver()
    stated = Stated([name, literal], resolver)
    assert stated.endpoints == [Endpoint("192.0.2.7", 51820)]
    stated.tick(1000)
    stated.tick(1001)
    assert resolver.asked == [name]
    old, new = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820)
    assert stated.found([(name, [old]), (Place("other.example", 1), [new])])
    assert stated.endpoints == [old, Endpoint("192.0.2.7", 51820)]
    assert not stated.found([(name, [])])
    stated.network()
    stated.tick(1002)
    assert resolver.asked == [name, name]
    assert stated.found([(name, [new])])
    assert stated.endpoints[0] == new
