# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network between two sites that loses large packets without a word (no ICMP): TCP would stand still for ever."""

from __future__ import annotations

import socket
import threading
import time

from harness.paths import Figure, Paths
from harness.wireguard import Device

_SIZE = 2_000_000


def transfer(one: Device, other: Device, seconds: float) -> float:
    """Send 2 MB over a TCP connection; return how long it took until all had arrived."""
    address = other.address.split("/")[0]
    with other.host.inside(), socket.create_server((address, 0)) as server:
        server.settimeout(seconds)
        with one.host.inside():
            client = socket.create_connection(server.getsockname(), seconds)
        end, _ = server.accept()
    with client, end:
        client.settimeout(seconds)
        end.settimeout(seconds)
        started = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(bytes(_SIZE),), daemon=True)
        sender.start()
        left = _SIZE
        while left:
            data = end.recv(1 << 16)
            assert data, "the connection is gone"
            left -= len(data)
        sender.join()
        return time.monotonic() - started


def test_a_way_that_loses_large_packets_is_not_taken(paths: Paths, figure: Figure) -> None:
    home, away = paths.sites
    home.lose_large(away.wan_v4)
    paths.up()
    time.sleep(10)  # ten times as long as a direct path takes
    paths.wait("relay")
    assert {agent.path(other)["why_not"] for agent, other in paths.views()} == {"narrow_path"}
    figure("path: 2 MB where the direct way loses packets over 1,400 bytes", f"{transfer(*paths.devices, 10):.2f} s")
    home.heal()
    paths.wait("direct", seconds=60)


def test_a_way_that_begins_to_lose_large_packets_is_left(paths: Paths, figure: Figure) -> None:
    home, away = paths.sites
    paths.up()
    paths.wait("direct")
    quick = transfer(*paths.devices, 10)
    home.lose_large(away.wan_v4)
    took = transfer(*paths.devices, 60)
    paths.wait("relay")
    figure(
        "path: 2 MB while the direct way begins to lose packets over 1,400 bytes",
        f"{took:.1f} s, before {quick:.2f} s",
        "< 15 s",
    )
    assert took < 15
