# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay tells: the status document, doctor's sentences, the metrics and the tables."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from peer_common import packets
from peer_relay.core import probe
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.slices import finish
from peer_relay.status import doctor as status_doctor
from peer_relay.status import document as status_document
from peer_relay.status import metrics
from peer_relay.status import text as status_text
from relay_world import StockDevice, World, at

AWAY = at("203.0.113.7", 4242)
Pair = tuple[StockDevice, StockDevice]


def status(world: World, **more: Any) -> dict[str, Any]:
    """Return the document that the service would answer."""
    head = {
        "version": "1.0.0",
        "name": "relay",
        "data_plane": "userspace",
        "data_plane_wanted": "auto",
        "data_plane_reason": None,
        "kernel": None,
        "healthy": True,
        "expiring": [],
        "problems": [],
        "uptime_seconds": 5.0,
        "listen": ["0.0.0.0:40000"],
        "endpoint": None,
        "edge": None,
    }
    traffic = finish(status_document.traffic(world.switchboard, world.now, lambda *_: "no kernel"))
    return json.loads(json.dumps(head | traffic | more, allow_nan=False))


def doctor(world: World, **more: Any) -> list[str]:
    return [": ".join(finding) for finding in status_doctor.findings(status(world, **more))]


def the_only(sentences: list[str]) -> str:
    (sentence,) = sentences
    return sentence


# --- status -----------------------------------------------------------------------------------------------------------


def test_devices_and_pairs(world: World, pair: Pair) -> None:
    world.wait(10)
    document = status(world)
    ann, bob = document["devices"]
    assert (ann["name"], ann["state"], ann["endpoint"]) == ("ann", "bound", "192.0.2.1:51820")
    assert (ann["last_seen_seconds"], ann["handshake_age_seconds"], bob["rate_limit_mbit"]) == (10.0, 10.0, 0)
    assert ann["public_key"] == base64.b64encode(pair[0].identity.public).decode()
    assert ann["addresses"] == ["10.77.1.2", "fd77::1:2"]
    there, back = document["pairs"]
    assert (there["from"], there["to"], there["state"]) == ("ann", "bob", "up")
    assert (there["initiations"], there["responses"], back["initiations"]) == (1, 1, 0)
    # The keepalive that confirms, and "hello".
    assert (there["packets"], there["bytes"], back["packets"]) == (2, 32 + 48, 1)


def test_bytes_received_are_bytes_sent_to_the_other_one(world: World, pair: Pair) -> None:
    ann, bob = status(world)["devices"]
    before = ann["rx_bytes"], bob["tx_bytes"]
    for _ in range(10):
        pair[0].say(pair[1])
    ann, bob = status(world)["devices"]
    assert ann["rx_bytes"] - before[0] == bob["tx_bytes"] - before[1] == 480


def test_states_of_a_device(world: World, ann: StockDevice) -> None:
    assert status(world)["devices"][0]["state"] == "absent"
    world.raw(ann.address, ann.initiation())
    assert status(world)["devices"][0]["state"] == "handshaking"
    ann.connect()
    assert status(world)["devices"][0]["state"] == "bound"
    world.wait(200)
    assert status(world)["devices"][0]["state"] == "absent"


