# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service manager: readiness and watchdog (sd_notify(3)), sockets kept over a restart (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_STORE_NAME = "udp"


def send(*lines: str, sockets: Iterable[socket.socket] = ()) -> None:
    """Send assignments such as READY=1, with sockets if any; without a service manager this does nothing."""
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    address = "\0" + target[1:] if target.startswith("@") else target
    # An error means that the manager is restarting; the next message will arrive.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        socket.send_fds(sock, ["\n".join(lines).encode()], [passed.fileno() for passed in sockets])


def watchdog_interval() -> float | None:
    """Return the seconds after which the service manager acts on silence, or None."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None


def keep(sockets: Iterable[socket.socket]) -> None:
    """Let the service manager hold these sockets, and no others, over a restart: datagrams wait in their buffers."""
    send("FDSTOREREMOVE=1", f"FDNAME={_STORE_NAME}")
    send("FDSTORE=1", f"FDNAME={_STORE_NAME}", sockets=sockets)


def kept() -> list[socket.socket]:
    """Return the UDP sockets that the service manager held while the service restarted."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = [socket.socket(fileno=_FIRST_FD + number) for number in range(int(os.environ.get("LISTEN_FDS", "0")))]
    for sock in found:
        sock.set_inheritable(False)
    return [sock for sock in found if sock.type == socket.SOCK_DGRAM]
