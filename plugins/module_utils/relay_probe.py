# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying probes to an endpoint: WireGuard initiations that a relay made to itself and answers once each."""

from __future__ import annotations

import base64
import json
import selectors
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2s
from typing import cast

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import format_endpoint, is_key

INITIATION, RESPONSE, COOKIE_REPLY = 1, 2, 3
SIZES = {INITIATION: 148, RESPONSE: 92, COOKIE_REPLY: 64}
RESPONSE_MAC1 = 60  # its offset, and the size of what it covers
MAC_SIZE = 16


class ProbeError(ValueError):
    """Something that cannot be carried, or is no answer of the tools asked; the message says what to do."""


@dataclass
class Outcome:
    """What became of the probes that were sent to an endpoint."""

    address: str = ""  # what answered
    round_trip_ms: float | None = None
    indexes: tuple = ()  # sender indexes of what was sent
    reason: str = ""

    @property
    def reachable(self) -> bool:
        return self.round_trip_ms is not None


def read_probes(texts: list) -> dict[int, bytes]:
    """The probes by their sender index, in order."""
    probes = {}
    for number, text in enumerate(texts, 1):
        try:
            datagram = bytes.fromhex(text)
        except ValueError:
            datagram = b""
        if len(datagram) != SIZES[INITIATION] or datagram[:4] != struct.pack("<I", INITIATION):
            raise ProbeError(
                f"initiation {number} is not the hexadecimal form of a WireGuard initiation: take what "
                "`peer-relay probe` prints on the relay"
            )
        probes[struct.unpack_from("<I", datagram, 4)[0]] = datagram
    if not probes:
        raise ProbeError("there is no initiation to send: take what `peer-relay probe` prints on the relay")
    return probes


def read_key(text: str) -> bytes:
    if not is_key(text):
        raise ProbeError(f"relay_public_key {text!r} is not 32 bytes in base64: take what `peer-relay probe` prints")
    return base64.b64decode(text)


def read_fwmark(text: str) -> int:
    """What `wg show INTERFACE fwmark` prints."""
    text = text.strip()
    try:
        return 0 if text == "off" else int(text, 16)
    except ValueError:
        raise ProbeError(f"wg show fwmark: printed {text[:40]!r} instead of off or a hexadecimal number") from None


def read_route(text: str) -> str:
    """The interface that `ip -json route get ADDRESS` names."""
    try:
        return str(json.loads(text)[0]["dev"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ProbeError(f"ip route get: printed {text[:80]!r} instead of a route in JSON: update iproute2") from None


def answered(datagram: bytes, relay_key: bytes) -> int | None:
    """The index of the probe that a datagram answers; None when it is no answer of this relay.

    A relay under load answers by a cookie reply, which carries nothing that its public key could prove.
    """
    if len(datagram) == SIZES[RESPONSE] and datagram[:4] == struct.pack("<I", RESPONSE):
        key = blake2s(b"mac1----" + relay_key).digest()
        mac1 = blake2s(datagram[:RESPONSE_MAC1], key=key, digest_size=MAC_SIZE).digest()
        if datagram[RESPONSE_MAC1 : RESPONSE_MAC1 + MAC_SIZE] == mac1:
            return struct.unpack_from("<I", datagram, 8)[0]
    elif len(datagram) == SIZES[COOKIE_REPLY] and datagram[:4] == struct.pack("<I", COOKIE_REPLY):
        return struct.unpack_from("<I", datagram, 4)[0]
    return None


def resolve(host: str, port: int) -> list:
    """(family, socket address) of an address or a name, as WireGuard would try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys((entry[0], entry[4]) for entry in found))


class Carrier:
    """Sends probes, each once, and waits for an answer to any of them.

    Not connected: an answer from another address than was asked counts, as it does for WireGuard.
    """

    def __init__(self, relay_key: bytes, timeout: float, fwmark: int = 0):
        self._relay_key = relay_key
        self._timeout = timeout
        self._fwmark = fwmark
        self._sent: dict[int, float] = {}

    def carry(self, probes: dict[int, bytes], targets: list) -> Outcome:
        """Send to the targets in turn until one probe is answered."""
        targets = list(targets)
        problem = ""
        with ExitStack() as stack, selectors.DefaultSelector() as ready:
            sockets = {}
            for family in {target[0] for target in targets}:
                sockets[family] = stack.enter_context(self._open(family))
                ready.register(sockets[family], selectors.EVENT_READ)
            waiting = list(probes)
            while waiting and targets:
                family, address = targets.pop(0)
                try:
                    sockets[family].sendto(probes[waiting[0]], address)
                except OSError as error:
                    problem = f"{format_endpoint(*address[:2])}: {error.strerror}"
                    continue
                targets.append((family, address))
                self._sent[waiting.pop(0)] = time.monotonic()
                outcome = self._wait(ready)
                if outcome:
                    return outcome
        sent = tuple(self._sent)
        silence = f"no answer to {len(sent)} {'probe' if len(sent) == 1 else 'probes'}" if sent else ""
        return Outcome(indexes=sent, reason=silence or problem)

    def _open(self, family: int) -> socket.socket:
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            if self._fwmark:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._fwmark)
        except OSError:
            opened.close()
            raise
        return opened

    def _wait(self, ready: selectors.BaseSelector) -> Outcome | None:
        end = time.monotonic() + self._timeout
        while (left := end - time.monotonic()) > 0:
            for entry in ready.select(left):
                try:
                    datagram, source = cast("socket.socket", entry[0].fileobj).recvfrom(2048)
                except OSError:
                    continue
                index = answered(datagram, self._relay_key)
                sent = None if index is None else self._sent.get(index)
                if sent is not None:
                    trip = round((time.monotonic() - sent) * 1000, 3)
                    return Outcome(format_endpoint(*source[:2]), trip, tuple(self._sent))
        return None
