# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab does what the other tests take for granted."""

from __future__ import annotations

import pytest
from harness.capture import udp_socket
from harness.topology import RELAY_V4, RELAY_V6, Lab


def test_router_translates_refuses_and_rebinds(lab: Lab) -> None:
    site = lab.site()
    inside = udp_socket(site.host("inside"), "0.0.0.0")
    server = udp_socket(lab.relay_host, RELAY_V4[0], 40000)
    other = udp_socket(lab.relay_host, RELAY_V4[1], 40000)

    def source() -> tuple[str, int]:
        inside.sendto(b"hello", (RELAY_V4[0], 40000))
        return server.recvfrom(100)[1]

    with inside, server, other:
        first = source()
        assert first == source()
        assert first[0] == site.wan_v4
        server.sendto(b"answer", first)
        assert inside.recv(100) == b"answer"

        other.sendto(b"nobody asked", first)
        with pytest.raises(TimeoutError):
            inside.recv(100)

        site.new_ports()
        second = source()
        assert second[0] == first[0]
        assert second[1] != first[1]

        site.new_address()
        assert source()[0] == site.wan_v4 != first[0]


def test_wan_has_v6_and_loss_and_reordering(lab: Lab) -> None:
    site = lab.site()
    host = site.host("inside", v4=True, v6=True)
    inside6, server6 = udp_socket(host, "::"), udp_socket(lab.relay_host, RELAY_V6)
    inside4, server4 = udp_socket(host, "0.0.0.0"), udp_socket(lab.relay_host, RELAY_V4[0])
    with inside4, inside6, server4, server6:
        inside6.sendto(b"hello", server6.getsockname())
        assert server6.recv(100) == b"hello"

        site.reorder(host, 20)
        numbers = list(range(60))
        for number in numbers:
            inside4.sendto(bytes([number]) * 1000, server4.getsockname())
        arrived = [server4.recv(2000)[0] for _ in numbers]
        assert arrived != numbers
        assert sorted(arrived) == numbers

        site.partition()
        inside6.sendto(b"gone", server6.getsockname())
        with pytest.raises(TimeoutError):
            server6.recv(100)
