# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart of the relay costs: nothing that it can help (design rule 7); its state file, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peer_common import packets
from peer_relay import state
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.wireguard.noise import tai64n
from relay_world import LOCAL, LOCAL_2, StockDevice, World, at, check_consistency

AWAY = at("203.0.113.7", 4242)
Pair = tuple[StockDevice, StockDevice]


def test_tunnels_survive_without_a_new_handshake(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.restart()
    assert ann.say(bob)
    assert bob.say(ann)
    assert world.drops() == {}
    assert [packets.message_type(seen) for seen in bob.seen].count(packets.INITIATION) == 1


def test_routes_that_have_just_ended_do_not_cost_the_others(world: World, pair: Pair) -> None:
    """They are still there until they are swept; a file that tells of them was not usable at all."""
    ann, bob = pair
    world.leave(bob)
    ann.send(ann.initiation(bob))
    world.wait(19.5)
    world.now += 0.9  # the initiation's route ended 0.4 s ago
    assert any(route.expires < world.now for route in bob.record.routes.values())
    world.arrive(bob)
    world.restart()
    assert ann.say(bob)
    assert bob.say(ann)


def test_bindings_keep_the_relays_own_address(world: World, pair: Pair) -> None:
    ann, _bob = pair
    ann.keepalive(LOCAL_2)
    world.restart()
    assert ann.record.binding == (ann.address, LOCAL_2)


def test_relay_greets_its_devices_and_has_sessions_again(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.restart()
    assert ann.record.current is None
    greetings = world.tick()
    assert {sent.binding.address for sent in greetings} == {ann.address, bob.address}
    assert ann.record.current
    ann.keepalive()
    assert world.drops() == {}
    assert [kind for kind, _ in world.events() if kind == "moved"] == []
    world.wait(10)
    assert {packets.message_type(seen) for seen in ann.seen[-1:]} != {packets.INITIATION}


def test_greetings_are_repeated_for_90_seconds(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.leave(ann)
    world.restart()
    world.log.clear()
    world.wait(200)
    greetings = [sent for sent in world.log if packets.message_type(sent.datagram) == packets.INITIATION]
    assert len([sent for sent in greetings if sent.binding.address == ann.address]) == 18
    assert len([sent for sent in greetings if sent.binding.address == bob.address]) == 1


def test_greetings_of_many_devices_come_in_slices(world: World) -> None:
    for number in range(70):
        world.add(f"device{number}", at("192.0.2.1", 1000 + number)).connect()
    world.restart()
    counts = [len([s for s in world.tick() if packets.message_type(s.datagram) == 1]) for _ in range(6)]
    assert counts == [20, 20, 20, 10, 0, 0]


def test_device_that_moved_during_the_restart_is_found_again(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.move(AWAY)
    world.restart()
    ann.send(ann.transport(bob, bytes(200)))
    assert ann.record.binding.address == AWAY
    assert ann.say(bob)
    assert bob.say(ann)


def test_device_that_only_answers_and_moved_meanwhile_is_found_by_its_next_keepalive(world: World, pair: Pair) -> None:
    ann, bob = pair
    ann.move(AWAY)
    world.restart()
    ann.keepalive()
    assert ann.record.binding.address == AWAY
    assert bob.say(ann)
    assert not world.switchboard.own.former.keys() & ann.record.former.keys()


def test_device_that_moved_is_found_after_a_second_restart(world: World, pair: Pair) -> None:
    ann, _bob = pair
    world.leave(ann)
    for _ in range(2):
        world.restart()
        world.tick()
    ann.move(AWAY)
    ann.keepalive()
    assert ann.record.binding.address == AWAY


def test_old_indexes_of_the_relay_lead_to_one_question_each(world: World, pair: Pair) -> None:
    """Whoever has seen one, and forges sources: one question is on credit, the rest is paid for."""
    ann, bob = pair
    index = ann.record.current.local_index
    keepalive = packets.TRANSPORT.to_bytes(4, "little") + index.to_bytes(4, "little") + bytes(24)
    world.leave(ann)
    world.leave(bob)
    world.restart()
    world.log.clear()
    for number in range(100):
        world.raw(at(f"203.0.113.{number}"), keepalive)
        world.now += 1
    asked = [sent for sent in world.log if sent.binding.address not in (ann.address, bob.address)]
    assert len(asked) == 1
    assert world.drops() == {"source_unproven": 100}


def test_old_indexes_of_the_relay_end_with_their_sessions(world: World, pair: Pair) -> None:
    ann, _bob = pair
    world.leave(ann)
    world.wait(60)
    world.restart()
    left = max(ann.record.former.values()) - world.now
    assert 0 < left <= 120
    world.wait(left + 1)
    assert not ann.record.former
    assert not world.switchboard.own.former


def test_old_indexes_of_the_relay_go_with_their_device(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.restart()
    world.remove(ann)
    assert set(world.switchboard.own.former.values()) == {bob.record}


def test_state_of_a_version_that_kept_no_sessions(world: World, pair: Pair) -> None:
    saved = state.export(world.switchboard, world.now, world.wall)
    for entry in saved["devices"].values():
        del entry["sessions"]
    world.start()
    state.restore(world.switchboard, saved, world.now)
    assert len(world.switchboard.bound) == 2
    assert not world.switchboard.own.former


def test_keepalive_on_a_session_of_before_is_counted(world: World, pair: Pair) -> None:
    ann, _bob = pair
    world.restart()
    assert ann.keepalive() == []
    assert world.drops() == {"unknown_index": 1}


def test_initiation_captured_before_the_restart_is_refused_after_it(world: World, ann: StockDevice) -> None:
    captured = ann.initiation()
    ann.send(captured)
    world.restart()
    assert world.raw(AWAY, captured) == []
    assert world.drops() == {"timestamp_replayed": 1}


@pytest.mark.parametrize("jump", [-3600.0, -1e9, 0.0, 3600.0])
def test_relays_timestamps_increase_whatever_the_clock_does(world: World, pair: Pair, jump: float) -> None:
    ann, bob = pair
    for _ in range(3):
        ann.move(AWAY if ann.address != AWAY else at("192.0.2.1"))
        ann.send(ann.transport(bob, bytes(200)))
        assert ann.record.binding.address == ann.address
        before = world.switchboard.own.last_timestamp
        world.restart(wall_jump=jump)
        world.tick()
        assert world.switchboard.own.last_timestamp > before
        assert ann.record.current, "a device refuses an initiation that is older than one before"
        world.wait(2)


def test_clock_that_jumps_back_while_the_relay_runs(world: World, pair: Pair) -> None:
    ann, bob = pair
    for jump in (-1e6, -5.0, 1e6, -1e6):
        world.wall += jump
        world.wait(2)
        ann.move(AWAY if ann.address != AWAY else at("192.0.2.1"))
        ann.send(ann.transport(bob, bytes(200)))
        assert ann.record.binding.address == ann.address


def test_routes_keep_the_time_that_they_had_left(world: World, pair: Pair) -> None:
    ann, _bob = pair
    world.wait(100)
    world.restart(pause=50)
    (route,) = ann.record.routes.values()
    assert route.expires == pytest.approx(world.now + 200, abs=1)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_clock_that_jumps_costs_no_routes(world: World, pair: Pair, jump: float) -> None:
    """A board without a clock starts in the past, and learns the time later."""
    ann, bob = pair
    world.restart(pause=10, wall_jump=jump)
    assert ann.say(bob)


def test_removed_and_separated_devices_are_not_restored(world: World, pair: Pair) -> None:
    ann, bob = pair
    cid = world.add("cid", at("192.0.2.3")).connect()
    cid.shake_hands(ann)
    saved = state.export(world.switchboard, world.now, world.wall)
    world.register(cid, groups=("other",))
    world.remove(bob)
    world.start()
    state.restore(world.switchboard, saved, world.now)
    check_consistency(world.switchboard)
    assert not ann.record.routes
    assert world.switchboard.bound.keys() == {ann.address, cid.address}


def test_state_says_nothing_secret(world: World, pair: Pair) -> None:
    text = json.dumps(state.export(world.switchboard, world.now, world.wall))
    assert world.identity.private.hex() not in text
    for device in pair:
        for session in device.record.sessions():
            assert session._keys.send.hex() not in text
            assert session._keys.receive.hex() not in text


def test_nothing_is_held_for_a_device_that_is_there_after_all(world: World, pair: Pair) -> None:
    """After a restart nobody knows whether a device is still there: a held copy follows the forwarded one."""
    ann, bob = pair
    world.restart()
    ann.shake_hands(bob)
    assert ann.say(bob)
    world.tick()
    assert not bob.record.held
    assert ann.say(bob)
    assert bob.say(ann)


def test_two_devices_that_were_at_one_address_in_the_state(world: World, pair: Pair) -> None:
    ann, bob = pair
    saved = state.export(world.switchboard, world.now, world.wall)
    entries = saved["devices"]
    entries[bob.identity.public.hex()]["binding"] = entries[ann.identity.public.hex()]["binding"]
    world.start()
    state.restore(world.switchboard, saved, world.now)
    check_consistency(world.switchboard)
    assert len(world.switchboard.bound) == 1


def test_key_that_no_private_key_belongs_to_stops_nothing(world: World, pair: Pair) -> None:
    """The settings cannot know; the state then says that it was bound."""
    saved = state.export(world.switchboard, world.now, world.wall)
    bad = (1).to_bytes(32, "little")
    saved["devices"][bad.hex()] = {"binding": [AWAY.hex(), LOCAL.hex()], "timestamp": "00" * 12, "routes": []}
    world.registered = {"bad": DeviceSettings("bad", bad, ()), **world.registered}
    world.start()
    state.restore(world.switchboard, saved, world.now)
    world.wait(6)
    assert all(device.record.current for device in pair)


# --- the file ---------------------------------------------------------------------------------------------------------


def saved_state() -> tuple[World, dict[str, Any]]:
    world = World()
    ann, bob = world.add("ann", at("192.0.2.1")).connect(), world.add("bob", at("2001:db8::2")).connect()
    ann.shake_hands(bob)
    return world, json.loads(json.dumps(state.export(world.switchboard, world.now, world.wall)))


def test_written_and_read_back(tmp_path: Path) -> None:
    _world, saved = saved_state()
    file = tmp_path / "state.json"
    state.write(file, saved)
    assert state.read(file) == (saved, None)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    assert state.read(tmp_path / "state.json") == (None, None)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1', b"\xff\xfe", b"[" * 100_000, b"\0" * 100])
def test_broken_file_is_kept_aside_and_said_so(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    saved, problem = state.read(file)
    aside = tmp_path / "state.json.broken"
    assert saved is None
    assert str(file) in problem
    assert f"kept as {aside}" in problem
    assert aside.read_bytes() == content
    assert not file.exists()


def test_half_written_file_of_a_crash_is_not_in_the_way(tmp_path: Path) -> None:
    _world, saved = saved_state()
    file = tmp_path / "state.json"
    state.write(file, saved)
    file.with_name("state.json.new").write_text('{"format": 1, "wal')
    assert state.read(file) == (saved, None)
    state.write(file, saved)
    assert state.read(file) == (saved, None)


def test_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file = tmp_path / "state.json"
    file.with_name("state.json.new").symlink_to(victim)
    with pytest.raises(OSError, match=r"."):
        state.write(file, {})
    assert victim.read_text() == "precious"


def test_unreadable_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    saved, problem = state.read(tmp_path / "state.json")
    assert saved is None
    assert "Is a directory" in problem


MIN_ENTRY = {"binding": None, "timestamp": "00" * 12, "routes": []}
HOSTILE: list[tuple[str, Any]] = [
    ("format", 2),
    ("format", 0),
    ("format", None),
    ("wall", "yesterday"),
    ("wall", None),
    ("wall", float("nan")),
    ("wall", float("inf")),
    ("wall", 10**400),
    ("timestamp", "00"),
    ("timestamp", "zz" * 12),
    ("timestamp", 5),
    ("timestamp", "ff" * 12),
    ("devices", None),
    ("devices", []),
    ("devices", {"zz": MIN_ENTRY}),
    ("devices", {"00": None}),
    ("devices", {"00": {}}),
    ("devices", {"00": MIN_ENTRY | {"binding": ["00", ""]}}),
    ("devices", {"00": MIN_ENTRY | {"binding": ["00" * 8]}}),
    ("devices", {"00": MIN_ENTRY | {"binding": ["00" * 8, "00" * 5]}}),
    ("devices", {"00": MIN_ENTRY | {"binding": 7}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[2**32, "00", 1.0]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[-1, "00", 1.0]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[1, "00", 1e9]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[1, "00", float("nan")]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[1, "00"]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": [[float("inf"), "00", 1.0]]}}),
    ("devices", {"00": MIN_ENTRY | {"routes": 3}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": [[2**32, 1.0]]}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": [[1, 181.0]]}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": [[1, float("nan")]]}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": [[1]]}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": [[1, 1.0]] * 9}}),
    ("devices", {"00": MIN_ENTRY | {"sessions": None}}),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_state_that_cannot_be_used_changes_nothing(key: str, value: Any) -> None:
    world, saved = saved_state()
    saved[key] = value
    world.start()
    with pytest.raises(state.StateError):
        state.restore(world.switchboard, saved, world.now)
    assert world.switchboard.bound == {}
    assert world.switchboard.own.last_timestamp == bytes(12)


@pytest.mark.parametrize("saved", [[], "text", 5, {}, True])
def test_state_of_another_shape(saved: Any) -> None:
    world = World()
    with pytest.raises(state.StateError):
        state.restore(world.switchboard, saved, world.now)


def test_a_devices_timestamp_of_the_far_future_is_kept(world: World, ann: StockDevice) -> None:
    ann.connect()
    ann.record.timestamp = b"\xff" * 12
    world.restart()
    assert ann.record.timestamp == b"\xff" * 12


def test_timestamps_do_not_end(world: World, pair: Pair) -> None:
    world.switchboard.own.last_timestamp = tai64n(2**40)
    world.restart()
    world.wait(3)
    assert pair[0].record.current


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("00" * 12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)
PLACES = [("format",), ("wall",), ("timestamp",), ("devices",)] + [
    ("devices", number, key) for number in (0, 1) for key in ("binding", "timestamp", "sessions", "routes")
]
PLACES += [("devices", number, "routes", 0, part) for number in (0, 1) for part in (0, 1, 2)]
PLACES += [("devices", number, "sessions", 0, part) for number in (0, 1) for part in (0, 1)]
PLACES += [("devices", number, "binding", part) for number in (0, 1) for part in (0, 1)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=3))
def test_any_state_is_restored_or_refused_and_the_relay_runs(changes: list[tuple[tuple, Any]]) -> None:
    world, saved = saved_state()
    for place, value in changes:
        spot: Any = saved
        try:
            for step in place[:-1]:
                spot = list(spot.values())[step] if isinstance(spot, dict) and isinstance(step, int) else spot[step]
            spot[place[-1]] = value
        except (KeyError, IndexError, TypeError, AttributeError):
            pass
    world.start()
    try:
        state.restore(world.switchboard, saved, world.now)
    except state.StateError:
        assert world.switchboard.bound == {}
    world.wait(10)
    check_consistency(world.switchboard)
    json.dumps(state.export(world.switchboard, world.now, world.wall))


def test_binding_local_addresses_are_those_that_the_plane_reports(world: World, pair: Pair) -> None:
    assert all(device.record.binding.local == LOCAL for device in pair)
