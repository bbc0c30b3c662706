# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service does around the core: interfaces that vanish, sleep, other settings, names, relays' own [Peer]s."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_run import NAS, ONE, PC, RELAYS, TV, TWO, Fallback, Run
from peer_agent import metrics, service, status
from peer_agent.core.reasons import Failure
from peer_agent.endpoints import Endpoint
from peer_agent.host import clock, nat64
from peer_agent.host.names import StatedEndpoints
from peer_agent.settings import HostPort

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


def test_a_wireguard_that_takes_no_change_is_left_alone_with_a_reason(run: Run) -> None:
    run.advance(1)
    assert (run.status["why_not"], run.status["why_not_text"]) == ("", "")
    assert "peers_unchangeable" not in status.text(run.status) + metrics.exposition(run.status)
    run.wireguard.changeable = False
    run.advance(8)
    run.wireguard.done.clear()
    run.advance(8)
    assert run.wireguard.done == []
    assert run.status["problems"] == ["pr0: this WireGuard takes no change of a [Peer]"]
    assert (run.status["why_not"], run.status["peers"]) == ("peers_unchangeable", [])
    assert "wireguard-go" in run.status["why_not_text"]
    assert status.text(run.status).endswith(f"peers_unchangeable: {run.status['why_not_text']}")
    assert 'peer_agent_why_not{interface="pr0",reason="peers_unchangeable"} 1' in metrics.exposition(run.status)
    assert not status.healthy(run.status)
    run.wireguard.there = False
    run.advance(8)
    assert run.status["why_not"] == "", "what is not there refuses nothing"
    run.wireguard.there = run.wireguard.changeable = True
    run.advance(3)
    assert (run.status["why_not"], len(run.status["peers"])) == ("", 2)


def test_wg_is_missing(run: Run) -> None:
    run.wireguard.tool = False
    run.advance(1)
    assert run.status["problems"] == ["wg is missing"]
    assert len(run.status["peers"]) == 2, "it does what it can"
    pairs = run.service._attached.paths
    run.wireguard.tool = True
    run.advance(6)
    assert run.status["problems"] == []
    assert run.service._attached.paths is pairs


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
    run.sockets.host = "192.168.2.2"
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
    pairs = run.service._attached.paths
    stays = {told.peer.name: told.pair for told in pairs}["nas"]
    run.sent(), run.done()
    run.content["peer"][1] = {"name": "pc", "public_key": PC, "addresses": ["10.77.1.4"]}
    run.reload()
    assert run.service._attached.paths is pairs
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
    pairs = run.service._attached.paths
    run.content["agent"]["nonsense"] = 1
    run.sha256 = "two"
    run.reload()
    run.advance(1)
    assert run.service._attached.paths is pairs
    assert "nonsense" in run.status["problems"][0]
    assert run.status["settings_sha256"] == "one"


def test_the_status_tells_at_once_which_settings_run(run: Run) -> None:
    run.advance(1)
    pairs = run.service._attached.paths
    run.sha256 = "two"  # a comment, say
    run.reload()
    assert run.status["settings_sha256"] == "two"
    assert run.service._attached.paths is pairs
    run.counters.gone = True
    run.advance(1)
    run.sha256 = "three"
    run.reload()
    assert run.status["settings_sha256"] == "three"


