# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probes that two agents exchange outside the tunnel, from and to the ports of WireGuard itself.

    magic 4 | kind 1 | flags 1 | hint 2 | number 8 | mac 16 | zeros, in a ping of full size

The first byte is no message type of WireGuard, which drops probes in silence. The pair's key comes from both agents
through the tunnel, so a probe that opens is from the other device. The hint finds the key among many: strangers cost no
more than a look into a dictionary. Numbers count up and are accepted once: a probe that was recorded opens nothing.
A pong repeats the number of its ping. It is never larger, so answers amplify nothing. Half of the number is random, so
that the pong of a device which forges its source proves nothing: it has to receive where it says that it is. To agents
of 1.2.0, which only count, that looks like many lost ones: they ignore a ping that a later one has overtaken.
A ping of full size is as large as the tunnel's largest packet on its way: what lets only small ones pass is no path
(RFC 8899, section 3).
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Hashable
from hashlib import blake2s
from typing import Generic, NamedTuple, TypeVar

MAGIC = b"\xf7prp"
PING, PONG = 1, 2
SIZE = 32
SECRET_SIZE = 32
_BODY = struct.Struct(">4sBB2sQ")
_FOLLOWER = 1  # flags: who sent it, so that nobody's own probes can be sent back to him
_IN_USE, _FULL = 2, 4
_NONCE_BITS = 32  # of a number, below the serial; of an agent of 1.2.0, the number is the serial
_WINDOW = 256  # numbers that may arrive late: more than one round of probes to all candidates

Owner = TypeVar("Owner", bound=Hashable)


class Probe(NamedTuple):
    """What a probe says."""

    kind: int
    number: int
    in_use: bool  # the sender has chosen the path that this probe takes
    full: bool = False  # the ping is of full size; the pong answers such a one


def new_number(serial: int) -> int:
    """Return the number of a ping; `serial` counts them, from 1."""
    return serial << _NONCE_BITS | secrets.randbits(_NONCE_BITS)


class Key:
    """What both sides of a pair know: made of a secret of each, new with each start of an agent."""

    def __init__(self, own: bytes, other: bytes, leader: bool):
        self._key = blake2s(min(own, other) + max(own, other), person=b"prp key").digest()
        self.hint = self._mac(b"hint")[:2]
        self._own_flag, self._other_flag = (0, _FOLLOWER) if leader else (_FOLLOWER, 0)

    def _mac(self, body: bytes) -> bytes:
        return blake2s(body, key=self._key, digest_size=16).digest()

    def seal(self, probe: Probe, full_size: int = SIZE + 1) -> bytes:
        """Return the datagram; `full_size` is that of a ping of full size, in bytes."""
        flags = self._own_flag | (_IN_USE if probe.in_use else 0) | (_FULL if probe.full else 0)
        body = _BODY.pack(MAGIC, probe.kind, flags, self.hint, probe.number)
        return (body + self._mac(body)).ljust(full_size if _padded(probe) else SIZE, b"\0")

    def unseal(self, datagram: bytes) -> Probe | None:
        """Return what the other side says, or None when it did not send this."""
        head = datagram[:SIZE]
        if len(head) != SIZE or not hmac.compare_digest(self._mac(head[:-16]), head[-16:]):
            return None
        magic, kind, flags, _, number = _BODY.unpack_from(head)
        if magic != MAGIC or kind not in (PING, PONG) or flags & ~(_IN_USE | _FULL) != self._other_flag:
            return None
        probe = Probe(kind, number, bool(flags & _IN_USE), bool(flags & _FULL))
        return probe if _padded(probe) == (len(datagram) > SIZE) else None


def _padded(probe: Probe) -> bool:
    return probe.full and probe.kind == PING


class Keyring(Generic[Owner]):
    """The keys of all pairs, to find out whose a probe is."""

    def __init__(self) -> None:
        self._by_hint: dict[bytes, dict[Owner, Key]] = {}
        self._hints: dict[Owner, bytes] = {}

    def put(self, owner: Owner, key: Key | None) -> None:
        """Give the owner another key, or none."""
        hint = self._hints.pop(owner, None)
        if hint is not None:
            del self._by_hint[hint][owner]
            if not self._by_hint[hint]:
                del self._by_hint[hint]
        if key is not None:
            self._hints[owner] = key.hint
            self._by_hint.setdefault(key.hint, {})[owner] = key

    def unseal(self, datagram: bytes) -> tuple[Owner, Probe] | None:
        """Return whose probe this is and what it says."""
        for owner, key in self._by_hint.get(bytes(datagram[6:8]), {}).items():
            probe = key.unseal(datagram)
            if probe is not None:
                return owner, probe
        return None


class Window:
    """The numbers that were accepted."""

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # bit n: highest - n

    def accept(self, number: int) -> bool:
        """Whether this is the first time, and not too late."""
        serial = number >> _NONCE_BITS or number
        ahead = serial - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1 if ahead < _WINDOW else 1) & ((1 << _WINDOW) - 1)
            self._highest = serial
            return True
        if -ahead >= _WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True
