# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Initiations that wait for their source to be proven, bounded in sources and in what each source may leave."""

from __future__ import annotations

from collections import OrderedDict


class HeldInitiations:
    """Keeps the latest `each` initiations of the latest `sources` sources, for `hold` seconds."""

    def __init__(self, sources: int, each: int, hold: float):
        self._sources, self._each, self._hold = sources, each, hold
        self._kept: OrderedDict[bytes, tuple[float, list[bytes]]] = OrderedDict()  # by source: since, datagrams

    def __contains__(self, source: bytes) -> bool:
        return source in self._kept

    def __len__(self) -> int:
        return sum(len(datagrams) for _, datagrams in self._kept.values())

    def add(self, source: bytes, datagrams: list[bytes], now: float) -> None:
        """Keep datagrams of a source; the time of all that it left starts anew."""
        _, kept = self._kept.pop(source, (now, []))
        self._kept[source] = now, (kept + datagrams)[-self._each :]
        if len(self._kept) > self._sources:
            self._kept.popitem(last=False)

    def pop(self, source: bytes, now: float) -> list[bytes]:
        """Take out what a source left, unless it is too old."""
        since, datagrams = self._kept.pop(source, (now, []))
        return datagrams if now - since <= self._hold else []

    def sweep(self, now: float) -> None:
        """Forget what is too old: the oldest come first."""
        while self._kept and now - next(iter(self._kept.values()))[0] > self._hold:
            self._kept.popitem(last=False)
