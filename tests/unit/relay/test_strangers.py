# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strangers get no answer, nothing is amplified, and what is not forwarded is counted once (design rules 5 and 6)."""

from __future__ import annotations

import ast
import inspect
import os
from collections import Counter
from pathlib import Path

import peer_relay
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peer_common import packets
from peer_relay import drops
from peer_relay.core import probe
from relay_world import StockDevice, World, at, check_consistency

STRANGERS = [at("198.18.0.1", port) for port in range(1, 5)] + [at("2001:db8::bad", 7)]


def load(world: World) -> None:
    """Use up the handshakes that are answered unconditionally, from many addresses."""
    initiation = StockDevice(world, "loader", STRANGERS[0]).initiation()
    for number in range(300):
        assert world.raw(at(f"198.18.{number}.1" if number < 256 else f"198.19.{number - 256}.1"), initiation) == []
    world.switchboard.drops.clear()


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_every_reason_in_the_code_has_a_text_and_every_text_a_reason() -> None:
    said = set()
    for file in Path(inspect.getfile(peer_relay)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name != "drops.py":
                said.add(node.value)
    assert drops.REASONS.keys() <= said
    for file in Path(inspect.getfile(peer_relay)).parent.rglob("*.py"):
        if "kernel" in file.parts:
            continue  # has reasons of its own, for entries
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                reasons = [word.value for word in ast.walk(node.args[0]) if isinstance(word, ast.Constant)]
                assert reasons
                assert set(reasons) <= drops.REASONS.keys()


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "not_wireguard"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_wireguard"),
        (bytes(1500), "not_wireguard"),
        (b"\4\0\0\0" + bytes(31), "unknown_source"),
        (b"\2\0\0\0" + bytes(88), "unknown_source"),
        (b"\3\0\0\0" + bytes(60), "unknown_source"),
        (b"\1\0\0\0" + bytes(144), "source_not_bound"),
    ],
)
def test_stranger_gets_no_answer(world: World, datagram: bytes, reason: str) -> None:
    assert world.raw(STRANGERS[0], datagram) == []
    assert world.switchboard.drops == {reason: (1, len(datagram))}


def test_stranger_with_the_relays_key_gets_no_answer(world: World) -> None:
    stranger = StockDevice(world, "stranger", STRANGERS[0])
    assert world.raw(STRANGERS[0], stranger.initiation()) == []
    assert world.drops() == {"unknown_device": 1}
    assert list(world.switchboard.own.strangers) == [stranger.identity.public]


def test_only_so_many_unknown_keys_are_remembered(world: World) -> None:
    for number in range(40):
        world.raw(STRANGERS[0], StockDevice(world, f"stranger{number}", STRANGERS[0]).initiation())
    assert len(world.switchboard.own.strangers) == 16


def test_stranger_who_claims_a_registered_key_gets_no_answer(world: World, ann: StockDevice) -> None:
    """The static key in an initiation is only a claim until the timestamp is authenticated."""
    thief = StockDevice(world, "thief", STRANGERS[0])
    thief.identity.public = ann.identity.public
    assert world.raw(STRANGERS[0], thief.initiation()) == []
    assert world.drops() == {"handshake_invalid": 1}
    assert ann.record.attempt_source is None


def test_junk_with_a_valid_mac1_gets_no_answer(world: World) -> None:
    junk = packets.append_macs(packets.HEAD.pack(packets.INITIATION, 1) + os.urandom(108), world.identity.mac1_key)
    assert world.raw(STRANGERS[0], junk) == []
    assert world.drops() == {"handshake_invalid": 1}


# --- load -------------------------------------------------------------------------------------------------------------


def test_under_load_a_handshake_costs_a_round_trip(world: World, ann: StockDevice) -> None:
    load(world)
    (reply,) = ann.send(ann.initiation())
    assert packets.message_type(reply.datagram) == packets.COOKIE_REPLY
    assert ann.record.binding is None
    assert world.drops() == {"cookie_required": 1}
    ann.connect()
    assert ann.record.binding


def test_cookie_of_another_source_does_not_serve(world: World, ann: StockDevice) -> None:
    load(world)
    ann.send(ann.initiation())
    (reply,) = world.raw(STRANGERS[1], ann.initiation())
    assert packets.message_type(reply.datagram) == packets.COOKIE_REPLY


def flood(world: World, sources: list[bytes], count: int) -> list[int]:
    """Send initiations of a stranger who knows the relay's key; return the sizes of the answers."""
    initiation = StockDevice(world, "stranger", STRANGERS[0]).initiation()
    return [
        len(out.datagram) for number in range(count) for out in world.raw(sources[number % len(sources)], initiation)
    ]


@pytest.mark.parametrize(
    ("hosts", "handshakes", "cookies"),
    [(1, 150, 200), (5, 300, 650), (100, 300, 1000), (5000, 300, 1000)],
)
def test_under_load_answers_are_limited(world: World, hosts: int, handshakes: int, cookies: int) -> None:
    sources = [at(f"198.18.{number // 250}.{number % 250}") for number in range(hosts)]
    answers = flood(world, sources, 6000)
    assert answers == [64] * cookies
    assert world.drops() == {
        "unknown_device": handshakes,
        "cookie_required": cookies,
        "handshake_limited": 6000 - handshakes - cookies,
    }
    assert len(world.switchboard.own._shares) <= 1024


