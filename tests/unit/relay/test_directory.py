# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory: its messages, and what it tells whom (rule 10)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_common import packets
from peer_common.directory import (
    MAX_TARGETS,
    PORT,
    Answer,
    Entry,
    Malformed,
    Request,
    read_answer,
    read_request,
    write_answer,
    write_request,
)
from peer_relay.core.device import ABSENT_AFTER
from relay_world import OVERLAY, StockDevice, World, at, udp

NONCE = b"12345678"

# ::ffff:0:0/96 stands for IPv4, and :: for nobody.
hosts = st.ip_addresses().filter(lambda host: not getattr(host, "ipv4_mapped", None) and int(host))
entries = st.builds(Entry, st.none() | st.tuples(hosts.map(str), st.integers(1, 65535)), st.booleans())
targets = st.lists(hosts, max_size=MAX_TARGETS).map(tuple)


# --- the codec --------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=8, max_size=8), targets)
def test_request_comes_back(nonce: bytes, wanted: tuple[IPv4Address | IPv6Address, ...]) -> None:
    assert read_request(write_request(nonce, wanted)) == Request(nonce, wanted)


@given(st.binary(min_size=8, max_size=8), entries, st.lists(entries, max_size=MAX_TARGETS).map(tuple))
def test_answer_comes_back_in_the_size_of_its_request(nonce: bytes, own: Entry, found: tuple[Entry, ...]) -> None:
    data = write_answer(Answer(nonce, own, found))
    assert read_answer(data) == Answer(nonce, own, found)
    assert len(data) == len(write_request(nonce, [ip_address("10.77.1.2")] * len(found)))


def test_layout() -> None:
    request = write_request(NONCE, [ip_address("10.77.1.2")])
    mapped = bytes.fromhex("00000000000000000000ffff0a4d0102")
    assert request == b"prd1\x01\x01\0\0" + NONCE + mapped + bytes(24)
    answer = write_answer(Answer(NONCE, Entry(("192.0.2.1", 51820), True), (Entry(),)))
    seen = bytes.fromhex("00000000000000000000ffffc0000201ca6c0100")
    assert answer == b"prd1\x02\x01\0\0" + NONCE + seen + bytes(20)


@pytest.mark.parametrize("nonce", [b"", b"1234567", b"123456789"])
def test_a_nonce_has_eight_bytes(nonce: bytes) -> None:
    with pytest.raises(ValueError, match="nonce"):
        write_request(nonce, [])


def test_a_request_has_room_for_so_many() -> None:
    with pytest.raises(ValueError, match="17 targets"):
        write_request(NONCE, [ip_address("10.77.1.2")] * (MAX_TARGETS + 1))


REQUEST = write_request(NONCE, [ip_address("10.77.1.2")])
ANSWER = write_answer(Answer(NONCE, Entry(), (Entry(("192.0.2.1", 1)),)))


def _broken(good: bytes) -> list[bytes]:
    return [
        b"",
        good[:15],
        good[:-1],
        good + b"\0",
        b"prd2" + good[4:],
        good[:4] + b"\x03" + good[5:],
        good[:5] + b"\x02" + good[6:],
        good[:5] + b"\x11" + good[6:16] + bytes(20 * 18),  # as long as it says, but too many
    ]


