# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for systemd, which services tell that they are ready."""

from __future__ import annotations

import socket
from pathlib import Path

from harness.processes import Process


class NotifySocket:
    """Hears READY=1 of one service."""

    def __init__(self, path: Path):
        self.path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait_ready(self, name: str, process: Process, seconds: float = 10) -> None:
        """Wait until the service says that it is ready, and hear no more."""
        try:
            process.wait_until(f"{name} says that it is ready", self._heard_ready, seconds)
        finally:
            self._socket.close()

    def _heard_ready(self) -> bool:
        try:
            return b"READY=1" in self._socket.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
