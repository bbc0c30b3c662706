# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches of received datagrams sorted into flows, and flows joined to trains that the system sends at once.

A train is a number of datagrams of one size, of which only the last may be shorter. Nothing here does I/O.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator

from peer_common import packets

MAX_SEGMENTS = 64  # datagrams of one train: UDP_MAX_SEGMENTS of older kernels
MAX_SIZE = 65000  # bytes of one train: it must fit one IP packet with its headers

# What lies in a receive buffer: offset, size, source address, the relay's own address that it was sent to, the size of
# each datagram, less than `size` when it is a train, and the mark that all of them have: DSCP and ECN, one octet. A
# tuple: it is made for every datagram.
Received = tuple[int, int, bytes, bytes, int, int]
Run = tuple[int, int, int, int]  # a part of it, datagrams of one flow: offset, size, size of each, and mark
Flow = tuple[bytes, bytes, int]  # source, local address, head

_HEAD = struct.Struct("<Q")  # message type and receiver index of a transport message, read at once
_NO_HEAD = 0  # of what is too short for a transport message


def index_of(head: int) -> int | None:
    """Return the receiver index of a transport message by its head, None when it is none."""
    return head >> 32 if head & 0xFFFFFFFF == packets.TRANSPORT else None


def flows(payload: memoryview, batch: Iterable[Received]) -> dict[Flow, list[Run]]:
    """Sort a batch by source, local address and head: a received train can mix the receiver indexes of its source."""
    found: dict[Flow, list[Run]] = {}
    read = _HEAD.unpack_from
    for offset, size, source, local, step, mark in batch:
        if size == step and size >= packets.TRANSPORT_MIN_SIZE:
            found.setdefault((source, local, read(payload, offset)[0]), []).append((offset, size, step, mark))
            continue
        if step < packets.TRANSPORT_MIN_SIZE:
            found.setdefault((source, local, _NO_HEAD), []).append((offset, size, step, mark))
            continue
        end = offset + size
        tail = size % step
        if 0 < tail < packets.TRANSPORT_MIN_SIZE:
            end -= tail
            found.setdefault((source, local, _NO_HEAD), []).append((end, tail, tail, mark))
        heads = [read(payload, start)[0] for start in range(offset, end, step)]
        for head, same in itertools.groupby(heads):
            runs = found.setdefault((source, local, head), [])
            last = min(offset + len(list(same)) * step, end)
            room = MAX_SEGMENTS * step
            runs += [(start, min(room, last - start), step, mark) for start in range(offset, last, room)]
            offset = last
    return found


def count(runs: list[Run]) -> tuple[int, int]:
    """Return the number of datagrams, and their size."""
    return sum([-(-size // step) for _, size, step, _ in runs]), sum([size for _, size, _, _ in runs])


def singles(runs: list[Run]) -> Iterator[tuple[int, int]]:
    """Return offset and size of each datagram."""
    for offset, size, step, _ in runs:
        for done in range(0, size or 1, step):  # an empty datagram is one, too
            yield offset + done, min(step, size - done)


def join(runs: list[Run]) -> Iterator[tuple[list[int], int, int]]:
    """Join runs to trains: offset and size of each part, in turn, the size of each datagram, 0 when it is one, and the
    mark that they have in common."""
    parts: list[int] = []
    total = each = room = common = 0
    for offset, size, step, mark in runs:
        # What is shorter than the others ends a train.
        if size > room or mark != common or (step != each and (step != size or size > each)):
            if parts:
                yield parts, each if total > each else 0, common
            parts, total, each, common = [], 0, step, mark
            room = min(MAX_SEGMENTS * step, max(MAX_SIZE, size))
        parts += offset, size
        total += size
        room = 0 if total % each else room - size
    if parts:
        yield parts, each if total > each else 0, common
