# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams from and to WireGuard's own port, beside WireGuard: through the same NAT mappings as its packets.

A raw socket sends from a port that another socket holds, and gets a copy of every UDP packet that reaches this host. A
filter in the kernel lets only probes pass, so that WireGuard's traffic costs this process nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from peer_agent.core.limits import BATCH
from peer_agent.endpoints import Address, Endpoint

_SO_ATTACH_FILTER = 26
_IP_PKTINFO, _IP_MTU_DISCOVER, _PMTUDISC_DONT, _PMTUDISC_WANT = 8, 10, 0, 1
_UDP = struct.Struct(">HHHH")
_MAX_DATAGRAM = 2048
_MAX_SOURCES = 1024

# Classic BPF (linux/filter.h)
_LOAD_IP_HEADER_SIZE, _LOAD_X, _LOAD_HALF, _LOAD_WORD = 0xB1, 0x01, 0x48, 0x40
_LOAD_EXTENSION, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INTERFACE = 0xFFFFF000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX


class Datagram(NamedTuple):
    """What was received."""

    payload: bytes
    source: Endpoint
    local: str  # the address of this host that it was sent to


def _attach_filter(sock: socket.socket, port: int, magic: bytes, tunnel: int) -> None:
    """Let pass what goes to the port and begins with the magic, and came through any interface but the tunnel's."""
    # IPv4 raw sockets see the IP header, IPv6 ones do not. X: where UDP begins.
    begin = (_LOAD_IP_HEADER_SIZE, 0, 0, 0) if sock.family == socket.AF_INET else (_LOAD_X, 0, 0, 0)
    program = [
        begin,
        (_LOAD_HALF, 0, 0, 2),
        (_JUMP_EQUAL, 0, 5, port),
        (_LOAD_WORD, 0, 0, _UDP.size),
        (_JUMP_EQUAL, 0, 3, int.from_bytes(magic, "big")),
        (_LOAD_EXTENSION, 0, 0, _INTERFACE),
        (_JUMP_EQUAL, 1, 0, tunnel),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def _mark(sock: socket.socket, mark: int) -> None:
    """Have packets leave the way that WireGuard's do. A mark may be larger than what Python takes for an int here."""
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))


def checksum(source: bytes, target: bytes, segment: bytes) -> int:
    """Return the UDP checksum over IPv4 (RFC 768): optional, but some NATs lose packets without one."""
    data = (
        source
        + target
        + struct.pack(">BBH", 0, socket.IPPROTO_UDP, len(segment))
        + segment
        + b"\0" * (len(segment) % 2)
    )
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF) or 0xFFFF


class _Family:
    """The raw socket of one IP version."""

    def __init__(self, family: socket.AddressFamily, port: int, mark: int, magic: bytes, tunnel: int, whole: bool):
        self._port, self._mark = port, mark
        self.raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP)
        try:
            _attach_filter(self.raw, port, magic, tunnel)
            self.raw.setblocking(False)
            _mark(self.raw, mark)
            if family == socket.AF_INET:
                discover = _PMTUDISC_WANT if whole else _PMTUDISC_DONT
                self.raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
            else:
                self.raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)  # where in the UDP header it goes
                self.raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        except OSError:
            self.raw.close()
            raise

    def source(self, target: Endpoint) -> str:
        """Return the address that packets to the target leave from; raise OSError when there is no way."""
        # A socket for each question: a second connect would keep the address of the first.
        with socket.socket(self.raw.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            _mark(sock, self._mark)
            sock.connect((target.host, target.port))
            return sock.getsockname()[0]

    def send(self, payload: bytes, source: str, target: Endpoint) -> None:
        header = _UDP.pack(self._port, target.port, _UDP.size + len(payload), 0)
        local = ip_address(source).packed
        if len(local) == 4:
            value = checksum(local, ip_address(target.host).packed, header + payload)
            header = header[:6] + struct.pack(">H", value)
            control = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, local, bytes(4)))]
        else:
            control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16si", local, 0))]
        self.raw.sendmsg([header + payload], control, socket.MSG_DONTWAIT, (target.host, 0))

    def receive(self) -> Datagram | None:
        packet, control, _, address = self.raw.recvmsg(_MAX_DATAGRAM, socket.CMSG_SPACE(20))
        if self.raw.family == socket.AF_INET:
            local, packet = packet[16:20], packet[(packet[0] & 15) * 4 :]
        else:
            local = next((data[:16] for level, _, data in control if level == socket.IPPROTO_IPV6), bytes(16))
        if len(packet) < _UDP.size:
            return None
        port, _, _, _ = _UDP.unpack_from(packet)
        with contextlib.suppress(ValueError):  # port 0, or an address with a scope
            return Datagram(packet[_UDP.size :], Endpoint.of(address[0], port), str(ip_address(local)))
        return None


class ProbeSocket:
    """WireGuard's port, for both IP versions, as far as the host has them."""

    def __init__(self, port: int, mark: int, magic: bytes, tunnel: int, own: frozenset[Address], whole: bool):
        """`mark` is that of WireGuard's packets, `tunnel` the index of its interface, `own` are its addresses; `whole`
        forbids IPv4 routers to fragment probes."""
        self._own = own
        self._avoided: frozenset[Address] = frozenset()
        self._sources: dict[str, str] = {}  # by the target's address
        self._families: dict[int, _Family] = {}
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                with contextlib.suppress(OSError) if version == 6 else contextlib.nullcontext():
                    self._families[version] = _Family(family, port, mark, magic, tunnel, whole)
        except OSError:
            self.close()
            raise

    @property
    def sockets(self) -> list[socket.socket]:
        return [family.raw for family in self._families.values()]

    def close(self) -> None:
        for family in self._families.values():
            family.raw.close()

    def source(self, target: Endpoint) -> str:
        """Return the address that packets to the target leave from; raise OSError when they would not leave.

        A subnet of the other device leads into the tunnel. WireGuard's packets would go round in circles there.
        """
        source = self._sources.get(target.host)
        if source is None:
            family = self._families.get(target.address.version)
            if family is None:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            source = family.source(target)
            if source == target.host or ip_address(source) in self._own | self._avoided:
                raise OSError(errno.ELOOP, "the way leads into a tunnel, or to this host itself")
            if len(self._sources) >= _MAX_SOURCES:  # others name as many targets as they like
                self.forget_sources()
            self._sources[target.host] = source
        return source

    def avoid(self, addresses: Iterable[Address]) -> None:
        """Send nothing that would leave from these addresses."""
        self._avoided = frozenset(addresses)
        self.forget_sources()

    def forget_sources(self) -> None:
        """Ask the kernel anew for the way to each target: the routes may have changed."""
        self._sources.clear()

    def send(self, payload: bytes, target: Endpoint) -> None:
        """Send one datagram; raise OSError."""
        source = self.source(target)
        self._families[target.address.version].send(payload, source, target)

    def receive(self, sock: socket.socket, handle: Callable[[Datagram], None]) -> None:
        """Hand over a batch of what has arrived at one of the sockets."""
        family = self._families[4 if sock.family == socket.AF_INET else 6]
        with contextlib.suppress(OSError):  # none left, or an error of the interface's
            for _ in range(BATCH):
                datagram = family.receive()
                if datagram is not None:
                    handle(datagram)
