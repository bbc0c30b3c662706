# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load that costs less than any relay, and round trips.

The load is a closed loop: so many datagrams are under way and no more, so a relay is kept busy, and never drowned.
Datagrams are sent in trains (UDP_SEGMENT) and counted where they arrive at the interface.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import machine
from hosts import MARK, RELAY_CORE, Hosts

PORT = 51820  # of all devices
TRAIN = 32
_STALL = 0.1  # seconds without an arrival after which what is under way counts as lost
_WARM_UP = 0.06  # seconds
_SOL_UDP, _UDP_SEGMENT, _IP_PKTINFO, _IP_RECVTTL = 17, 103, 8, 12
_HEADER = struct.Struct("@PIPNPNi0PI0P")  # mmsghdr
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


def head(kind: int, index: int) -> bytes:
    """How a transport message begins; its counter marks it as load."""
    return struct.pack("<II", kind, index) + MARK


class Flow(NamedTuple):
    """One direction between two devices: from where to where, and how the datagrams begin; and the way back."""

    source: str
    target: tuple[str, int]
    head: bytes
    receiver: str
    reply_head: bytes


class Arrival(NamedTuple):
    """A datagram, where it comes from, and what is left of its time to live."""

    datagram: bytes
    source: tuple[str, int]
    ttl: int


class Devices:
    """The socket of all devices of one host: each has an address of its own."""

    def __init__(self, hosts: Hosts):
        with hosts.devices.inside():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("0.0.0.0", PORT))
            self._counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY)
        # Not `settimeout`, which makes the socket non-blocking: sending waits until there is room.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 2, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)

    def send(self, source: str, datagram: bytes, target: tuple[str, int]) -> None:
        self.socket.sendmsg([datagram], [(socket.IPPROTO_IP, _IP_PKTINFO, _from(source))], 0, target)

    def receive(self, receiver: str = "") -> Arrival:
        """Return the next datagram to that device, or to any; others are passed over."""
        address = socket.inet_aton(receiver) if receiver else b""
        while True:
            datagram, ((_, _, control), (_, _, ttl)), _, source = self.socket.recvmsg(2048, 64)
            if control[8:12].startswith(address):
                return Arrival(datagram, source, struct.unpack("@i", ttl)[0])

    def end(self, address: str) -> End:
        return End(self, address)

    def arrived(self, interface: str) -> int:
        """How many packets has the interface received?"""
        text = os.pread(self._counters, 4096, 0)
        return int(text.partition(interface.encode() + b":")[2].split(None, 2)[1])

    def close(self) -> None:
        self.socket.close()
        os.close(self._counters)


class End:
    """One device's part of the socket, for `harness.client`."""

    def __init__(self, devices: Devices, address: str):
        self._devices, self.address = devices, address

    def sendto(self, datagram: bytes, target: tuple[str, int]) -> None:
        self._devices.send(self.address, datagram, target)

    def recv(self, _size: int) -> bytes:
        return self._devices.receive(self.address).datagram


def _from(source: str) -> bytes:
    return struct.pack("@i4s4s", 0, socket.inet_aton(source), bytes(4))


