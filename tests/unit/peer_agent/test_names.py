# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a relay's endpoints is used, and when."""

from __future__ import annotations

from peer_agent.endpoints import Endpoint
from peer_agent.host.names import RelayEndpoints
from peer_agent.settings import HostPort

NAME, INNER = HostPort("relay.example", 40000), HostPort("192.168.1.10", 40000)
OLD, NEW, SIX = Endpoint("192.0.2.1", 40000), Endpoint("192.0.2.2", 40000), Endpoint("2001:db8::1", 40000)
LITERAL = Endpoint("192.168.1.10", 40000)


def anywhere(_: Endpoint) -> bool:
    return True


def test_a_name_waits_for_its_address() -> None:
    places = RelayEndpoints([NAME], None, {})
    assert places.current is None
    assert places.names == [NAME]
    assert not places.resolved(NAME, [])
    assert places.resolved(NAME, [OLD])
    assert places.current == OLD


def test_what_works_stays() -> None:
    places = RelayEndpoints([NAME, INNER], LITERAL, {NAME: [OLD]})
    assert not places.resolved(NAME, [NEW])
    assert places.current == LITERAL


def test_a_new_address_of_the_name_in_use() -> None:
    places = RelayEndpoints([NAME, INNER], OLD, {NAME: [OLD]})
    assert places.resolved(NAME, [SIX, NEW])
    assert places.current == NEW, "the same IP version, although the other one comes first"
    assert not places.resolved(NAME, []), "a name without an address loses nothing"
    assert places.current == NEW


def test_the_next_one_in_turn() -> None:
    places = RelayEndpoints([NAME, INNER], OLD, {NAME: [SIX, OLD]})
    assert places.next(anywhere)
    assert places.current == LITERAL
    assert places.next(anywhere)
    assert places.current == SIX, "the other IP version comes last"
    assert places.next(lambda endpoint: endpoint == OLD)
    assert places.current == OLD
    assert not places.next(lambda _: False)
    assert places.current == OLD


def test_names_of_others_mean_nothing() -> None:
    places = RelayEndpoints([INNER], None, {})
    assert places.current == LITERAL
    assert not places.resolved(NAME, [OLD])
