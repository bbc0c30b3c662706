# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams from outside to a port, each from a source port of its own: a new flow, which only a mapping lets in."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

from harness.netns import Namespace
from harness.processes import wait_until
from harness.traffic import Direction

_NUMBER = struct.Struct(">Q")
_LINGER = 0.3  # seconds in which datagrams under way may still arrive
_FIRST_SOURCE_PORT = 10000  # none is used twice: routers remember flows for minutes


def _socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class Knocks(Direction):
    """Datagrams from `outside` to the target, expected at an address and port of `inside`, until `stop`."""

    def __init__(
        self,
        outside: Namespace,
        target: tuple[str, int],
        inside: Namespace,
        inner: tuple[str, int],
        rate: float = 50,
    ):
        super().__init__(f"{target[0]} port {target[1]} to {inner[0]} port {inner[1]}")
        self._outside = outside
        self._target = target
        self._interval = 1 / rate
        self._stopped = threading.Event()
        with inside.inside():
            self._door = _socket(inner[0])
            self._door.bind(inner)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._outside.inside(), selectors.DefaultSelector() as selector:
            selector.register(self._door, selectors.EVENT_READ)
            number, due = 0, time.monotonic()
            while not self._stopped.is_set():
                if time.monotonic() >= due:
                    self._knock(number)
                    number, due = number + 1, due + self._interval
                if selector.select(max(0, due - time.monotonic())):
                    self._receive()
            time.sleep(_LINGER)
            self._receive()

    def _knock(self, number: int) -> None:
        with _socket(self._target[0]) as made:
            made.bind(("", _FIRST_SOURCE_PORT + number))
            self.sent[number] = time.monotonic()
            with contextlib.suppress(OSError):  # no way there: lost
                made.sendto(_NUMBER.pack(number), self._target)

    def _receive(self) -> None:
        try:
            while True:
                self.arrived(_NUMBER.unpack(self._door.recv(100))[0])
        except BlockingIOError:
            return

    def wait_arriving(self, seconds: float = 5) -> float:
        """Wait until a datagram sent from now on arrives; return how long that took."""
        moment = time.monotonic()
        return wait_until(f"{self.name} is open", lambda: self.arrived_after(moment), seconds)

    def wait_silent(self, seconds: float = 5, quiet: float = 0.3) -> float:
        """Wait until none has arrived for the time `quiet`; return how long that took."""

        def silent() -> bool:
            return time.monotonic() - max(list(self.received.values())[-1:], default=0) > quiet

        return wait_until(f"{self.name} is closed", silent, seconds)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5)
        self._door.close()

    def __enter__(self) -> Knocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
