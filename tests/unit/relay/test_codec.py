# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec and the handshake, against an exchange recorded from wireguard-go and against each other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_common import packets
from peer_relay.wireguard import noise
from peer_relay.wireguard.noise import HandshakeError, Identity, InitiationReader, InitiationWriter
from peer_relay.wireguard.session import Session
from relay_world import private_key

ANN, BOB = Identity(private_key("ann")), Identity(private_key("bob"))
# Points whose product with any key is zero (RFC 7748, section 6.1).
LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


# --- the recording ----------------------------------------------------------------------------------------------------


def test_answers_a_recorded_initiation_as_recorded(vectors: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, device = Identity(vectors.relay_private), Identity(vectors.device_private)
    seen = vectors.to_relay
    reader = InitiationReader(relay, seen.initiation)
    assert reader.initiator == device.public
    assert reader.timestamp() == seen.timestamp
    monkeypatch.setattr(noise, "generate_private_key", lambda: seen.relay_ephemeral)
    answer, keys = reader.respond(seen.relay_index)
    assert answer == seen.response
    assert keys.remote_index == packets.sender_index(seen.initiation)
    session = Session(keys, seen.relay_index, 0.0, initiator=False)
    assert session.unseal(seen.keepalive, 1.0) == b""


def test_makes_an_initiation_that_was_answered(vectors: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, device = Identity(vectors.relay_private), Identity(vectors.device_private)
    seen = vectors.from_relay
    recorded = InitiationReader(device, seen.initiation)
    assert recorded.initiator == relay.public
    monkeypatch.setattr(noise, "generate_private_key", lambda: seen.relay_ephemeral)
    writer = InitiationWriter(relay, device.public, seen.relay_index, recorded.timestamp())
    assert writer.datagram == seen.initiation
    assert packets.mac1_valid(relay.mac1_key, seen.response)
    keys = writer.finish(seen.response)
    assert keys.remote_index == packets.sender_index(seen.response)


def test_recorded_messages_have_their_types(vectors: SimpleNamespace) -> None:
    recorded = vectors.to_relay
    assert packets.message_type(recorded.initiation) == packets.INITIATION
    assert packets.message_type(recorded.response) == packets.RESPONSE
    assert packets.message_type(recorded.keepalive) == packets.TRANSPORT
    relay, device = Identity(vectors.relay_private), Identity(vectors.device_private)
    assert packets.mac1_valid(relay.mac1_key, recorded.initiation)
    assert packets.mac1_valid(device.mac1_key, recorded.response)
    assert not packets.mac1_valid(device.mac1_key, recorded.initiation)


# --- types and indexes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"),
    [(packets.INITIATION, 148), (packets.RESPONSE, 92), (packets.COOKIE_REPLY, 64)],
)
def test_size_must_fit_the_type(kind: int, size: int) -> None:
    message = bytes([kind, 0, 0, 0]) + bytes(size - 4)
    assert packets.message_type(message) == kind
    assert packets.message_type(message + b"\0") is None
    assert packets.message_type(message[:-1]) is None


@pytest.mark.parametrize("size", [32, 33, 1452, 65507])
def test_transport_has_any_size_from_32_bytes(size: int) -> None:
    assert packets.message_type(bytes([4]) + bytes(size - 1)) == packets.TRANSPORT


@pytest.mark.parametrize("message", [b"", b"\4", bytes([4]) + bytes(30), bytes(148), bytes([5]) + bytes(147)])
def test_not_wireguard(message: bytes) -> None:
    assert packets.message_type(message) is None


@pytest.mark.parametrize("position", [1, 2, 3])
def test_reserved_bytes_must_be_zero(position: int) -> None:
    message = bytearray([4]) + bytearray(147)
    message[position] = 1
    assert packets.message_type(bytes(message)) is None


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_indexes_are_little_endian_words(sender: int, receiver: int) -> None:
    first, second = sender.to_bytes(4, "little"), receiver.to_bytes(4, "little")
    assert packets.sender_index(b"\1\0\0\0" + first + bytes(140)) == sender
    answer = b"\2\0\0\0" + first + second + bytes(80)
    assert (packets.sender_index(answer), packets.receiver_index(answer)) == (sender, receiver)
    assert packets.receiver_index(b"\3\0\0\0" + second + bytes(56)) == receiver
    assert packets.receiver_index(b"\4\0\0\0" + second + bytes(24)) == receiver


@given(st.binary(min_size=116, max_size=116), st.one_of(st.none(), st.binary(min_size=16, max_size=16)))
def test_macs_are_found_where_they_were_put(body: bytes, cookie: bytes | None) -> None:
    body = b"\1\0\0\0" + body[4:]
    message = packets.append_macs(body, ANN.mac1_key, cookie)
    covered, mac1, mac2 = packets.split_macs(message)
    assert covered == body + mac1
    assert mac1 == packets.mac(ANN.mac1_key, body)
    assert mac2 == (packets.mac(cookie, covered) if cookie else bytes(16))
    assert packets.mac1_valid(ANN.mac1_key, message)
    assert not packets.mac1_valid(BOB.mac1_key, message)


@given(st.binary(max_size=200))
def test_any_bytes_have_a_type_or_none(datagram: bytes) -> None:
    assert packets.message_type(datagram) in (None, 1, 2, 3, 4)


# --- the handshake ----------------------------------------------------------------------------------------------------


def handshake() -> tuple[Session, Session]:
    writer = InitiationWriter(ANN, BOB.public, 1, noise.tai64n(1.5))
    reader = InitiationReader(BOB, writer.datagram)
    assert (reader.initiator, reader.timestamp()) == (ANN.public, noise.tai64n(1.5))
    answer, keys = reader.respond(2)
    return Session(writer.finish(answer), 1, 0.0, initiator=True), Session(keys, 2, 0.0, initiator=False)


def test_both_sides_agree() -> None:
    one, other = handshake()
    assert other.unseal(one.seal(b"a question......"), 1.0) == b"a question......"
    assert one.unseal(other.seal(b"an answer......."), 1.0) == b"an answer......."


@pytest.mark.parametrize("position", [8, 39, 40, 87, 88, 115])
def test_altered_initiation_does_not_authenticate(position: int) -> None:
    message = bytearray(InitiationWriter(ANN, BOB.public, 1, bytes(12)).datagram)
    message[position] ^= 1
    with pytest.raises(HandshakeError):
        InitiationReader(BOB, bytes(message)).timestamp()


@pytest.mark.parametrize("position", [12, 43, 44, 59])
def test_altered_response_does_not_authenticate(position: int) -> None:
    writer = InitiationWriter(ANN, BOB.public, 1, bytes(12))
    reader = InitiationReader(BOB, writer.datagram)
    reader.timestamp()
    answer = bytearray(reader.respond(2)[0])
    answer[position] ^= 1
    with pytest.raises(HandshakeError):
        writer.finish(bytes(answer))


def test_initiation_for_somebody_else_does_not_authenticate() -> None:
    with pytest.raises(HandshakeError):
        InitiationReader(ANN, InitiationWriter(ANN, BOB.public, 1, bytes(12)).datagram)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point: bytes) -> None:
    message = packets.HEAD.pack(packets.INITIATION, 1) + point + bytes(108)
    with pytest.raises(HandshakeError):
        InitiationReader(ANN, message)
    with pytest.raises(HandshakeError):
        InitiationWriter(ANN, point, 1, bytes(12))
    writer = InitiationWriter(ANN, BOB.public, 1, bytes(12))
    with pytest.raises(HandshakeError):
        writer.finish(bytes(12) + point + bytes(48))


@given(st.binary(min_size=148, max_size=148))
def test_junk_initiations_only_ever_fail_to_authenticate(message: bytes) -> None:
    with pytest.raises(HandshakeError):
        InitiationReader(ANN, message)


def test_private_keys_are_clamped_and_new() -> None:
    keys = {noise.generate_private_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key[0] & 7 == 0 and key[31] & 192 == 64 for key in keys)


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_timestamps_are_ordered_as_time_is(first: float, second: float) -> None:
    one, other = noise.tai64n(first), noise.tai64n(second)
    assert len(one) == 12
    assert (one <= other) if first <= second else (one >= other)


def test_timestamp_is_tai64n() -> None:
    assert noise.tai64n(0.0).hex() == "400000000000000a00000000"
    assert noise.tai64n(1.25).hex() == "400000000000000b0ee6b280"
