# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's table between two hosts, and messages through it.

ann 10.1.0.2 (eth0) --- (in0) 10.1.0.1 relay 10.2.0.1 (out0) --- (eth0) 10.2.0.2 bob
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from peer_relay import addresses
from peer_relay.dataplane.kernel.entry import Count, Key, Target
from peer_relay.dataplane.kernel.table import KernelTable

from harness.netns import Namespace, link
from harness.processes import run

PORT = 40000
SIZE = 1000
UDP_GRO = 104
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3


class Family(NamedTuple):
    """Addresses of ann, the relay toward ann, the relay toward bob, bob; and how much headers take."""

    number: socket.AddressFamily
    ann: str
    inside: str
    outside: str
    bob: str
    headers: int


V4 = Family(socket.AF_INET, "10.1.0.2", "10.1.0.1", "10.2.0.1", "10.2.0.2", 28)
V6 = Family(socket.AF_INET6, "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2", 48)


def message(index: int, number: int = 0, size: int = 100, kind: int = 4) -> bytes:
    """Return a transport message; its number lies where WireGuard has the counter."""
    return struct.pack("<IIQ", kind, index, number).ljust(size, b"\xa5")


class World:
    """Three hosts in a row, and the kernel's table on the middle one."""

    def __init__(self, folder: Path):
        self.hosts = [Namespace(label, folder) for label in ("ann", "relay", "bob")]
        self.ann, self.relay, self.bob = self.hosts
        self.pins = folder / "bpf"
        self.pins.mkdir()
        run("mount", "-t", "bpf", "bpf", str(self.pins))
        self.folder = self.pins / "table"
        self.table: KernelTable | None = None
        self.links()
        self._sockets = contextlib.ExitStack()

    def links(self) -> None:
        link(self.ann, "eth0", self.relay, "in0")
        link(self.relay, "out0", self.bob, "eth0")
        for family in (V4, V6):
            bits = "24" if family is V4 else "64 nodad"
            self.ann.ip(f"addr add {family.ann}/{bits} dev eth0")
            self.relay.ip(f"addr add {family.inside}/{bits} dev in0", f"addr add {family.outside}/{bits} dev out0")
            self.bob.ip(f"addr add {family.bob}/{bits} dev eth0")

    def index(self, interface: str) -> int:
        with self.relay.inside():
            return socket.if_nametoindex(interface)

    @property
    def interfaces(self) -> list[int]:
        return [self.index("in0"), self.index("out0")]

    def open(self, size: int = SIZE) -> KernelTable:
        with self.relay.inside():
            self.table = KernelTable.open(self.folder, size)
        return self.table

    def attach(self) -> dict[int, str]:
        with self.relay.inside():
            return self.table.attach(self.interfaces)

    def destroy(self) -> None:
        with self.relay.inside():
            self.table.destroy()
        self.table = None

    def socket(self, host: Namespace, address: str, port: int = 0) -> socket.socket:
        with host.inside():
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, port))
        # The system's timeout, not Python's, which waits where it should not (MSG_DONTWAIT).
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 2, 0))
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        return self._sockets.enter_context(made)

    def ethtool(self, host: Namespace, interface: str, **features: bool) -> None:
        words = [word for name, on in features.items() for word in (name.replace("_", "-"), "on" if on else "off")]
        host.run("ethtool", "-K", interface, *words)

    def remove(self) -> None:
        self._sockets.close()
        if self.table:
            self.table.close()
        for host in self.hosts:
            host.remove()
        run("umount", str(self.pins))


class Talk:
    """ann sends to bob under index 7, through the table; the relay's own socket hears what passes on."""

    def __init__(self, world: World, family: Family, index: int = 7):
        self.world, self.family, self.index = world, family, index
        self.ann = world.socket(world.ann, family.ann)
        self.bob = world.socket(world.bob, family.bob)
        self.relay = world.socket(world.relay, "::" if family is V6 else "0.0.0.0", PORT)
        self.key = Key(packed(self.ann), addresses.pack(family.inside, PORT), index)
        self.target = self.to(self.bob)

    def to(self, end: socket.socket, interface: str = "out0", mtu: int = 1500) -> Target:
        local = addresses.pack(self.family.outside, PORT)
        return Target(packed(end), local, self.world.index(interface), mtu)

    def put(self, target: Target | None = None) -> None:
        assert self.world.table.put([(self.key, target or self.target)]) == {}

    def send(self, datagram: bytes) -> None:
        self.ann.sendto(datagram, (self.family.inside, PORT))

    def count(self) -> Count:
        return self.world.table.read()[self.key][1]

    def passes(self, number: int = 0) -> None:
        """Check that a message is forwarded by the kernel."""
        datagram = message(self.index, number)
        self.send(datagram)
        data, source = self.bob.recvfrom(2048)
        assert (data, source[:2]) == (datagram, (self.family.outside, PORT))

    def passes_on(self, datagram: bytes) -> None:
        """Check that a datagram reaches the relay's socket, and nobody else."""
        self.send(datagram)
        assert self.relay.recv(65536) == datagram
        assert silent(self.bob)


def packed(end: socket.socket) -> bytes:
    return addresses.pack(*end.getsockname()[:2])


def silent(end: socket.socket) -> bool:
    time.sleep(0.01)
    try:
        end.recv(2048, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    return False


def receive_all(*ends: socket.socket) -> list[Counter[int]]:
    """Return how many messages of each index every socket has got, until it is quiet."""
    counts = [Counter() for _ in ends]
    quiet = time.monotonic() + 0.15
    while time.monotonic() < quiet:
        for end, count in zip(ends, counts, strict=True):
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, control, _, _ = end.recvmsg(65536, 100, socket.MSG_DONTWAIT)
                    step = next((struct.unpack("=i", told[2][:4])[0] for told in control if told[1] == UDP_GRO), 0)
                    for start in range(0, len(data), step or len(data)):
                        count[struct.unpack_from("<I", data, start + 4)[0]] += 1
                    quiet = time.monotonic() + 0.15
    return counts


@contextlib.contextmanager
def load(talk: Talk, total: int = 30_000) -> Iterator[None]:
    """Send meanwhile, and see that everything has arrived afterwards: at bob, or at the relay's own socket."""
    pid = os.fork()
    if not pid:
        for number in range(total):
            talk.send(message(talk.index, number))
            if number % 20 == 0:
                time.sleep(0.0005)
        os._exit(0)
    yield
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the load ended too early"
    os.waitpid(pid, 0)
    bob, relay = receive_all(talk.bob, talk.relay)
    assert bob[7] + relay[7] == total


@contextlib.contextmanager
def sniffer(host: Namespace, interface: str = "eth0") -> Iterator[socket.socket]:
    """See the frames that come in by an interface."""
    with host.inside():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        made.bind((interface, _ETH_P_ALL))
    made.settimeout(2)
    with made:
        yield made


def udp_frame(frames: socket.socket) -> bytes:
    """Return the next frame with a datagram of ours."""
    while True:
        frame = frames.recv(2048)
        if frame[-1:] == b"\xa5":
            return frame
