# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which interface a destination is reached, and whether that may have changed: questions to the kernel's routing."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import NamedTuple

from peer_relay import addresses
from peer_relay.dataplane.kernel import netlink
from peer_relay.dataplane.kernel.too_big import TooBig

_GETLINK, _GETROUTE = 18, 26
_LINK, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=8BI")
_IFNAME, _MTU, _LINKINFO, _INFO_PORT_OF = 3, 4, 18, 4
_DST, _SRC, _OIF, _METRICS, _ENCAPSULATION, _METRIC_MTU = 1, 2, 4, 8, 21, 2
_UP, _LOOPBACK = 0x1, 0x8
_UNICAST, _LOCAL = 1, 2
# Multicast groups: links; addresses, routes and rules of IPv4 and IPv6.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
# The program for each type of interface: Ethernet; PPP, and tunnels without link layer.
_PROGRAMS = {1: "ethernet", 512: "ip", 0xFFFE: "ip"}
_COLLECTORS = {"bridge", "bond", "team", "openvswitch"}  # their ports' packets arrive at them


class Route(NamedTuple):
    """By which interface packets leave, and the largest IP packet that fits."""

    interface: int
    mtu: int


class NoRoute(Exception):
    """Why the kernel cannot send there by itself."""


class Interface(NamedTuple):
    """A network interface; `refused` tells why no program belongs there ("": `program` does)."""

    ifindex: int
    name: str
    mtu: int
    up: bool
    program: str
    refused: str


def interface(message: bytes) -> Interface:
    """Return what a link's message says of it."""
    _, kind, index, flags, _ = _LINK.unpack_from(message)
    found = netlink.attributes(message[_LINK.size :])
    port_of = _text(netlink.attributes(found.get(_LINKINFO, b"")).get(_INFO_PORT_OF))
    refused = ""
    if flags & _LOOPBACK:
        refused = "it is the loopback"
    elif port_of in _COLLECTORS:
        refused = f"it is a port of a {port_of}"
    elif kind not in _PROGRAMS:
        refused = f"it is of type {kind}"
    name, mtu = _text(found.get(_IFNAME)), _number(found.get(_MTU))
    return Interface(index, name, mtu, bool(flags & _UP), _PROGRAMS.get(kind, ""), refused)


def _text(payload: bytes | None) -> str:
    return (payload or b"").rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return struct.unpack("=I", payload)[0] if payload and len(payload) == 4 else 0


def interfaces(connection: netlink.Connection) -> dict[int, Interface]:
    """Return all interfaces, by index."""
    answers = connection.ask(_GETLINK, netlink.DUMP, _LINK.pack(0, 0, 0, 0, 0))
    return {found.ifindex: found for found in map(interface, answers)}


class Network:
    """The routing of this host, as of the last `changed`."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self._netlink = opened.enter_context(contextlib.closing(netlink.Connection()))
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._news = opened.enter_context(socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE))
            self._news.bind((0, _GROUPS))
            self._too_big = opened.enter_context(contextlib.closing(TooBig()))
            self._poller = opened.enter_context(select.epoll())
            for descriptor in (self._news.fileno(), *self._too_big.filenos()):
                self._poller.register(descriptor, select.EPOLLIN)
            self._resources = opened.pop_all()
        self._own: dict[bytes, bool] = {}
        self._links: dict[int, Interface] | None = None

    def close(self) -> None:
        """Close the sockets."""
        self._resources.close()

    def fileno(self) -> int:
        """Return the file descriptor, for polling: there is something for `changed` or `narrowed`."""
        return self._poller.fileno()

    def narrowed(self) -> set[bytes]:
        """Return the addresses, with port, to which the path MTU may have become smaller since the last call."""
        return self._too_big.destinations()

    def changed(self) -> bool:
        """Tell whether links, addresses, routes or rules have changed since the last call."""
        changed = False
        while True:
            try:
                self._news.recv(1)  # what it was does not matter
            except BlockingIOError:
                break
            except OSError:
                pass  # more than the socket has room for
            changed = True
        if changed:
            self._own.clear()
            self._links = None
        return changed

    def interfaces(self) -> list[Interface]:
        """Return all interfaces."""
        return list(self._by_index().values())

    def _by_index(self) -> dict[int, Interface]:
        if self._links is None:
            self._links = interfaces(self._netlink)
        return self._links

    def next_hop(self, destination: bytes, local: bytes) -> Route:
        """Return how packets from `local` to `destination` leave; raise NoRoute if that is not for the program.

        Both are addresses with port, of one family.
        """
        to, source = addresses.host_bytes(destination), addresses.host_bytes(local)
        if not self._is_own(source):
            raise NoRoute(f"the relay no longer has the address {addresses.unpack(local)[0]}")
        try:
            kind, found = self._route(to, source)
        except OSError as error:
            raise NoRoute(f"there is no route to it ({error.strerror})") from error
        if kind == _LOCAL:
            raise NoRoute("it is on this host")
        if kind != _UNICAST:
            raise NoRoute("there is no route to it")
        if _ENCAPSULATION in found:
            raise NoRoute("the route to it wraps packets up")
        link = self._by_index().get(_number(found.get(_OIF)))
        if link is None or not link.up:
            raise NoRoute("the interface to it is down")
        if not link.program:
            raise NoRoute(f"the interface {link.name} to it: {link.refused}")
        learned = _number(netlink.attributes(found.get(_METRICS, b"")).get(_METRIC_MTU))
        return Route(link.ifindex, min(learned or link.mtu, link.mtu))

    def _is_own(self, host: bytes) -> bool:
        """IPv6 would send from an address that is gone."""
        if host not in self._own:
            own = False
            with contextlib.suppress(OSError):
                own = self._route(host)[0] == _LOCAL
            self._own[host] = own
        return self._own[host]

    def _route(self, to: bytes, source: bytes = b"") -> tuple[int, dict[int, bytes]]:
        """Return type and attributes of the route that a packet takes."""
        family, bits = (socket.AF_INET, 32) if len(to) == 4 else (socket.AF_INET6, 128)
        message = _ROUTE.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, 0) + netlink.attribute(_DST, to)
        if source:
            message += netlink.attribute(_SRC, source)
        answer = self._netlink.ask(_GETROUTE, 0, message)[0]
        return _ROUTE.unpack_from(answer)[7], netlink.attributes(answer[_ROUTE.size :])