class Trains:
    """One train for each flow, ready for sendmmsg: building them must not be the generator's work."""

    def __init__(self, flows: Sequence[Flow], size: int, frame: Callable[[bytes], bytes]):
        self._kept: list[object] = []
        self.count = len(flows)
        body = os.urandom(size - 16)
        headers = bytearray()
        for flow in flows:
            datagram = frame(flow.head + body)
            host, port = flow.target
            name = self._keep(struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host))
            own = self._message(socket.IPPROTO_IP, _IP_PKTINFO, _from(flow.source))
            segment = self._message(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", len(datagram)))
            control = self._keep(own + segment)
            # All flows share what is behind the head.
            cut = len(datagram) - len(body)
            if not headers:
                shared = self._keep(body)
            part = struct.pack("@PNPN", self._keep(datagram[:cut]), cut, shared, len(body))
            vector = self._keep(part * TRAIN)
            headers += _HEADER.pack(name, 16, vector, 2 * TRAIN, control, len(own + segment), 0, 0)
        self.address = self._keep(bytes(headers))

    def _keep(self, content: bytes) -> int:
        block = ctypes.create_string_buffer(content, len(content) + 16)
        self._kept.append(block)
        return ctypes.addressof(block)

    @staticmethod
    def _message(level: int, kind: int, payload: bytes) -> bytes:
        text = struct.pack("@Nii", socket.CMSG_LEN(len(payload)), level, kind) + payload
        return text.ljust(socket.CMSG_SPACE(len(payload)), b"\0")

    def send(self, descriptor: int, number: int) -> None:
        place = self.address + number % self.count * _HEADER.size
        if _libc.sendmmsg(descriptor, place, 1, 0) != 1:
            raise OSError(ctypes.get_errno(), "sendmmsg")


class Result(NamedTuple):
    """One run of load."""

    rate: float  # packets a second
    lost: float  # share
    core: float  # seconds of the relay's core per packet
    busy: float  # share of the relay's core


class Load:
    """Load on some flows of a relay, with datagrams of one size."""

    def __init__(
        self, hosts: Hosts, devices: Devices, flows: Sequence[Flow], size: int, frame: Callable[[bytes], bytes]
    ):
        self._hosts, self._devices = hosts, devices
        self._trains = Trains(flows, size, frame)
        self._number = 0
        self._window = 0

    @property
    def sent(self) -> int:
        """How many datagrams it has sent by now, in all runs."""
        return self._number * TRAIN

    def run(self, seconds: float, windows: Sequence[int]) -> Result:
        """Run with the window that has served best without loss."""
        self._hosts.loaded(True)
        if not self._window:
            tries = [(self._run(_WARM_UP, window), window) for window in (*windows, *windows)]
            self._window = max(tries, key=lambda tried: (not tried[0].lost, tried[0].rate))[1]
        self._run(_WARM_UP, self._window)
        return self._run(seconds, self._window)

    def _run(self, seconds: float, window: int) -> Result:
        devices, interface, send = self._devices, self._hosts.arrival, self._trains.send
        descriptor = devices.socket.fileno()
        first = seen = devices.arrived(interface)
        sent = lost = 0
        idle, start = machine.idle()[RELAY_CORE], time.perf_counter()
        arrived = now = start
        while now - start < seconds:
            if sent - (seen - first) - lost <= window - TRAIN:
                send(descriptor, self._number)
                self._number += 1
                sent += TRAIN
            count = devices.arrived(interface)
            now = time.perf_counter()
            if count != seen:
                seen, arrived = count, now
            elif now - arrived > _STALL:
                lost = sent - (seen - first)
                arrived = now
        idle, took = machine.idle()[RELAY_CORE] - idle, now - start
        time.sleep(0.02)  # what is under way arrives, and is no part of the next run
        received = seen - first
        busy = max(0.0, 1 - idle / took)
        return Result(received / took, lost / max(sent, 1), busy * took / max(received, 1), busy)


def round_trips(devices: Devices, flow: Flow, size: int, count: int, frame: Callable[[bytes], bytes]) -> list[float]:
    """Seconds of single round trips on an idle relay."""
    content = bytes(8) + os.urandom(size - 16)  # not marked as load
    packet, reply = frame(flow.head[:8] + content), flow.reply_head[:8] + content
    times = []
    for _ in range(count):
        start = time.perf_counter()
        devices.send(flow.source, packet, flow.target)
        arrival = devices.receive(flow.receiver)
        devices.send(flow.receiver, reply, arrival.source)
        devices.receive(flow.source)
        times.append(time.perf_counter() - start)
        if arrival.datagram[8:] != content:
            raise RuntimeError("what arrives is not what was sent")
    return times
