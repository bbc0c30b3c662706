# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's own transport sessions: counters, replay window, lifetime; cookies; token buckets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_common import packets
from peer_relay.core.rate_limits import TokenBucket
from peer_relay.drops import Refused
from peer_relay.wireguard.cookies import CookieJar, CookieMint
from peer_relay.wireguard.noise import TransportKeys, seal
from peer_relay.wireguard.session import Session
from relay_world import at

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


def receiver(now: float = 0.0) -> Session:
    return Session(TransportKeys(OTHER_KEY, KEY, 7), 1, now, initiator=False)


def message(counter: int, inner: bytes = b"") -> bytes:
    head = packets.HEAD.pack(packets.TRANSPORT, 1) + counter.to_bytes(8, "little")
    return head + seal(KEY, bytes(4) + head[8:], inner, b"")


def refusal(session: Session, datagram: bytes, now: float = 1.0) -> str | None:
    try:
        session.unseal(datagram, now)
    except Refused as refused:
        return refused.reason
    return None


def test_counters_count_up_and_inner_packets_are_padded() -> None:
    sender = Session(TransportKeys(KEY, OTHER_KEY, 1), 7, 0.0, initiator=True)
    sent = [sender.seal(bytes(size)) for size in (0, 1, 16, 17)]
    assert [len(datagram) for datagram in sent] == [32, 48, 48, 64]
    assert [int.from_bytes(datagram[8:16], "little") for datagram in sent] == [0, 1, 2, 3]
    assert {packets.receiver_index(datagram) for datagram in sent} == {1}
    assert [len(receiver().unseal(datagram, 1.0)) for datagram in sent] == [0, 16, 16, 32]


def test_newest_tells_late_packets_apart() -> None:
    session = receiver()
    newest = []
    for counter in (0, 2, 1, 5, 3, 6):
        session.unseal(message(counter), 1.0)
        newest.append(session.newest)
    assert newest == [True, True, False, True, False, True]


@pytest.mark.parametrize(
    ("before", "late", "expected"),
    [(3000, 3000 - 2047, None), (3000, 3000 - 2048, "replayed"), (2**40, 2**40 - 2047, None), (2**40, 1, "replayed")],
)
def test_window_is_2048_wide(before: int, late: int, expected: str | None) -> None:
    session = receiver()
    assert refusal(session, message(before)) is None
    assert refusal(session, message(late)) == expected


@pytest.mark.parametrize("counter", [2**64 - 1, 2**64 - 2**13])
def test_counters_end_before_they_wrap(counter: int) -> None:
    assert refusal(receiver(), message(counter)) == "replayed"


def test_forged_counter_does_not_move_the_window() -> None:
    session = receiver()
    forged = bytearray(message(5))
    forged[8:16] = (2**60).to_bytes(8, "little")
    assert refusal(session, bytes(forged)) == "transport_invalid"
    assert refusal(session, message(0)) is None


@pytest.mark.parametrize(("age", "expected"), [(179.9, None), (180.0, "session_expired"), (1e9, "session_expired")])
def test_lifetime(age: float, expected: str | None) -> None:
    assert refusal(receiver(now=50.0), message(0), 50.0 + age) == expected


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 6000), st.integers(0, 2**63)), max_size=60))
def test_accepts_each_counter_once_and_only_inside_the_window(counters: list[int]) -> None:
    session = receiver()
    seen: set[int] = set()
    highest = -1
    for counter in counters:
        expected = counter not in seen and counter > highest - 2048
        assert (refusal(session, message(counter)) is None) == expected
        if expected:
            seen.add(counter)
            highest = max(highest, counter)


# --- cookies ----------------------------------------------------------------------------------------------------------

PUBLIC = bytes(range(32, 64))
HERE, THERE = at("192.0.2.1"), at("192.0.2.1", 51821)


def initiation(cookie: bytes | None = None, number: int = 0) -> bytes:
    body = packets.HEAD.pack(packets.INITIATION, number) + bytes(108)
    return packets.append_macs(body, packets.mac1_key(PUBLIC), cookie)


def obtain(mint: CookieMint, source: bytes, now: float) -> bytes:
    jar = CookieJar()
    reply = mint.reply(initiation(), source, now)
    assert packets.message_type(reply) == packets.COOKIE_REPLY
    assert jar.store(reply, PUBLIC, packets.split_macs(initiation())[1], now)
    cookie = jar.current(now)
    assert cookie
    return cookie


def test_cookie_proves_the_source_that_got_it() -> None:
    mint = CookieMint(packets.cookie_key(PUBLIC))
    asked = initiation(obtain(mint, HERE, 0.0))
    assert mint.valid(asked, HERE, 1.0)
    assert not mint.valid(asked, THERE, 1.0)
    assert not mint.valid(initiation(), HERE, 1.0)


def test_cookie_ends_with_its_secret() -> None:
    mint = CookieMint(packets.cookie_key(PUBLIC))
    asked = initiation(obtain(mint, HERE, 0.0))
    assert mint.valid(asked, HERE, 120.0)
    assert not mint.valid(asked, HERE, 121.0)
    assert not CookieMint(packets.cookie_key(PUBLIC)).valid(asked, HERE, 0.0)


def test_received_cookie_is_used_while_it_is_fresh() -> None:
    mint, jar = CookieMint(packets.cookie_key(PUBLIC)), CookieJar()
    assert jar.current(0.0) is None
    assert jar.store(mint.reply(initiation(), HERE, 5.0), PUBLIC, packets.split_macs(initiation())[1], 5.0)
    assert jar.current(124.9)
    assert jar.current(125.0) is None


@pytest.mark.parametrize("position", [8, 31, 32, 63])
def test_altered_cookie_reply_is_not_kept(position: int) -> None:
    mint, jar = CookieMint(packets.cookie_key(PUBLIC)), CookieJar()
    reply = bytearray(mint.reply(initiation(), HERE, 0.0))
    reply[position] ^= 1
    assert not jar.store(bytes(reply), PUBLIC, packets.split_macs(initiation())[1], 0.0)
    assert jar.current(0.0) is None


def test_cookie_reply_to_another_message_is_not_kept() -> None:
    mint, jar = CookieMint(packets.cookie_key(PUBLIC)), CookieJar()
    reply = mint.reply(initiation(number=1), HERE, 0.0)
    assert not jar.store(reply, PUBLIC, packets.split_macs(initiation(number=2))[1], 0.0)


# --- token buckets ----------------------------------------------------------------------------------------------------


def test_bucket_starts_full_and_refills() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.consume(1, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.consume(1, 0.09)
    assert bucket.consume(1, 0.1)
    assert bucket.consume(5, 100.0)
    assert not bucket.consume(1, 100.0)


def test_clock_that_stands_still_or_goes_back_refills_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert bucket.consume(5, 100.0)
    assert not bucket.consume(1, 100.0)
    assert not bucket.consume(1, 0.0)
    assert not bucket.consume(1, 100.0)
    assert bucket.consume(1, 100.2)


@given(
    st.floats(0.1, 1000),
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 500)), min_size=1, max_size=50),
)
def test_bucket_never_gives_more_than_its_rate_and_burst(
    rate: float, burst: float, wishes: list[tuple[float, float]]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 0.0, []
    for pause, amount in wishes:
        now += pause
        taken.append((now, amount if bucket.consume(amount, now) else 0.0))
    for start in range(len(taken)):
        total = sum(amount for _, amount in taken[start:])
        assert total <= burst + rate * (taken[-1][0] - taken[start][0]) + 1e-6
    assert all(first[0] <= second[0] for first, second in pairwise(taken))