def test_proven_sources_are_limited_too(world: World) -> None:
    load(world)
    stranger = world.stranger("stranger", STRANGERS[0])
    stranger.send(stranger.initiation())
    flooded = stranger.initiation()
    for _ in range(600):
        world.raw(STRANGERS[0], flooded)
    assert world.drops() == {"cookie_required": 1, "unknown_device": 400, "handshake_limited": 200}


def test_a_flood_from_a_few_hosts_keeps_nobody_out(world: World, ann: StockDevice) -> None:
    sources = [at(f"198.18.0.{host}", port) for host in range(1, 9) for port in range(1, 9)]
    for _ in range(2):
        flood(world, sources, 3000)
        ann.connect()
        assert world.switchboard.drops["handshake_limited"].packets > 1000
        world.wait(5)
    assert ann.record.binding


def test_a_flood_from_the_many_networks_of_one_site_keeps_nobody_out(world: World, ann: StockDevice) -> None:
    sources = [at(f"2001:db8:bad:{number:x}::1") for number in range(3000)]
    for _ in range(2):
        flood(world, sources, 3000)
        ann.connect()
        assert world.switchboard.drops["handshake_limited"].packets > 1000
        world.wait(5)
    assert ann.record.binding


# --- any input --------------------------------------------------------------------------------------------------------


class Scene:
    """A world with a bound pair and a third device, and a stock of real datagrams to alter."""

    def __init__(self) -> None:
        self.world = world = World()
        self.ann, self.bob, self.cid = (world.add(name, at(f"192.0.2.{n}")) for n, name in enumerate("abc", 1))
        for device in (self.ann, self.bob):
            device.connect()
        self.ann.shake_hands(self.bob)
        # From an address that sends nothing below: what it paid in advance would not be counted there.
        (challenge,) = world.raw(at("198.18.0.9"), self.bob.transport(self.ann, bytes(200)))
        (answer,) = self.bob.receive(challenge.datagram)
        (forwarded,) = world.raw(self.ann.address, self.ann.initiation(self.bob))
        self.bob.loaded = True
        self.real = [
            self.ann.initiation(),
            self.ann.initiation(self.bob),
            self.cid.initiation(),
            self.cid.initiation(self.ann),
            StockDevice(world, "stranger", STRANGERS[0]).initiation(),
            probe.make(world.identity, world.wall),
            self.ann.transport(),
            self.ann.transport(None, bytes(100)),
            self.ann.transport(self.bob, bytes(1400)),
            self.bob.transport(self.ann),
            answer,
            challenge.datagram,
            *self.bob.receive(forwarded.datagram),
        ]
        # An answered probe is a real datagram too.
        self.real += [probe.make(world.identity, world.wall)]
        world.raw(STRANGERS[0], self.real[-1])
        self.real += [packets.HEAD.pack(packets.COOKIE_REPLY, packets.sender_index(challenge.datagram)) + bytes(56)]
        world.switchboard.drops.clear()


@st.composite
def altered(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], int]:
    """Return (number of a real datagram, changed bytes, change of its length)."""
    changes = draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3))
    return draw(st.integers(0, 14)), changes, draw(st.sampled_from([0, 0, 0, 0, -1, 1, -16, 16]))


INPUT = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, rest: bytes([kind, 0, 0, 0]) + rest, st.integers(1, 4), st.binary(min_size=28, max_size=160)
    ),
    altered(),
)
SOURCE = st.one_of(st.sampled_from(STRANGERS), st.sampled_from([at(f"192.0.2.{number}") for number in (1, 2, 3)]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(SOURCE, INPUT, st.sampled_from([0.0, 0.0, 0.1, 1.0, 30.0])), max_size=30))
def test_any_input_is_forwarded_or_counted_once_and_nothing_is_amplified(inputs: list) -> None:
    scene = Scene()
    world, switchboard = scene.world, scene.world.switchboard
    received: Counter[bytes] = Counter()
    sent: Counter[bytes] = Counter()
    before = {device.address for device in (scene.ann, scene.bob)}
    for source, content, pause in inputs:
        if isinstance(content, tuple):
            number, changes, length = content
            datagram = bytearray(scene.real[number])
            for position, value in changes:
                datagram[position % len(datagram)] = value
            content = bytes(datagram[:length] if length < 0 else datagram + bytes(length))
        world.now += pause
        world.wall += pause
        counted = sum(world.drops().values())
        outputs = world.raw(source, content)
        counted = sum(world.drops().values()) - counted
        received[source] += len(content)
        for datagram, binding in outputs:
            sent[binding.address] += len(datagram)
        # Nothing is lost without a count. What waited for a binding may come out, or be counted again, with it.
        released = set(switchboard.bound) - before
        before |= set(switchboard.bound)
        if not released:
            assert counted <= 1
            consumed = packets.message_type(content) in (packets.TRANSPORT, packets.COOKIE_REPLY)
            assert outputs or counted or consumed
        assert switchboard.drops.keys() <= drops.REASONS.keys()
        world.switchboard.tick(world.now, world.wall)
        for datagram, binding in world.take():
            sent[binding.address] += len(datagram)
        check_consistency(switchboard)
    for address, size in sent.items():
        if address not in before:
            assert size <= received[address]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STRANGERS), st.binary(max_size=150)), max_size=30))
def test_strangers_without_keys_get_nothing_at_all(inputs: list[tuple[bytes, bytes]]) -> None:
    world = World()
    for source, datagram in inputs:
        assert world.raw(source, datagram) == []
    assert sum(count.packets for count in world.switchboard.drops.values()) == len(inputs)
    assert sum(count.bytes for count in world.switchboard.drops.values()) == sum(len(data) for _, data in inputs)
