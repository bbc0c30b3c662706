# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sorting a received batch into flows and joining flows to trains: nothing is lost, changed or sent elsewhere."""

from __future__ import annotations

import struct
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from peer_common import packets
from peer_relay.dataplane import gso

HERE = b"here"
TRANSPORT = 4


def datagram(index: int, number: int, size: int, kind: int = TRANSPORT) -> bytes:
    return (struct.pack("<IIQ", kind, index, number) + bytes(max(size - 16, 0)))[:size]


class Buffer:
    """A receive buffer as the kernel fills it."""

    def __init__(self):
        self.payload = bytearray(b"\x04\0\0\0\x01\0\0\0" * 80000)  # what lies behind a datagram looks like one, too
        self.batch: list[gso.Received] = []
        self._offset = 0

    def add(self, source: bytes, *datagrams: bytes, mark: int = 0) -> None:
        """Add one datagram, or a train of them."""
        together = b"".join(datagrams)
        self.payload[self._offset : self._offset + len(together)] = together
        step = len(datagrams[0]) or 1
        self.batch.append((self._offset, len(together), source, HERE, step, mark))
        self._offset += len(together) + 40

    def flows(self) -> dict[gso.Flow, list[gso.Run]]:
        return gso.flows(memoryview(self.payload), self.batch)

    def sent(self, runs: list[gso.Run]) -> list[bytes]:
        """What the system makes of the trains."""
        result = []
        for parts, segment, _ in gso.join(runs):
            train = b"".join(
                bytes(self.payload[offset : offset + size])
                for offset, size in zip(parts[::2], parts[1::2], strict=True)
            )
            step = segment or len(train)
            assert len(train) <= gso.MAX_SEGMENTS * step
            assert len(train) <= 65507
            assert bool(segment) == (len(train) > step)
            result += [train[start : start + step] for start in range(0, len(train), step)]
        return result


def test_a_mixed_train_is_parted_by_index_and_keeps_its_order() -> None:
    buffer = Buffer()
    buffer.add(b"a", *(datagram(index, number, 100) for number, index in enumerate((7, 7, 8, 7, 9, 9))))
    flows = buffer.flows()
    assert {gso.index_of(head) for _, _, head in flows} == {7, 8, 9}
    sent = {gso.index_of(head): buffer.sent(runs) for (_, _, head), runs in flows.items()}
    assert sent[7] == [datagram(7, number, 100) for number in (0, 1, 3)]
    assert sent[9] == [datagram(9, number, 100) for number in (4, 5)]


def test_single_datagrams_become_one_train_that_a_shorter_one_ends() -> None:
    buffer = Buffer()
    for number, size in enumerate((200, 200, 200, 64, 200, 200)):
        buffer.add(b"a", datagram(1, number, size))
    (runs,) = buffer.flows().values()
    found = list(gso.join(runs))
    assert [(len(parts) // 2, segment) for parts, segment, _ in found] == [(4, 200), (2, 200)]


def test_a_short_train_does_not_pass_for_the_end_of_another() -> None:
    buffer = Buffer()
    buffer.add(b"a", datagram(1, 0, 500), datagram(1, 1, 500))
    buffer.add(b"a", datagram(1, 2, 100), datagram(1, 3, 100))
    (runs,) = buffer.flows().values()
    assert [len(each) for each in buffer.sent(runs)] == [500, 500, 100, 100]


def test_a_train_has_one_mark_and_another_mark_changes_no_order() -> None:
    buffer = Buffer()
    for number, mark in enumerate((0, 0, 3, 3, 3, 0, 40)):
        buffer.add(b"a", datagram(1, number, 200), mark=mark)
    buffer.add(b"a", *(datagram(1, number, 200) for number in (7, 8)), mark=40)
    (runs,) = buffer.flows().values()
    assert buffer.sent(runs) == [datagram(1, number, 200) for number in range(9)]
    found = [(len(parts) // 2, segment, mark) for parts, segment, mark in gso.join(runs)]
    assert found == [(2, 200, 0), (3, 200, 3), (1, 0, 0), (2, 200, 40)]


def test_a_long_train_is_cut_to_what_every_kernel_sends() -> None:
    buffer = Buffer()
    buffer.add(b"a", *(datagram(1, number, 64) for number in range(128)))
    (runs,) = buffer.flows().values()
    assert gso.count(runs) == (128, 128 * 64)
    assert [segment for _, segment, _ in gso.join(runs)] == [64, 64]


def test_what_is_too_short_is_never_a_transport_message() -> None:
    buffer = Buffer()
    buffer.add(b"a", b"")
    buffer.add(b"a", datagram(1, 0, 31))
    buffer.add(b"a", datagram(1, 0, 16), datagram(1, 0, 16))
    buffer.add(b"a", datagram(1, 0, 100), datagram(1, 0, 4))
    flows = buffer.flows()
    transport = [runs for (_, _, head), runs in flows.items() if gso.index_of(head) is not None]
    assert [gso.count(runs) for runs in transport] == [(1, 100)]
    other = [size for (_, _, head), runs in flows.items() if head == 0 for _, size in gso.singles(runs)]
    assert sorted(other) == [0, 4, 16, 16, 31]


@st.composite
def _received(draw: st.DrawFn) -> list[tuple[bytes, list[bytes]]]:
    """Buffers of a few sources, each a datagram or a train whose last datagram may be shorter."""
    result = []
    for _ in range(draw(st.integers(1, 12))):
        size = draw(st.sampled_from([0, 1, 31, 32, 64, 100, 1452]))
        count = draw(st.integers(1, 70 if size <= 100 else 40)) if size else 1
        sizes = [size] * count
        if count > 1:
            sizes[-1] = draw(st.integers(1, size))
        index = st.integers(1, 3)
        kind = st.sampled_from([TRANSPORT] * 9 + [packets.RESPONSE])
        result.append(
            (
                draw(st.sampled_from([b"a", b"b"])),
                [datagram(draw(index), draw(st.integers(0, 2**60)), size, draw(kind)) for size in sizes],
            )
        )
    return result


@given(_received())
def test_everything_that_arrives_is_in_its_flow_in_order(received: list[tuple[bytes, list[bytes]]]) -> None:
    buffer = Buffer()
    expected: dict[tuple[bytes, bytes], list[bytes]] = defaultdict(list)
    for source, datagrams in received:
        buffer.add(source, *datagrams)
        for each in datagrams:
            expected[source, each[:8] if len(each) >= packets.TRANSPORT_MIN_SIZE else bytes(8)].append(each)
    flows = buffer.flows()
    for (source, local, head), runs in flows.items():
        assert local == HERE
        mine = expected.pop((source, struct.pack("<Q", head)))
        alone = [bytes(buffer.payload[offset : offset + size]) for offset, size in gso.singles(runs)]
        assert gso.count(runs)[1] == sum(map(len, mine))
        if head:
            assert alone == mine
            assert buffer.sent(runs) == mine
            assert gso.count(runs)[0] == len(mine)
        else:  # a short tail is looked at before its train: nothing forwards it, so its place does not matter
            assert sorted(alone) == sorted(mine)
    assert not expected
