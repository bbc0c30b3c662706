# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoints, numbers, keys and control messages."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import MAX_CANDIDATES, SIZE, Message, MessageError, decode, encode
from peer_agent.wire.probes import PING, Key, Keyring, Probe, Window, new_number

SECRET = bytes(range(32))
hosts = st.ip_addresses().map(str)
endpoints = st.builds(Endpoint.of, hosts, st.integers(1, 65535))


@given(endpoints)
def test_endpoint_is_read_back(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "192.0.2.1:", ":1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:+1", "192.0.2.1:\u0661"],
)
def test_no_ipv4_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(text)


@pytest.mark.parametrize("text", ["2001:db8::1:1", "[2001:db8::1]", "[192.0.2.1]:1", "[]:1", "a.b:1", "(none)"])
def test_no_ipv6_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(text)


def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert Endpoint.of("::ffff:192.0.2.1", 1) == Endpoint("192.0.2.1", 1)


messages = st.builds(
    Message,
    st.binary(min_size=32, max_size=32),
    st.lists(endpoints, max_size=MAX_CANDIDATES, unique=True).map(tuple),
    st.dictionaries(st.text(max_size=20), st.integers(0, 50000).map(lambda number: number / 1000), max_size=5),
    *[st.booleans()] * 5,
)


@given(messages)
def test_message_is_read_back(message: Message) -> None:
    datagram = encode(message)
    assert len(datagram) <= SIZE
    read = decode(datagram)
    assert read._replace(relays={}) == message._replace(relays={})
    assert list(read.relays.items()) == list(message.relays.items())[: len(read.relays)]


def test_the_longest_message_fits() -> None:
    longest = [Endpoint.of(f"2001:db8:1111:2222:3333:4444:5555:{number:x}666", 51820) for number in range(1, 13)]
    datagram = encode(Message(SECRET, tuple(longest), {"relay-" * 10 + str(n): 0.1 for n in range(16)}, *[True] * 5))
    assert len(datagram) <= SIZE
    assert len(decode(datagram).candidates) == 12


KEY = b64encode(SECRET).decode()


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"v": 2, "key": KEY},
        {"v": 1},
        {"v": 1, "key": 5},
        {"v": 1, "key": "AAAA"},
        {"v": 1, "key": "ü"},
        {"v": 1, "key": KEY, "candidates": 5},
        {"v": 1, "key": KEY, "relays": []},
    ],
)
def test_no_message(document: object) -> None:
    with pytest.raises(MessageError, match=r".+"):
        decode(json.dumps(document).encode())


@given(st.binary(max_size=1200))
def test_noise_is_no_message(noise: bytes) -> None:
    with pytest.raises(MessageError, match=r".+"):
        decode(noise)


def test_what_makes_no_sense_is_left_out() -> None:
    document = {"v": 1, "key": KEY, "candidates": ["192.0.2.1:5", "x", 5, None, "10.0.0.1:99999"], "answer": "yes"}
    document["relays"] = {"one": 0.02, "two": -1, "three": "x", "four": 1e308, "five": True, "l" * 65: 1}
    read = decode(json.dumps(document).encode())
    assert read.candidates == (Endpoint("192.0.2.1", 5),)
    assert read.relays == {"one": 0.02}
    assert read.answer is False


@given(st.lists(st.integers(0, 600)))
def test_a_number_is_accepted_once(numbers: list[int]) -> None:
    window, accepted = Window(), []
    for number in numbers:
        if window.accept(number):
            assert number not in accepted
            accepted.append(number)
        else:
            assert number in accepted or number <= max(accepted) - 256


@given(st.lists(st.integers(1, 600), unique=True))
def test_a_number_with_a_random_part_is_accepted_once_and_in_any_order(serials: list[int]) -> None:
    window, highest = Window(), 0
    for serial in serials:
        made = new_number(serial)
        highest = max(highest, serial)
        assert 0 < made < 2**64
        assert window.accept(made) == (serial > highest - 256)
        assert not window.accept(made)
    assert len({new_number(1) for _ in range(100)}) > 90


def test_keyring_finds_the_owner_and_forgets_old_keys() -> None:
    ring, probe = Keyring(), Probe(PING, 1, False)
    secrets = [bytes([number]) * 32 for number in range(200)]
    for number, secret in enumerate(secrets):
        ring.put(number, Key(SECRET, secret, True))
    for number, secret in enumerate(secrets):
        assert ring.unseal(Key(secret, SECRET, False).seal(probe)) == (number, probe)
    ring.put(5, Key(SECRET, bytes(32), True))
    assert ring.unseal(Key(secrets[5], SECRET, False).seal(probe)) is None
    ring.put(6, None)
    assert ring.unseal(Key(secrets[6], SECRET, False).seal(probe)) is None
    assert ring.unseal(b"") is None
