# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cheap sender and receiver in one process, and the three hosts between which they send.

    sender 10.1.0.2 --- 10.1.0.1 relay 10.2.0.1 --- 10.2.0.2 receiver

The load is a closed loop: so many datagrams are under way and no more, so a relay is never drowned, only kept busy.
Sender and receiver share the first core, all the relay's work is on the second one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness.flood import MessageHeader
from harness.netns import Namespace, link

SENDER, RELAY_IN, RELAY_OUT, RECEIVER = "10.1.0.2", "10.1.0.1", "10.2.0.1", "10.2.0.2"
LOAD_CORE, RELAY_CORE = 0, 1
TRAIN = 32
_WINDOW = 64  # what fits the socket buffers of relays that ask for no larger ones
_STALL = 0.1  # seconds without an arrival after which what is under way counts as lost
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SLOTS = 64


class Hosts:
    """Three namespaces in a row. `merging` tells whether interfaces merge equal datagrams into trains (GRO)."""

    def __init__(self, logs: Path):
        self.sender, self.relay, self.receiver = (Namespace(label, logs) for label in ("sender", "relay", "receiver"))
        link(self.sender, "eth0", self.relay, "in0")
        link(self.relay, "out0", self.receiver, "eth0")
        self.sender.ip(f"addr add {SENDER}/24 dev eth0", f"route add default via {RELAY_IN}")
        self.receiver.ip(f"addr add {RECEIVER}/24 dev eth0", f"route add default via {RELAY_OUT}")
        self.relay.ip(f"addr add {RELAY_IN}/24 dev in0", f"addr add {RELAY_OUT}/24 dev out0")
        self.relay.sysctl(net__ipv4__ip_forward=1)
        self._interfaces = [
            (self.sender, "eth0", LOAD_CORE),
            (self.relay, "in0", RELAY_CORE),
            (self.relay, "out0", RELAY_CORE),
            (self.receiver, "eth0", LOAD_CORE),
        ]
        for namespace, interface, core in self._interfaces:
            # Packets are received on the core of the host that they reached, as with network cards of their own.
            steer = f"echo {1 << core:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus"
            namespace.run("sh", "-c", steer)

    def merging(self, on: bool) -> None:
        for namespace, interface, _ in self._interfaces:
            # Trains are cut at the sending interface, so that only GRO can make them again; veth does that
            # when its peer has no segmentation of its own.
            features = ["gro", "on" if on else "off", "tso", "off", "tx-udp-segmentation", "off"]
            namespace.run("ethtool", "-K", interface, *features)

    def remove(self) -> None:
        for namespace in (self.sender, self.relay, self.receiver):
            namespace.remove()


def udp_socket(namespace: Namespace, address: str) -> socket.socket:
    with namespace.inside():
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((address, 0))
    end.settimeout(2)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return end


class Counter:
    """Counts what a socket receives without copying it."""

    def __init__(self, end: socket.socket):
        self._descriptor = end.fileno()
        self._headers = (MessageHeader * _SLOTS)()
        stride = ctypes.sizeof(MessageHeader) // 4
        offset = MessageHeader.length.offset // 4
        self._lengths = memoryview(self._headers).cast("B").cast("I")[offset::stride]
        self._receive = ctypes.CDLL(None, use_errno=True).recvmmsg
        end.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    def fetch(self) -> int:
        """Bytes received by now."""
        count = self._receive(self._descriptor, self._headers, _SLOTS, socket.MSG_DONTWAIT | socket.MSG_TRUNC, None)
        return sum(self._lengths[:count]) if count > 0 else 0


class Route(NamedTuple):
    """How a contestant is used: from which socket to which address, and how its datagrams begin each way."""

    sender: socket.socket
    target: tuple[str, int]
    head: bytes
    receiver: socket.socket
    reply_head: bytes
    frame: Callable[[bytes], bytes] = bytes  # what the sender puts around a datagram, and the relay takes off


class Result(NamedTuple):
    """One run of load."""

    rate: float  # packets a second
    lost: float  # share
    core: float  # seconds of the relay's core per packet
    busy: float  # share of the relay's core


def _relay_core_busy() -> float:
    """Seconds that the relay's core has worked."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{RELAY_CORE}":
            user, nice, system, _, _, irq, softirq = map(int, ticks[:7])
            return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError("no such core")


def throughput(route: Route, size: int, seconds: float) -> Result:
    """Keep the window full for a while."""
    packet = route.frame(route.head + os.urandom(size - len(route.head)))
    train = packet * TRAIN
    sender, counter = route.sender, Counter(route.receiver)
    while counter.fetch():
        pass
    sender.connect(route.target)
    sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, len(packet))
    sent = received = lost = 0
    core, start = _relay_core_busy(), time.perf_counter()
    arrived = now = start
    while now - start < seconds:
        if sent - received - lost <= _WINDOW - TRAIN:
            sender.send(train)
            sent += TRAIN
        fetched = counter.fetch() // size
        now = time.perf_counter()
        if fetched:
            received += fetched
            arrived = now
        elif now - arrived > _STALL:
            lost = sent - received
            arrived = now
    core, took = _relay_core_busy() - core, now - start
    sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
    time.sleep(0.02)
    return Result(received / took, lost / max(sent, 1), core / max(received, 1), core / took)


def round_trips(route: Route, size: int, count: int) -> list[float]:
    """Seconds of single round trips on an idle relay."""
    body = os.urandom(size - len(route.head))
    packet, reply = route.frame(route.head + body), route.reply_head + body
    sender, receiver = route.sender, route.receiver
    sender.connect(route.target)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        sender.send(packet)
        source = receiver.recvfrom(2048)[1]
        receiver.sendto(reply, source)
        sender.recv(2048)
        times.append(time.perf_counter() - start)
    return times
