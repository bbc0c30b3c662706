# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of this host, what kind of network each belongs to, and word of their changes (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import NamedTuple

from peer_agent.core.limits import BATCH
from peer_agent.wireguard.interface import Malformed
from peer_agent.wireguard.netlink import attributes, messages

# Links, addresses, routes and rules: a route that changes means another way out, with other addresses on the way.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
_GET_LINKS, _NEW_LINK, _GET_ADDRESSES, _NEW_ADDRESS = 18, 16, 22, 20  # RTM_*
_DONE, _ERROR = 3, 2  # NLMSG_*
_REQUEST_ALL = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEADER, _U32 = struct.Struct("=IHHII"), struct.Struct("=I")
_MESSAGE, _LINK = struct.Struct("=BBBBI"), struct.Struct("=BxHiII")  # of addresses and of links
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
# IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED: no address to be reached at
_NOT_USED = 0x20 | 0x40 | 0x08
_GLOBAL, _SITE = 0, 200  # RT_SCOPE_*
_MASTER, _INFO, _KIND = 10, 18, 1  # IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND
# fmt: off
_TUNNELS = frozenset((
    "wireguard", "amneziawg", "ovpn", "tun", "vxlan", "geneve", "gre", "gretap", "erspan", "ip6gre", "ip6gretap",
    "ip6erspan", "ipip", "ip6tnl", "sit", "vti", "vti6", "xfrm", "gtp", "bareudp", "batadv",
))
# fmt: on
# Ports of a bridge that lead to containers and virtual machines of this host, and to no network.
_WITHIN = _TUNNELS | {"veth", "netkit"}
_BUFFER = 1 << 16
_TIMEOUT = 2.0

Interface = IPv4Interface | IPv6Interface


class LinkKind(IntEnum):
    """What a link leads to; the likeliest to be reached by others first."""

    OUTSIDE = 0  # a network
    INSIDE = 1  # containers and virtual machines of this host
    TUNNEL = 2  # another network, by way of one of the others; maybe through this tunnel


class HostAddress(NamedTuple):
    """An address of this host."""

    interface: Interface
    kind: LinkKind


class _Link(NamedTuple):
    kind: str  # as the kernel names it; "" for hardware
    master: int  # the bridge that it is a port of, or 0


class Changes:
    """A socket that is readable when the host's links, addresses or routes have changed."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.setblocking(False)
        self.socket.bind((0, _GROUPS))

    def drain(self) -> None:
        """Read and forget a batch of messages: that there are any is all that matters."""
        try:
            for _ in range(BATCH):
                self.socket.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more has changed than the socket could hold
                raise

    def close(self) -> None:
        self.socket.close()


def addresses(tunnel: int) -> list[HostAddress]:
    """Return the addresses where this host may be reached, with their networks, except those of the tunnel.

    Raise OSError when the kernel does not tell.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        links = dict(
            link for kind, body in _ask(sock, _GET_LINKS, _LINK.size) if kind == _NEW_LINK for link in _link(body)
        )
        found = dict(
            address
            for kind, body in _ask(sock, _GET_ADDRESSES, _MESSAGE.size)
            if kind == _NEW_ADDRESS
            for address in _read(body, tunnel)
        )
    return [HostAddress(interface, _kind_of(index, links)) for interface, index in found.items()]


def _kind_of(index: int, links: dict[int, _Link]) -> LinkKind:
    kind = links[index].kind if index in links else ""
    if kind in _TUNNELS:
        return LinkKind.TUNNEL
    # Addresses of services, and of nothing that packets could come in by.
    if kind == "dummy" or (kind == "bridge" and not _leads_outside(index, links.values())):
        return LinkKind.INSIDE
    return LinkKind.OUTSIDE


def _leads_outside(bridge: int, links: Iterable[_Link]) -> bool:
    return any(link.master == bridge and link.kind not in _WITHIN for link in links)


def _ask(sock: socket.socket, request: int, size: int) -> Iterator[tuple[int, bytes]]:
    sock.send(_HEADER.pack(_HEADER.size + size, request, _REQUEST_ALL, 1, 0) + bytes(size))
    yield from _dump(sock)


def _dump(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        data = sock.recv(_BUFFER)
        if not data:
            raise OSError(errno.EBADMSG, "netlink: an empty answer")
        for kind, _, _, body in messages(data):
            if kind == _ERROR:
                raise OSError(errno.EBADMSG, "netlink: no list of links or addresses")
            if kind == _DONE:
                return
            yield kind, body


def _link(body: bytes) -> Iterator[tuple[int, _Link]]:
    if len(body) < _LINK.size:
        return
    with contextlib.suppress(Malformed, struct.error):
        found = dict(attributes(body[_LINK.size :]))
        kind = dict(attributes(found.get(_INFO, b""))).get(_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
        (master,) = _U32.unpack(found.get(_MASTER, bytes(4)))
        yield _LINK.unpack_from(body)[2], _Link(kind, master)


def _read(body: bytes, tunnel: int) -> Iterator[tuple[Interface, int]]:
    if len(body) < _MESSAGE.size:
        return
    _family, prefix, flags, scope, index = _MESSAGE.unpack_from(body)
    with contextlib.suppress(Malformed, struct.error, ValueError):
        found = dict(attributes(body[_MESSAGE.size :]))
        if _FLAGS in found:
            (flags,) = _U32.unpack(found[_FLAGS])
        # IFA_ADDRESS is the other end's on a point-to-point link.
        raw = found.get(_LOCAL) or found.get(_ADDRESS)
        if index == tunnel or scope not in (_GLOBAL, _SITE) or flags & _NOT_USED or not raw:
            return
        address = ip_address(raw)
        if not address.is_loopback:
            yield ip_interface(f"{address}/{prefix}"), index
