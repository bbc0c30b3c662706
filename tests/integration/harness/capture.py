# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet captures, and packets sent from anywhere."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from harness.netns import Namespace
from harness.processes import wait_until

_UDP = 17


class Datagram(NamedTuple):
    """A UDP datagram as seen on the wire."""

    time: float
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes

    @property
    def kind(self) -> int:
        """The WireGuard message type."""
        return self.payload[0] if self.payload else 0


def _parse(at: float, frame: bytes) -> Datagram | None:
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23] == _UDP:
        addresses, udp = (frame[26:30], frame[30:34]), 14 + (frame[14] & 15) * 4
    elif kind == b"\x86\xdd" and frame[20] == _UDP:
        addresses, udp = (frame[22:38], frame[38:54]), 54
    else:
        return None
    source, destination = (str(ip_address(address)) for address in addresses)
    source_port, destination_port, length = struct.unpack_from(">HHH", frame, udp)
    return Datagram(at, (source, source_port), (destination, destination_port), frame[udp + 8 : udp + length])


def read_pcap(path: Path) -> list[Datagram]:
    """Read the UDP datagrams of a capture file (Ethernet, little-endian, microseconds)."""
    data, datagrams, offset = path.read_bytes(), [], 24
    while offset + 16 <= len(data):
        seconds, micros, length, _ = struct.unpack_from("<IIII", data, offset)
        datagram = _parse(seconds + micros / 1e6, data[offset + 16 : offset + 16 + length])
        if datagram:
            datagrams.append(datagram)
        offset += 16 + length
    return datagrams


class Capture:
    """tcpdump on an interface, from the moment of creation to `stop`."""

    def __init__(self, namespace: Namespace, interface: str, expression: str = "udp"):
        self._path = namespace.logs / f"{namespace.label}-{interface}-{id(self)}.pcap"
        words = [
            "-i",
            interface,
            "-n",
            "--immediate-mode",
            "-U",
            "-s",
            "2048",
            "-B",
            "16384",
            "-Z",
            "root",
            "-w",
            str(self._path),
            expression,
        ]
        self._process = namespace.spawn("tcpdump", *words, log=f"tcpdump-{id(self)}")
        wait_until("tcpdump listens", lambda: "listening on" in self._process.text(), 5)

    def read(self) -> list[Datagram]:
        """What was seen up to now."""
        return read_pcap(self._path)

    def stop(self) -> list[Datagram]:
        time.sleep(0.2)  # what tcpdump has not fetched from the kernel when it ends is gone
        self._process.stop()
        if "\n0 packets dropped by kernel" not in self._process.text():
            raise AssertionError(f"the capture is not complete:\n{self._process.text()}")
        return self.read()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()


def udp_socket(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    """A UDP socket of the namespace, bound to the address."""
    with namespace.inside():
        end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((address, port))
    end.settimeout(1)
    return end
