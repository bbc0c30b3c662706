# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service manager: readiness and watchdog (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket


def send(*lines: str) -> None:
    """Send assignments such as READY=1; without a service manager this does nothing."""
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    address = "\0" + target[1:] if target.startswith("@") else target
    # An error means that the manager is restarting; the next message will arrive.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(lines).encode(), address)


def watchdog_interval() -> float:
    """Return the seconds after which the service manager acts on silence."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return float("inf")