def test_states_of_a_pair(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    ann.shake_hands(bob)
    assert status(world)["pairs"][0]["state"] == "waiting"
    bob.connect()
    assert status(world)["pairs"][0]["state"] == "up"
    world.wait(181)
    bob.connect()
    assert status(world)["pairs"][0]["state"] == "silent"


def test_answered_probes(world: World) -> None:
    datagram = probe.make(world.identity, world.wall)
    world.raw(AWAY, datagram)
    world.wait(3)
    document = status(world)
    index = packets.sender_index(datagram)
    assert document["probes"] == [{"source": "203.0.113.7:4242", "index": index, "age_seconds": 3.0}]
    assert document["probes_answered"] == 1
    assert "203.0.113.7:4242 3 s" in [" ".join(line.split()) for line in status_text.status(document).splitlines()]
    assert "peer_relay_probes_answered_total 1.0" in metrics.exposition(document).decode().splitlines()
    assert doctor(world) == []


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong(world: World, pair: Pair) -> None:
    assert doctor(world) == []


def test_no_handshake_has_ever_arrived(world: World, ann: StockDevice) -> None:
    sentence = the_only(doctor(world))
    assert sentence.startswith("ann: no handshake has ever arrived: is the device on, and UDP 40000 reachable")
    assert base64.b64encode(world.identity.public).decode() in sentence


def test_silent(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.wait(250)
    assert the_only(doctor(world)).startswith("ann: silent for 250 s: is it switched off")


def test_sends_without_a_session(world: World, pair: Pair) -> None:
    """As after a restart of the relay, when a device does not answer it."""
    ann, bob = pair
    world.restart()
    ann.say(bob)
    sentences = doctor(world)
    assert sentences[0].startswith("ann: it sends to other devices, but has no session with the relay: does its relay")


def test_answers_do_not_reach_it(world: World, ann: StockDevice) -> None:
    world.raw(ann.address, ann.initiation())
    sentence = the_only(doctor(world))
    assert sentence.startswith("ann: handshakes arrive from 192.0.2.1:51820, but the relay's answers do not reach it")
    assert "0.0.0.0:40000" in sentence


def test_unregistered_device(world: World) -> None:
    stranger = world.stranger("new", AWAY)
    stranger.connect()
    sentence = the_only(doctor(world))
    assert sentence.startswith("relay: a device with public key")
    assert base64.b64encode(stranger.identity.public).decode() in sentence
    world.wait(301)
    assert doctor(world) == []


def test_peer_with_an_unknown_key(world: World, ann: StockDevice) -> None:
    ann.connect()
    ann.send(ann.initiation(StockDevice(world, "nobody", AWAY)))
    assert the_only(doctor(world)).startswith("ann: it has a peer with a public key that no registered device has")


def test_peer_of_another_group(world: World, ann: StockDevice) -> None:
    hidden = world.add("hidden", at("192.0.2.9"), groups=("other",)).connect()
    ann.connect()
    ann.send(ann.initiation(hidden))
    assert the_only(doctor(world)).startswith("ann: it tries to reach hidden, with which it shares no group")
    world.register(hidden)
    assert doctor(world) == []


def test_clock_gone_back(world: World, ann: StockDevice) -> None:
    ann.connect()
    world.wall -= 3600
    ann.connect()
    assert the_only(doctor(world)).startswith("ann: handshakes of it are older than one seen before: set its clock")


def test_rate_limit(world: World, ann: StockDevice, bob: StockDevice) -> None:
    world.register(ann, rate_limit=125_000.0)
    ann.connect()
    bob.connect()
    ann.shake_hands(bob)
    while not world.drops():
        world.raw(ann.address, ann.transport(bob, bytes(1400)))
    assert the_only(doctor(world)).startswith("ann: 1 packets over its rate limit of 1 Mbit/s")


@pytest.mark.parametrize("reason", ["address_unproven", "moves_limited", "pair_limited"])
def test_what_looks_like_forged_sources_is_told_when_it_goes_on(
    world: World, pair: tuple[StockDevice, StockDevice], reason: str
) -> None:
    for count in range(10):
        assert doctor(world) == [], count
        world.switchboard.drop(reason, 1, 32, pair[0].record)
    assert the_only(doctor(world)).startswith("ann: ")


def test_foreign_inner_source(world: World, ann: StockDevice) -> None:
    ann.connect()
    ann.send(ann.transport(None, b"\xff" * 48))
    assert the_only(doctor(world)).endswith("its interface must have 10.77.1.2, fd77::1:2")


def test_pair_whose_other_end_is_not_there(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    ann.shake_hands(bob)
    assert doctor(world)[-1] == "ann -> bob: ann asks for bob, which is not connected to the relay: see bob above"


def test_pair_that_is_never_answered(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    world.raw(ann.address, ann.initiation(bob))
    assert the_only(doctor(world)).startswith(
        "ann -> bob: initiations arrive, bob never answers: its peer entry for ann"
    )


def test_pair_that_is_not_answered_any_more(world: World, pair: Pair) -> None:
    ann, bob = pair
    world.wait(181)
    for device in pair:
        device.connect()
    world.raw(ann.address, ann.initiation(bob))
    assert the_only(doctor(world)).startswith("ann -> bob: bob answered once and does not any more")
    world.wait(301)
    assert not [sentence for sentence in doctor(world) if "->" in sentence]


@pytest.mark.parametrize("seconds", [100, 181, 240, 299, 301])
def test_pair_that_went_direct_is_well(world: World, pair: Pair, seconds: float) -> None:
    """Its last handshake through the relay was answered; nobody has asked since."""
    world.wait(seconds)
    for device in pair:
        device.connect()
    assert doctor(world) == []


def test_pair_whose_initiations_crossed_and_went_direct_is_well(
    world: World, ann: StockDevice, bob: StockDevice
) -> None:
    """One of the two is never answered, since the other one made the session."""
    ann.connect()
    bob.connect()
    one, other = ann.initiation(bob), bob.initiation(ann)
    forwarded = world.raw(ann.address, one)
    assert world.raw(bob.address, other) == [], "the relay lets one pass"
    world.deliver(forwarded)
    assert ann.say(bob)
    world.wait(200)
    for device in (ann, bob):
        device.connect()
    assert doctor(world) == []


def crowd(world: World, count: int) -> list[StockDevice]:
    return [world.add(f"d{number:02}", at("192.0.2.1", 1000 + number)).connect() for number in range(count)]


def test_phone_that_sleeps_costs_a_line_whoever_asks_for_it(world: World) -> None:
    phone = world.add("phone", AWAY).connect()
    world.leave(phone)
    world.wait(250)
    for device in crowd(world, 27):
        device.shake_hands(phone)
    assert doctor(world) == [
        "phone: silent for 250 s: is it switched off, or without PersistentKeepalive = 25 on its relay peer?",
        "d00, d01, d02 and 24 more -> phone: d00, d01, d02 and 24 more ask for phone, which is not connected to the "
        "relay: see phone above",
    ]


def test_many_that_are_silent_cost_a_line(world: World) -> None:
    crowd(world, 30)
    world.wait(250)
    assert the_only(doctor(world)).startswith(
        "d00, d01, d02 and 27 more: silent, the longest for 250 s: is it switched off"
    )


def test_many_that_never_came_cost_a_line(world: World) -> None:
    for number in range(30):
        world.add(f"d{number:02}", at("192.0.2.1", 1000 + number))
    assert the_only(doctor(world)).startswith("d00, d01, d02 and 27 more: no handshake has ever arrived: is the dev")


def test_device_that_answers_nobody_is_named_once(world: World, bob: StockDevice) -> None:
    bob.connect()
    for device in crowd(world, 5):
        world.raw(device.address, device.initiation(bob))
    assert doctor(world) == [
        "d00, d01, d02 and 2 more -> bob: initiations arrive, bob never answers: its peer entries for d00, d01, d02 "
        "and 2 more are missing, have another key, or do not point at the relay"
    ]


def test_device_that_nobody_answers_is_named_once(world: World, ann: StockDevice) -> None:
    ann.connect()
    for device in crowd(world, 5):
        world.raw(ann.address, ann.initiation(device))
    assert the_only(doctor(world)).startswith("ann -> d00, d01, d02 and 2 more: d00, d01, d02 and 2 more never answer")


def test_the_relays_own_problems_come_first(world: World) -> None:
    sentences = doctor(
        world,
        problems=["receive buffer: too small: raise it", "plain"],
        drops={"send_buffer_full": {"packets": 3, "bytes": 4}},
    )
    assert sentences[0] == "relay: receive buffer: too small: raise it"
    assert sentences[1].startswith("relay: plain")
    assert sentences[2].startswith("relay: its send buffer was full")


# --- metrics and tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def busy(world: World, pair: Pair) -> World:
    world.add("away", AWAY)
    world.raw(AWAY, b"junk")
    pair[0].send(pair[0].transport(None, b"\xff" * 48))
    return world


def test_metrics(busy: World) -> None:
    lines = metrics.exposition(status(busy)).decode().splitlines()
    for line in (
        'peer_relay_info{data_plane="userspace",name="relay",version="1.0.0"} 1.0',
        "peer_relay_healthy 1.0",
        'peer_relay_device_bound{device="ann"} 1.0',
        'peer_relay_device_bound{device="away"} 0.0',
        'peer_relay_pair_packets_total{from="ann",to="bob"} 2.0',
        'peer_relay_dropped_packets_total{reason="not_wireguard"} 1.0',
        'peer_relay_dropped_bytes_total{reason="not_wireguard"} 4.0',
        'peer_relay_device_dropped_packets_total{device="ann",reason="inner_source"} 1.0',
    ):
        assert line in lines
    assert not [line for line in lines if "last_seen" in line and "away" in line]


def test_metrics_of_the_kernel_plane(busy: World) -> None:
    kernel = {"entries": 7, "size": 65536, "interfaces": {"eth0": "tcx"}, "refusals": {"families": 2}}
    lines = metrics.exposition(status(busy, data_plane="kernel", kernel=kernel)).decode().splitlines()
    for line in (
        'peer_relay_data_plane{plane="kernel"} 1.0',
        'peer_relay_data_plane{plane="userspace"} 0.0',
        "peer_relay_kernel_entries 7.0",
        "peer_relay_kernel_entries_limit 65536.0",
        'peer_relay_kernel_refused{reason="families"} 2.0',
        'peer_relay_pair_kernel_packets_total{from="ann",to="bob"} 0.0',
    ):
        assert line in lines


def test_a_full_kernel_table_is_a_finding(busy: World) -> None:
    kernel = {"entries": 65536, "size": 65536, "interfaces": {}, "refusals": {"table_full": 3}}
    assert any("entries is full" in sentence for sentence in doctor(busy, data_plane="kernel", kernel=kernel))


def test_tables_say_why_the_kernel_does_not_forward(busy: World) -> None:
    text = status_text.status(status(busy, data_plane_reason="the service lacks CAP_BPF: grant it"))
    assert "not the kernel's, since the service lacks CAP_BPF: grant it" in text
    kernel = {"entries": 0, "size": 65536, "interfaces": {}, "refusals": {}}
    assert "userspace (no kernel)" in status_text.status(status(busy, data_plane="kernel", kernel=kernel))


def test_metrics_of_a_relay_without_devices(world: World) -> None:
    assert b"peer_relay_info" in metrics.exposition(status(world))


def test_tables(busy: World) -> None:
    text = status_text.status(status(busy, problems=["something"]), each_pair=True)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "relay: userspace data plane on 0.0.0.0:40000, up 5 s, version 1.0.0"
    assert "problem: something" in lines
    assert "away absent - never 0 B 0 B" in lines
    assert "ann -> bob up 0 s 80 B userspace" in lines
    assert "not_wireguard 1 4 B" in lines


def test_pairs_are_shown_on_request(busy: World) -> None:
    text = status_text.status(status(busy))
    assert "->" not in text
    assert "pairs: 2, 2 of them up, 128 B forwarded (--pairs shows each)" in text.splitlines()
    assert "devices: 2 bound, 0 handshaking, 1 absent" in text.splitlines()


def test_status_of_a_fleet_is_short_and_says_what_is_not_well(world: World) -> None:
    devices = crowd(world, 27)
    for one in devices:
        for other in devices:
            if one.name < other.name:
                one.shake_hands(other)
    for number in range(3):
        phone = world.add(f"phone{number}", at("203.0.113.9", 1000 + number))
        for device in devices:
            device.shake_hands(phone)
    lines = status_text.status(status(world)).splitlines()
    assert len(lines) < 30 + 20
    assert "not well: phone0, phone1, phone2: no handshake has ever arrived" in lines
    assert "peer-relay doctor says what to do" in lines
    assert len(doctor(world)) == 4


def test_tables_of_a_relay_without_devices(world: World) -> None:
    assert "device" in status_text.status(status(world))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2 * 10**9, "2.0 GB"), (10**15, "1000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert status_text._size(count) == text


@pytest.mark.parametrize(
    ("age", "text"), [(None, "never"), (0.4, "0 s"), (599, "599 s"), (600, "10 min"), (86400, "24 h")]
)
def test_ages(age: float | None, text: str) -> None:
    assert status_text._age(age) == text


def test_guests_that_have_gone_or_are_about_to_are_told():
    guest = {"name": "visitor", "expires": "2026-12-31T18:00:00+00:00"}
    late, soon, later = ({**guest, "left_seconds": left} for left in (-1, 3 * 86400, 8 * 86400))
    for entry, problem in ((late, "has expired on 2026-12-31T18:00:00+00:00"), (soon, "expires in 3.0 days")):
        (finding,) = status_doctor.findings(status(World()) | {"expiring": [entry]})
        assert finding.subject == "visitor"
        assert finding.problem.startswith(problem)
        assert "peer_expires" in finding.fix
    assert status_doctor.findings(status(World()) | {"expiring": [later]}) == []
    text = metrics.exposition(status(World()) | {"expiring": [soon]}).decode()
    assert 'peer_relay_device_expires_in_seconds{device="visitor"} 259200.0' in text


def test_the_document_says_who_has_an_end():
    key = bytes(range(32))
    stays = DeviceSettings("nas", key, ())
    goes = DeviceSettings("visitor", key, (), expires=1_798_740_000.0)
    assert status_document.expiring([stays, goes], 1_798_739_990.5) == [
        {"name": "visitor", "expires": "2026-12-31T18:00:00+00:00", "left_seconds": 9.5}
    ]
