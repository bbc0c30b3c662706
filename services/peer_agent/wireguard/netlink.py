# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's WireGuard, without starting a process: generic netlink, as linux/wireguard.h describes it."""

from __future__ import annotations

import base64
import errno
import functools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from peer_agent.endpoints import Endpoint
from peer_agent.wireguard.interface import Interface, Malformed, Peer

_GENERIC, _CONTROLLER = 16, 16  # NETLINK_GENERIC, GENL_ID_CTRL
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2  # CTRL_CMD_*, CTRL_ATTR_*
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*
_CHANGED = 0x10  # NLM_F_DUMP_INTR
_ERROR, _DONE = 2, 3  # NLMSG_*
_NESTED, _KIND = 0x8000, 0x3FFF  # NLA_F_NESTED, NLA_TYPE_MASK
_GET_DEVICE, _SET_DEVICE = 0, 1  # WG_CMD_*
_NAME, _PORT, _MARK, _PEERS = 2, 6, 7, 8  # WGDEVICE_A_*
_KEY, _PRESHARED, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _RX, _TX, _ALLOWED = range(1, 10)  # WGPEER_A_*
_ADDRESS, _PREFIX = 2, 3  # WGALLOWEDIP_A_*
_UPDATE_ONLY = 4  # WGPEER_F_UPDATE_ONLY

_HEADER, _COMMAND, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_INT, _U16, _U32, _U64 = struct.Struct("=i"), struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")
_SECONDS = struct.Struct("=q")  # of struct __kernel_timespec, with nanoseconds behind it
_IP4, _IP6 = struct.Struct(">H4s"), struct.Struct(">HI16s")  # of sockaddr_in and sockaddr_in6, behind the family
_SIZE6 = 28  # of sockaddr_in6, with its scope
_BUFFER = 1 << 16
_TIMEOUT = 1.0


class Kernel:
    """One interface; raises OSError when it is not there, or the kernel refuses."""

    def __init__(self, name: str):
        self._name = attribute(_NAME, name.encode() + b"\0")
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC)
        self._socket.settimeout(_TIMEOUT)
        self._number = 0
        try:
            self._socket.bind((0, 0))
            self._family = self._find_family()
        except OSError:
            self._socket.close()
            raise

    def show(self) -> Interface:
        return parse(self._ask(self._family, _GET_DEVICE, _DUMP, self._name))

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        peer = attribute(_KEY, base64.b64decode(public_key))
        peer += attribute(_FLAGS, _U32.pack(_UPDATE_ONLY)) + attribute(_ENDPOINT, sockaddr(endpoint))
        peers = attribute(_PEERS | _NESTED, attribute(_NESTED, peer))
        list(self._ask(self._family, _SET_DEVICE, _ACKNOWLEDGE, self._name + peers))

    def close(self) -> None:
        self._socket.close()

    def _find_family(self) -> int:
        name = attribute(_FAMILY_NAME, b"wireguard\0")
        for message in list(self._ask(_CONTROLLER, _GET_FAMILY, _ACKNOWLEDGE, name)):
            for kind, value in attributes(message):
                if kind == _FAMILY_ID:
                    return _U16.unpack(value)[0]
        raise OSError(errno.ENOENT, "the kernel tells no number of its WireGuard")

    def _ask(self, family: int, command: int, flags: int, words: bytes) -> Iterator[bytes]:
        """Return the attributes of each message of the answer; raise OSError when there is none."""
        self._number += 1
        body = _COMMAND.pack(command, 1, 0) + words
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), family, flags | _REQUEST, self._number, 0) + body)
        changed = 0
        while True:
            data = self._socket.recv(_BUFFER)
            for kind, marks, number, message in messages(data):
                if number != self._number:  # of a question that was given up
                    continue
                changed |= marks & _CHANGED
                if kind in (_ERROR, _DONE):
                    code = _INT.unpack_from(message)[0] if len(message) >= _INT.size else 0
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    if changed:
                        raise InterruptedError(errno.EINTR, "the interface changed between the parts: some are missing")
                    return
                yield message[_COMMAND.size :]


