#!/usr/bin/python3
"""A device that keeps trying, as WireGuard does: ask HOST PORT twice a second from one port, and count the answers."""

import socket
import sys
import time
from pathlib import Path

count = 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.bind(("", 50000))
    client.settimeout(0.5)
    while True:
        client.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
        try:
            count += client.recvfrom(100)[1] == (sys.argv[1], int(sys.argv[2]))
            Path("/run/answers").write_text(f"{count}\n")
        except OSError:
            pass
        time.sleep(0.5)
