# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guard an interface's rules, routes and packet filter: python3 -m peer_guard INTERFACE"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

from peer_guard.notifications import Notifications
from peer_guard.reconciler import Reconciler

FIRST_LOOK = 2.0  # s; the interface's file starts this before it is through itself
LOOK_AGAIN = 60.0  # s; legacy iptables tells nobody
MIN_PAUSE = 0.2  # s between two looks: other software changes the packet filter all the time


def tell(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def main() -> None:
    interface = sys.argv[1]
    notifications, reconciler, times = Notifications(interface), Reconciler(interface), 0
    tell("READY=1\nSTATUS=Nothing was removed so far.")
    time.sleep(FIRST_LOOK)
    while True:
        try:
            done = reconciler.put_back()
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
            print(f"{interface}: cannot put back what is missing, nothing passes meanwhile: {error} {said}", flush=True)
            done = []
        if done:
            times += 1
            print(f"{interface}: somebody removed, and this put back: {', '.join(done)}", flush=True)
            tell(f"STATUS=Put back {times} times, last at {time.strftime('%F %T')}: {', '.join(done)}")
        time.sleep(MIN_PAUSE)
        end = time.monotonic() + LOOK_AGAIN
        while not notifications.wait(max(end - time.monotonic(), 0)) and time.monotonic() < end:
            pass


if __name__ == "__main__":
    main()
