# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a router, or all hosts of the network, for Internet gateways."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Any

from ..deadline import left
from ..mapping import Malformed
from . import ssdp

_SECONDS = 1.6  # an answer may be delayed by 1 s
_REPEAT = 0.5  # datagrams get lost
_MAX_BYTES = 2048
_MAX_DATAGRAMS = 1000
_MAX_SENDERS = 64
_MAX_ANSWERS = 48  # of each, so that nobody's keep another's from being heard; real routers give some seven


def search(destination: str, local_address: str) -> Iterator[tuple[str, ssdp.Answer]]:
    """Yield (address, answer) for each gateway that answers in time; an answer that repeats, once.

    The destination is a router or a group. Try the router first: a host firewall lets its answer in, which belongs to
    a datagram that the host sent to it; answers to a group belong to none.
    """
    seen: dict[str, set[ssdp.Answer]] = {}
    with contextlib.suppress(OSError), _Socket(destination, local_address) as sock:  # port closed or no route: none
        for sender, datagram in sock.datagrams():
            try:
                answer = ssdp.parse(datagram)
            except Malformed:
                continue
            if sender not in seen and len(seen) >= _MAX_SENDERS:
                continue
            answers = seen.setdefault(sender, set())
            if answer not in answers and len(answers) < _MAX_ANSWERS:
                answers.add(answer)
                yield sender, answer


class _Socket:
    """A UDP socket that asks and hears: from a router, only what that router says; from a group, anybody."""

    def __init__(self, destination: str, local_address: str):
        self._family = 6 if ":" in destination else 4
        self._destination = destination
        self._to = socket.getaddrinfo(destination, ssdp.PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
        self._group = ipaddress.ip_address(destination.partition("%")[0]).is_multicast
        self._sock = socket.socket(socket.AF_INET6 if self._family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Of a scope other than the destination's, an IPv6 address would be answered from another of the router's.
            if self._family == 4:
                self._sock.bind((local_address, 0))
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(local_address))
            if not self._group:
                self._sock.connect(self._to)
        except OSError:
            self._sock.close()
            raise

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def datagrams(self) -> Iterator[tuple[str, bytes]]:
        """Ask, ask again, and yield (sender, datagram) until the time is over."""
        end = repeat = time.monotonic()
        end += left(_SECONDS)
        left_to_read = _MAX_DATAGRAMS
        while (now := time.monotonic()) < end and left_to_read:
            if now >= repeat:
                self._ask()
                repeat = now + _REPEAT
            self._sock.settimeout(max(0.001, min(repeat, end) - now))
            with contextlib.suppress(TimeoutError):
                datagram, sender = self._sock.recvfrom(_MAX_BYTES)
                left_to_read -= 1
                yield self._name(sender), datagram

    def _ask(self) -> None:
        for message in ssdp.searches(self._family):
            if self._group:
                self._sock.sendto(message, self._to)
            else:
                self._sock.send(message)

    def _name(self, sender: tuple[Any, ...]) -> str:
        """Return the sender's address: of a router as it was given, of others with the zone they are in."""
        if not self._group:
            return self._destination
        return f"{sender[0]}%{sender[3]}" if self._family == 6 and sender[3] else sender[0]
