# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One TCP connection that lives through a whole test."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time

from harness.wireguard import Device

_NUMBER = struct.Struct(">Q")
_INTERVAL = 0.05


class Connection:
    """Numbers, counted up, from one device to the other and back again over the same connection."""

    def __init__(self, one: Device, other: Device):
        address = other.address.split("/")[0]
        with other.host.inside(), socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            with one.host.inside():
                self._client = socket.create_connection((address, port), 10)
            self._server, _ = server.accept()
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.returned = 0  # numbers that made the round
        self.problem = ""
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sent, due = 0, time.monotonic()
        try:
            while not self._done:
                readable, _, _ = select.select([self._client, self._server], [], [], max(0, due - time.monotonic()))
                if self._server in readable:
                    self._server.sendall(self._read(self._server))
                if self._client in readable:
                    data = self._read(self._client)
                    for (number,) in _NUMBER.iter_unpack(data):
                        if number != self.returned:
                            raise AssertionError(f"{number} came instead of {self.returned}")
                        self.returned += 1
                if time.monotonic() >= due:
                    self._client.sendall(_NUMBER.pack(sent))
                    sent, due = sent + 1, time.monotonic() + _INTERVAL
        except (OSError, AssertionError) as error:
            self.problem = str(error)

    @staticmethod
    def _read(end: socket.socket) -> bytes:
        """Return whole numbers."""
        data = end.recv(8000)
        if not data:
            raise AssertionError("the other end has closed the connection")
        while len(data) % _NUMBER.size:
            data += end.recv(_NUMBER.size - len(data) % _NUMBER.size)
        return data

    def check(self, seconds: float = 20) -> None:
        """Fail unless numbers still make the round."""
        before, end = self.returned, time.monotonic() + seconds
        while self.returned == before and not self.problem and time.monotonic() < end:
            time.sleep(0.05)
        assert not self.problem, f"the TCP connection is gone: {self.problem}"
        assert self.returned > before, f"the TCP connection has stood still for {seconds:g} s"

    def close(self) -> None:
        self._done = True
        self._thread.join(5)
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.close()