# --- the forms --------------------------------------------------------------------------------------------------------


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split a datagram: type, flags, sequence number and body of each message."""
    while len(data) >= _HEADER.size:
        size, kind, flags, number, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= size <= len(data):
            raise OSError(errno.EBADMSG, "netlink: a message that is cut off")
        yield kind, flags, number, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split attributes; raise Malformed."""
    start, end = 0, len(data)
    while start < end:
        if end - start < _ATTRIBUTE.size:
            raise Malformed("netlink: an attribute that is cut off")
        size, kind = _ATTRIBUTE.unpack_from(data, start)
        if not _ATTRIBUTE.size <= size <= end - start:
            raise Malformed("netlink: an attribute of a wrong size")
        yield kind & _KIND, data[start + _ATTRIBUTE.size : start + size]
        start += (size + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def sockaddr(endpoint: Endpoint) -> bytes:
    address = endpoint.address
    if address.version == 4:
        return _U16.pack(socket.AF_INET) + _IP4.pack(endpoint.port, address.packed) + bytes(8)
    return _U16.pack(socket.AF_INET6) + _IP6.pack(endpoint.port, 0, address.packed) + _U32.pack(0)


def parse(answer: Iterable[bytes]) -> Interface:
    """Read the messages that answer WG_CMD_GET_DEVICE; raise Malformed, without what they hold: keys.

    A peer that does not fit into one message goes on in the next, with its key and the rest of its addresses.
    """
    port = mark = 0
    peers: dict[str, Peer] = {}
    try:
        for message in answer:
            for kind, value in attributes(message):
                if kind == _PORT:
                    (port,) = _U16.unpack(value)
                elif kind == _MARK:
                    (mark,) = _U32.unpack(value)
                elif kind == _PEERS:
                    for _, inner in attributes(value):
                        peer = _peer(dict(attributes(inner)))
                        before = peers.get(peer.public_key)
                        if before:
                            more = filter(None, (before.allowed, peer.allowed))
                            peer = before._replace(allowed=",".join(more))
                        peers[peer.public_key] = peer
        return Interface(port, mark, peers)
    except (struct.error, KeyError, ValueError):
        raise Malformed("the kernel's answer") from None


def _peer(fields: dict[int, bytes]) -> Peer:
    return Peer(
        base64.b64encode(fields[_KEY]).decode(),
        any(fields.get(_PRESHARED, b"")),
        _endpoint(fields[_ENDPOINT]) if _ENDPOINT in fields else None,
        _networks(fields.get(_ALLOWED, b"")),
        _SECONDS.unpack_from(fields[_HANDSHAKE])[0] if _HANDSHAKE in fields else 0,
        _U64.unpack(fields[_RX])[0] if _RX in fields else 0,
        _U64.unpack(fields[_TX])[0] if _TX in fields else 0,
        _U16.unpack(fields[_KEEPALIVE])[0] if _KEEPALIVE in fields else 0,
    )


# Every look finds most of them as they were.
@functools.lru_cache(maxsize=1024)
def _endpoint(value: bytes) -> Endpoint | None:
    (family,) = _U16.unpack_from(value)
    if family == socket.AF_INET:
        port, host = _IP4.unpack_from(value, _U16.size)
    elif family == socket.AF_INET6 and len(value) >= _SIZE6:
        port, _, host = _IP6.unpack_from(value, _U16.size)
    else:
        raise Malformed("netlink: an endpoint of an unknown kind")
    address = ip_address(host)
    # Nothing that the agent would choose, but the other may send from there.
    unwanted = (address.is_link_local and address.version == 6) or port == 0
    return None if unwanted else Endpoint.of(str(address), port)


@functools.lru_cache(maxsize=1024)
def _networks(value: bytes) -> str:
    found = (dict(attributes(inner)) for _, inner in attributes(value))
    return ",".join(f"{ip_address(fields[_ADDRESS])}/{fields[_PREFIX][0]}" for fields in found)
