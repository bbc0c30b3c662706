# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Socket addresses as bytes."""

from __future__ import annotations

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_relay import addresses

PORTS = st.integers(0, 65535)


@given(st.ip_addresses(v=4), PORTS)
def test_ipv4_there_and_back(host: object, port: int) -> None:
    packed = addresses.pack(str(host), port)
    assert len(packed) == addresses.V4_SIZE
    assert addresses.unpack(packed) == (str(host), port)
    assert addresses.text(packed) == f"{host}:{port}"
    assert addresses.host_bytes(packed) == host.packed


@given(st.ip_addresses(v=6), PORTS, st.integers(0, 2**32 - 1))
def test_ipv6_there_and_back(host: object, port: int, scope: int) -> None:
    name = f"{host}%{scope}" if scope else str(host)
    packed = addresses.pack(name, port)
    assert len(packed) == addresses.V6_SIZE
    assert addresses.unpack(packed) == (name, port)
    assert addresses.text(packed) == f"[{name}]:{port}"
    assert addresses.host_bytes(packed) == host.packed


def test_bytes_are_those_of_the_system() -> None:
    packed = addresses.pack("192.0.2.1", 51820)
    assert packed == socket.AF_INET.to_bytes(2, sys.byteorder) + bytes([0xCA, 0x6C, 192, 0, 2, 1])


@pytest.mark.parametrize("host", ["", "example.org", "192.0.2", "192.0.2.1.5", "fe80::1%eth0", "[::1]", "::1%-1"])
def test_only_literals_are_packed(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        addresses.pack(host, 1)


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_must_be_one(port: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        addresses.pack("192.0.2.1", port)