@pytest.mark.parametrize("data", [*_broken(REQUEST), ANSWER])
def test_no_request(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(data)


@pytest.mark.parametrize(
    "data",
    [
        *_broken(ANSWER),
        REQUEST,
        ANSWER[:16] + b"\1" + ANSWER[17:],  # an address without a port
        ANSWER[:16] + bytes(17) + b"\1" + ANSWER[34:],  # a port without an address
    ],
)
def test_no_answer(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_answer(data)


@given(st.binary(max_size=400) | st.builds(lambda rest: b"prd1\x02\x01" + rest, st.binary(min_size=50, max_size=50)))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for read in (read_request, read_answer):
        try:
            read(data)
        except Malformed:
            continue


# --- through the relay ------------------------------------------------------------------------------------------------

HEADERS = {4: 28, 6: 48}  # bytes before the payload of UDP


def _tunnelled(device: StockDevice, payload: bytes, version: int = 4, port: int = PORT) -> bytes:
    """Return the transport message in which a device sends a datagram to the relay's overlay address."""
    own = next(address for address in device.record.settings.addresses if address.version == version)
    relay = next(address for address in OVERLAY if address.version == version)
    return device.transport(None, udp(str(own), str(relay), payload, port))


def _ask(device: StockDevice, *targets: str, version: int = 4) -> Answer:
    """Let a device ask in the tunnel; return the answer."""
    request = write_request(NONCE, [ip_address(target) for target in targets])
    device.send(_tunnelled(device, request, version))
    name, packet = device.received[-1]
    assert name == "relay"
    answer = read_answer(packet[HEADERS[version] :][: len(request)])
    assert answer.nonce == NONCE
    return answer


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_learns_where_it_is_seen(world: World, ann: StockDevice, version: int) -> None:
    ann.connect()
    assert _ask(ann, version=version) == Answer(NONCE, Entry(("192.0.2.1", 51820), True), ())
    ann.move(at("2001:db8::7", 7))
    assert _ask(ann, version=version).own.seen == ("2001:db8::7", 7)
    assert world.drops() == {}


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_learns_where_its_peers_are_seen(
    ann: StockDevice, bob: StockDevice, world: World, version: int
) -> None:
    cid = world.add("cid", at("2001:db8::3", 3))
    for device in (ann, bob, cid):
        device.connect()
    found = _ask(ann, "fd77::1:3", "10.77.1.4", "10.77.1.3", version=version).targets
    assert [entry.seen for entry in found] == [("192.0.2.2", 51820), ("2001:db8::3", 3), ("192.0.2.2", 51820)]
    assert all(entry.known for entry in found)
    bob.move(at("198.18.0.2"))
    bob.keepalive()
    assert _ask(ann, "10.77.1.3").targets[0].seen == ("198.18.0.2", 51820)


def test_nobody_learns_of_devices_that_it_may_not_talk_to(world: World) -> None:
    ann = world.add("ann", at("192.0.2.1"), ("home",)).connect()
    world.add("bob", at("192.0.2.2"), ("office",)).connect()
    nobody = "10.77.1.99"
    # Who is out of reach looks like who does not exist. Nor are the relay, itself and the rest of the world devices.
    others = _ask(ann, "10.77.1.3", nobody, "10.77.0.1", "10.77.1.2", "192.0.2.2", "::").targets
    assert others == (Entry(),) * 6
    world.register(world.devices["bob"], ("office", "home"))
    assert _ask(ann, "10.77.1.3").targets == (Entry(("192.0.2.2", 51820), True),)
    world.remove(world.devices["bob"])
    assert _ask(ann, "10.77.1.3").targets == (Entry(),)


def test_a_device_that_is_away_is_known_and_not_seen(ann: StockDevice, bob: StockDevice, world: World) -> None:
    ann.connect()
    assert _ask(ann, "10.77.1.3").targets == (Entry(None, True),)
    bob.connect()
    world.now += ABSENT_AFTER - 11  # a session ends before that
    ann.connect()
    assert _ask(ann, "10.77.1.3").targets[0].seen
    world.now += 11
    assert _ask(ann, "10.77.1.3").targets == (Entry(None, True),)


def test_a_scope_means_nothing_elsewhere(ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.move(at("fe80::2%3"))
    bob.connect()
    assert _ask(ann, "10.77.1.3").targets[0].seen == ("fe80::2", 51820)


@pytest.mark.parametrize("count", [0, 1, MAX_TARGETS])
def test_the_answer_is_as_large_as_the_request(world: World, ann: StockDevice, bob: StockDevice, count: int) -> None:
    ann.connect()
    bob.connect()
    datagram = _tunnelled(ann, write_request(NONCE, [ip_address("10.77.1.3")] * count))
    (answer,) = world.raw(ann.address, datagram)
    assert len(answer.datagram) == len(datagram)


@pytest.mark.parametrize("payload", [b"", b"?" * 36, REQUEST[:-1], ANSWER])
def test_anything_else_is_not_answered(world: World, ann: StockDevice, payload: bytes) -> None:
    ann.connect()
    (keepalive,) = ann.send(_tunnelled(ann, payload))
    assert len(keepalive.datagram) == packets.TRANSPORT_MIN_SIZE
    assert world.drops() == {"inner_unsupported": 1}


def test_another_port_is_not_answered(world: World, ann: StockDevice) -> None:
    ann.connect()
    ann.send(_tunnelled(ann, REQUEST, port=PORT + 1))
    assert world.drops() == {"inner_unsupported": 1}


def test_nobody_asks_in_the_name_of_another(world: World, ann: StockDevice, bob: StockDevice) -> None:
    ann.connect()
    bob.connect()
    assert ann.send(ann.transport(None, udp("10.77.1.3", "10.77.0.1", REQUEST))) == []
    assert world.drops() == {"inner_source": 1}
