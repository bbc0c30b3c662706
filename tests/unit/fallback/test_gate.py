# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from peer_relay_fallback.gate import Gate, Sources, forwarded, parse

HOME, AWAY = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def test_one_place_and_all_together_are_limited():
    gate = Gate(3, 2)
    assert [gate.enter(HOME), gate.enter(HOME), gate.enter(HOME), gate.enter(AWAY), gate.enter(AWAY)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert gate.refused == {"too many from one address": 1, "all places taken": 1}
    gate.leave(HOME)
    assert gate.enter(AWAY)
    assert len(gate) == 3


def test_who_has_enough_is_told_apart_from_a_full_house():
    gate = Gate(2, 2)
    assert [gate.enter(HOME), gate.enter(HOME)] == [True, True]
    assert gate.full
    assert [gate.crowded(HOME), gate.crowded(AWAY), gate.crowded(None)] == [True, False, False]
    assert not gate.enter(HOME)
    assert not gate.enter(AWAY)
    assert gate.refused == {"too many from one address": 1, "all places taken": 1}
    assert AWAY.packed not in gate._here


def test_an_ipv6_subscriber_is_one_place():
    gate = Gate(9, 1)
    assert gate.enter(ip_address("2001:db8::1"))
    assert not gate.enter(ip_address("2001:db8::ffff:2"))
    assert gate.enter(ip_address("2001:db8:0:1::1"))


def test_whom_a_proxy_speaks_for_is_limited_once_it_is_known():
    gate = Gate(9, 1)
    assert [gate.enter(None), gate.enter(None)] == [True, True]
    assert gate.identify(HOME)
    assert not gate.identify(HOME)
    assert len(gate) == 2
    gate.leave(None)
    gate.leave(HOME)
    assert len(gate) == 0
    assert gate.enter(HOME)


def test_nobody_is_remembered_who_has_gone():
    gate = Gate(9, 9)
    for address in (HOME, AWAY):
        gate.enter(address)
        gate.leave(address)
    full = Gate(0, 0)
    full.enter(HOME)
    assert not gate._here
    assert not full._here


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("10.0.0.1, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1,2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),
        ("192.0.2.1, unknown", None),
        ("192.0.2.1,", None),
    ],
)
def test_only_the_last_entry_is_the_proxys_own(header: str, expected: str | None):
    assert forwarded(header) == (expected and ip_address(expected))


def test_socket_addresses():
    assert parse("::ffff:192.0.2.1") == HOME
    assert parse("fe80::1%eth0") == ip_address("fe80::1")


def test_each_place_has_a_loopback_address_of_its_own():
    sources = Sources()
    given = {sources.source(ip_address(number)) for number in range(0x0A000000, 0x0A000000 + 200)}
    assert len(given) > 190
    assert all(ip_address(source).is_loopback and not source.startswith("127.0.") for source in given)
    assert sources.source(HOME) == sources.source(HOME)
    assert sources.source(None)
