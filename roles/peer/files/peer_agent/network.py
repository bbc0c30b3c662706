# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of this host, and word of their changes (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from peer_agent.genetlink import attributes, messages
from peer_agent.interface import Malformed
from peer_agent.limits import BATCH

# Links, addresses, routes and rules: a route that changes means another way out, with other addresses on the way.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
_GET_ADDRESSES, _NEW_ADDRESS, _DONE, _ERROR = 22, 20, 3, 2  # RTM_GETADDR, RTM_NEWADDR, NLMSG_DONE, NLMSG_ERROR
_REQUEST_ALL = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEADER, _MESSAGE, _U32 = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=I")
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
# IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED: no address to be reached at
_NOT_USED = 0x20 | 0x40 | 0x08
_GLOBAL, _SITE = 0, 200  # RT_SCOPE_*
_BUFFER = 1 << 16
_TIMEOUT = 2.0

Interface = IPv4Interface | IPv6Interface


class Changes:
    """A socket that is readable when the host's links, addresses or routes have changed."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.setblocking(False)
        self.socket.bind((0, _GROUPS))

    def drain(self) -> None:
        """Take a batch of what has been told: that something has, is all that matters."""
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


def addresses(tunnel: int) -> list[Interface]:
    """Return the addresses where this host may be reached, with their networks, except those of the tunnel.

    Raise OSError when the kernel does not tell.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        sock.send(_HEADER.pack(_HEADER.size + _MESSAGE.size, _GET_ADDRESSES, _REQUEST_ALL, 1, 0) + bytes(_MESSAGE.size))
        found = [address for kind, body in _dump(sock) if kind == _NEW_ADDRESS for address in _read(body, tunnel)]
    return list(dict.fromkeys(found))


def _dump(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        data = sock.recv(_BUFFER)
        if not data:
            raise OSError(errno.EBADMSG, "netlink: an empty answer")
        for kind, _, _, body in messages(data):
            if kind == _ERROR:
                raise OSError(errno.EBADMSG, "netlink: no list of addresses")
            if kind == _DONE:
                return
            yield kind, body


def _read(body: bytes, tunnel: int) -> Iterator[Interface]:
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
            yield ip_interface(f"{address}/{prefix}")
