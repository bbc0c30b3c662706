# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets that outlive a restart of the service, as the service manager hands them on."""

from __future__ import annotations

import socket

import pytest
from peer_relay.datagrams import BatchSocket


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_kept_socket_still_has_what_arrived_meanwhile(host: str) -> None:
    first = BatchSocket(host, 0, 65536, lambda *_: None)
    kept = first.socket.dup()
    first.close()
    with socket.socket(first.family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"while it was away", kept.getsockname())
        second = BatchSocket(host, kept.getsockname()[1], 65536, lambda *_: None, kept)
        try:
            ((offset, size, _, _, _),) = second.receive()
            assert bytes(second.payload[offset : offset + size]) == b"while it was away"
        finally:
            second.close()
