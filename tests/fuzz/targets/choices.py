# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes as decisions: what a fuzzer mutates chooses among well-formed pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

_Piece = TypeVar("_Piece")


class Choices:
    """Reads decisions until they are used up; then everything is the first of its kind."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """Return 0 to below - 1, of at most two bytes."""
        size = 1 if below <= 256 else 2
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "big") % below

    def of(self, pieces: Sequence[_Piece]) -> _Piece:
        return pieces[self.number(len(pieces))]

    def some(self, most: int) -> Iterator[int]:
        """Count up to a number of at most `most`."""
        return iter(range(self.number(most + 1)))

    def parts(self, data: bytes) -> Iterator[bytes]:
        """Cut into a few parts, as a network may."""
        for _ in self.some(4):
            at = self.number(len(data) + 1)
            yield data[:at]
            data = data[at:]
        yield data
