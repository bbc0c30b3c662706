# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the relays' directories, in the tunnel, and what they know of the other devices."""

from __future__ import annotations

from collections.abc import Iterable

from peer_common import directory

from peer_agent.endpoints import Address, Endpoint

_MAX_PENDING = 64  # questions under way; each relay gets several a second at the most


class DirectoryClient:
    """Asks for some of the other devices at a time, in turn."""

    def __init__(self, targets: Iterable[Address]):
        self._targets = list(targets)
        self._asked: dict[bytes, tuple[str, list[Address]]] = {}
        self._seen: dict[tuple[str, Address], Endpoint | None] = {}
        self.changes = 0  # of what is known of others

    def replace_targets(self, targets: Iterable[Address]) -> None:
        """Ask for these from now on."""
        self._targets = list(targets)
        self._seen = {key: endpoint for key, endpoint in self._seen.items() if key[1] in self._targets}

    def make_request(self, relay: str, nonce: bytes) -> bytes:
        """Return the datagram to send to a relay."""
        targets = self._targets[: directory.MAX_TARGETS]
        self._targets = self._targets[directory.MAX_TARGETS :] + targets
        if len(self._asked) >= _MAX_PENDING:
            del self._asked[next(iter(self._asked))]
        self._asked[nonce] = relay, targets
        return directory.write_request(nonce, targets)

    def read_answer(self, relay: str, datagram: bytes) -> tuple[bytes, Endpoint | None] | None:
        """Read an answer: return its nonce and where the relay sees this device, or None when nobody asked for it."""
        try:
            answer = directory.read_answer(datagram)
        except directory.Malformed:
            return None
        asked = self._asked.get(answer.nonce)
        if asked is None or asked[0] != relay or len(asked[1]) != len(answer.targets):
            return None
        seen = {(relay, target): _endpoint(entry) for target, entry in zip(asked[1], answer.targets, strict=True)}
        self.changes += any(self._seen.get(key) != endpoint for key, endpoint in seen.items())
        self._seen |= seen
        return answer.nonce, _endpoint(answer.own)

    def seen(self, relay: str, target: Address) -> Endpoint | None:
        """Return where the relay sees another device."""
        return self._seen.get((relay, target))


def _endpoint(entry: directory.Entry) -> Endpoint | None:
    return Endpoint.of(*entry.seen) if entry.seen else None