@pytest.mark.parametrize("put", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), Path.mkdir])
def test_root_waits_for_nothing_in_the_agents_folder(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """`status` is root's, and Ansible's; whoever has taken over the agent puts there what he likes."""
    put(tmp_path / "pr0.json")
    with pytest.raises((OSError, ValueError)):
        status.load(tmp_path / "pr0.json")


# --- relays -----------------------------------------------------------------------------------------------------------


def test_the_end_of_an_earlier_fallback_is_no_way_to_a_relay(run: Run) -> None:
    run.wireguard.endpoints[ONE] = run.wireguard.endpoints[NAS] = Endpoint("127.0.0.1", 7000)
    run.advance(0.5)
    assert run.wireguard.endpoints[ONE] == RELAYS[ONE]
    assert run.wireguard.endpoints[NAS] == RELAYS[ONE]
    assert run.service._attached.relays._entries["one"].fallback, "UDP was blocked, and may still be"


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
    run.sockets.host = "192.168.2.2"
    run.service._look_around(run.now)
    assert [step[0] for step in run.done()] == ["bind"]
    run.now += 200
    run.sockets.host = "192.168.3.2"
    run.service._look_around(run.now)
    assert ("renew", ONE, RELAYS[ONE]) in run.done()


def test_a_refused_certificate_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Failure("certificate_refused", "the certificate is not the pinned one")
    monkeypatch.setattr(Fallback, "failure", failure)
    for _ in range(40):
        run.advance(0.2)
        run.service._run_posted(run.now)
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
        self.known: dict[HostPort, list[Endpoint]] = {}
        self.asked: list[HostPort] = []

    def ask(self, place: HostPort) -> None:
        self.asked.append(place)


def test_a_relay_without_an_endpoint_gets_one(run: Run) -> None:
    run.wireguard.endpoints = dict.fromkeys(run.wireguard.endpoints)
    run.advance(0.5)
    assert run.wireguard.endpoints[TWO] == RELAYS[TWO]
    assert run.wireguard.endpoints[NAS] == RELAYS[ONE]


def test_a_relay_whose_name_has_no_address_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.service._resolver, "ask", lambda place: None)  # the test answers
    run.content["relay"][1]["endpoints"] = ["two.example:40000"]
    run.wireguard.endpoints[TWO] = None
    run.reload()
    links = run.service._attached.relays
    name = HostPort("two.example", 40000)
    assert [view.name for view in links.views()] == ["one"]
    assert not links.resolved(run.now, [(name, [])])
    run.advance(1)
    (problem,) = run.status["problems"]
    assert problem.startswith("two: two.example has no address")
    assert links.resolved(run.now, [(name, [RELAYS[TWO]])]), "begin anew with both"


def test_this_devices_own_name_is_looked_up_again() -> None:
    name, literal = HostPort("home.example", 51820), HostPort("192.0.2.7", 51820)
    resolver = Resolver()
    stated = StatedEndpoints([name, literal], resolver)
    assert stated.endpoints == [Endpoint("192.0.2.7", 51820)]
    stated.look_up_if_due(1000)
    stated.look_up_if_due(1001)
    assert resolver.asked == [name]
    old, new = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820)
    assert stated.resolved([(name, [old]), (HostPort("other.example", 1), [new])])
    assert stated.endpoints == [old, Endpoint("192.0.2.7", 51820)]
    assert not stated.resolved([(name, [])])
    stated.network()
    stated.look_up_if_due(1002)
    assert resolver.asked == [name, name]
    assert stated.resolved([(name, [new])])
    assert stated.endpoints[0] == new


# --- IP versions ------------------------------------------------------------------------------------------------------


def test_ipv4_literals_in_a_network_of_ipv6_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[HostPort] = []
    monkeypatch.setattr(run.service._resolver, "ask", asked.append)
    monkeypatch.setattr(run.sockets, "source", lambda target: "2001:db8::2" if target.address.version == 6 else "")
    run.advance(1)
    run.service._look_around(run.now)
    run.advance(1)
    assert nat64.NAME in asked
    problems = run.status["problems"]
    assert len(problems) == 2
    assert problems[0].startswith("one: there is no IPv4 here for 203.0.113.1:40000")
    assert run.wireguard.endpoints[ONE] == RELAYS[ONE]
    # Its resolver tells of a NAT64.
    run.service._attached.relays.resolved(run.now, [(nat64.NAME, [Endpoint("64:ff9b::c000:aa", 9)])])
    run.advance(0.5)
    assert run.wireguard.endpoints[ONE] == Endpoint("64:ff9b::cb00:7101", 40000)
    assert run.status["problems"] == []


def test_ipv6_literals_in_a_network_of_ipv4_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    six = Endpoint("2001:db8::1", 40000)
    run.content["relay"][0]["endpoints"] = [str(six)]
    run.wireguard.endpoints[ONE] = six
    monkeypatch.setattr(run.sockets, "source", lambda target: "192.0.2.2" if target.address.version == 4 else "")
    run.reload()
    run.advance(5)
    (problem,) = run.status["problems"]
    assert problem.startswith("one: there is no IPv6 here for [2001:db8::1]:40000: give relay_endpoint as a name")
