# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP sockets that receive and send in batches: recvmmsg, sendmmsg, UDP_GRO and UDP_SEGMENT through ctypes.

Python's socket module moves one datagram a call. A batch costs one system call for many, a train of equal-sized
datagrams (GRO) one buffer for many; payloads go out from the buffer they came in, without a copy.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable

from peer_relay import addresses

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_PKTINFO, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 8, 10, 23, 0
_IPV6_PKTINFO = socket.IPV6_PKTINFO
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

RX_SLOTS, TX_SLOTS = 32, 256
_BUFFER_SIZE = 65536
_NAME_SIZE, _CONTROL_SIZE = 32, 96
_SOCKADDR_IN_SIZE = 16
MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of older kernels
_CACHE_SIZE = 4096  # parsed and built control messages


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)
_cmsg_head = struct.Struct("@Nii")  # cmsghdr: length, level, type
_HEADER_SIZE = ctypes.sizeof(_MMsgHdr)


# What lies in the receive buffer: offset, size, source address, the relay's own address that it was sent to, and the
# size of each datagram when it is a train of them (0: a single one). A tuple: it is made for every datagram.
Received = tuple[int, int, bytes, bytes, int]


def _cut(buffer: ctypes.Array, step: int, size: int) -> list[memoryview]:
    """Return the first `size` bytes of each `step` bytes."""
    view = memoryview(buffer).cast("B")
    return [view[start : start + size] for start in range(0, len(view), step)]


class _Slots:
    """Headers, names, control messages and vectors for a number of messages, as the system calls want them."""

    def __init__(self, count: int, name_size: int):
        self.headers = (_MMsgHdr * count)()
        self.vectors = (_IoVec * count)()
        self.names = (ctypes.c_char * (_NAME_SIZE * count))()
        self.controls = (ctypes.c_char * (_CONTROL_SIZE * count))()
        for slot in range(count):
            header = self.headers[slot].hdr
            header.name = ctypes.addressof(self.names) + slot * _NAME_SIZE
            header.namelen = _NAME_SIZE
            header.iov = ctypes.addressof(self.vectors) + slot * ctypes.sizeof(_IoVec)
            header.iovlen = 1
            header.control = ctypes.addressof(self.controls) + slot * _CONTROL_SIZE
            header.controllen = _CONTROL_SIZE
        # Made once: each look through ctypes builds new objects, which would double the cost of a datagram.
        self.sizes = [self.headers[slot] for slot in range(count)]
        self.heads = [entry.hdr for entry in self.sizes]
        self.parts = [self.vectors[slot] for slot in range(count)]
        self.header_view = memoryview(self.headers).cast("B")
        self.control_views = _cut(self.controls, _CONTROL_SIZE, _CONTROL_SIZE)
        self.name_views = _cut(self.names, _NAME_SIZE, name_size)


def _control_message(level: int, kind: int, payload: bytes) -> bytes:
    head = _cmsg_head.pack(socket.CMSG_LEN(len(payload)), level, kind)
    return (head + payload).ljust(socket.CMSG_SPACE(len(payload)), b"\0")


def _source_choice(local: bytes) -> list[tuple[int, int, bytes]]:
    """Return the control message (level, type, payload) that sends from the address `local`; none for b""."""
    if not local:
        return []
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, local, bytes(4)))]
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("@16si", local, 0))]


class BatchSocket:
    """A non-blocking UDP socket on one address, with room for a batch in each direction.

    `bound` is a socket that already has this address. `failed(reason, address, packets, size)` is called for what the
    system refuses to send.
    """

    def __init__(
        self,
        host: str,
        port: int,
        buffer_size: int,
        failed: Callable[[str, bytes, int, int], None],
        bound: socket.socket | None = None,
    ):
        self.local = addresses.pack(host, port)
        self.family = socket.AF_INET if len(self.local) == addresses.V4_SIZE else socket.AF_INET6
        self._address_size = len(self.local)
        self._failed = failed
        self.socket = bound or socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self.socket.setblocking(False)
            self._configure(buffer_size)
            if bound is None:
                if self.family == socket.AF_INET6:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # only before it is bound
                self.socket.bind((host, port))
        except OSError:
            self.socket.close()
            raise
        self._payload = (ctypes.c_char * (RX_SLOTS * _BUFFER_SIZE))()
        self.payload_address = ctypes.addressof(self._payload)
        self.payload = memoryview(self._payload).cast("B")
        self._rx, self._tx = _Slots(RX_SLOTS, self._address_size), _Slots(TX_SLOTS, self._address_size)
        for slot, part in enumerate(self._rx.parts):
            part.base = self.payload_address + slot * _BUFFER_SIZE
            part.size = _BUFFER_SIZE
        for head in self._tx.heads:
            # The system wants a whole sockaddr_in; the bytes behind the address stay zero.
            head.namelen = max(self._address_size, _SOCKADDR_IN_SIZE)
        self._fresh_headers = bytes(self._rx.header_view)
        self._parsed: dict[bytes, tuple[bytes, int]] = {}
        self._built: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        # For each queued message: address, local address, segment size, and what keeps the payload alive.
        self._queued: list[tuple[bytes, bytes, int, object]] = []
        self._fd = self.socket.fileno()

    def _configure(self, buffer_size: int) -> None:
        sock = self.socket
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, buffer_size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, buffer_size)
        if self.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        with contextlib.suppress(OSError):  # before Linux 5.0: no trains, everything else works
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    def fileno(self) -> int:
        """Return the file descriptor, for polling."""
        return self._fd

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def receive_buffer(self) -> int:
        """Return the bytes that the kernel granted for received datagrams (it doubles what is asked for)."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self) -> list[Received]:
        """Return what has arrived, at most RX_SLOTS buffers. Valid until the next call; `flush` comes before that."""
        rx = self._rx
        rx.header_view[:] = self._fresh_headers
        count = _libc.recvmmsg(self._fd, rx.headers, RX_SLOTS, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return []  # nothing there, or a pending error that this call has cleared
        result = []
        for slot in range(count):
            size = rx.sizes[slot].len
            control = bytes(rx.control_views[slot][: rx.heads[slot].controllen])
            local, segment = self._parsed.get(control) or self._parse(control)
            source = bytes(rx.name_views[slot])
            result.append((slot * _BUFFER_SIZE, size, source, local, segment if segment < size else 0))
        return result

    def _parse(self, control: bytes) -> tuple[bytes, int]:
        """Return (local address, segment size) of the control messages of a received buffer."""
        local, segment, offset = b"", 0, 0
        while offset + _cmsg_head.size <= len(control):
            length, level, kind = _cmsg_head.unpack_from(control, offset)
            payload = control[offset + socket.CMSG_LEN(0) : offset + length]
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                local = payload[4:8]
            elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                local = payload[:16]
            elif (level, kind) == (_SOL_UDP, _UDP_GRO) and len(payload) >= 4:
                segment = struct.unpack_from("@i", payload)[0]
            offset += max(socket.CMSG_SPACE(len(payload)), _cmsg_head.size)
        if len(self._parsed) >= _CACHE_SIZE:
            self._parsed.clear()
        self._parsed[control] = local, segment
        return local, segment

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, datagram: bytes, address: bytes, local: bytes) -> None:
        """Queue one datagram."""
        pointer = ctypes.cast(ctypes.c_char_p(datagram), ctypes.c_void_p).value
        self.queue(pointer, len(datagram), address, local, 0, datagram)

    def queue(self, pointer: int, size: int, address: bytes, local: bytes, segment: int, keep: object = None) -> None:
        """Queue `size` bytes at the memory address `pointer`, as one datagram or a train; `keep` keeps them alive.

        What `receive` returned lies at `payload_address` plus its offset, and stays there until the next batch.
        """
        slot = len(self._queued)
        if slot == TX_SLOTS:
            self.flush()
            slot = 0
        tx = self._tx
        part = tx.parts[slot]
        part.base = pointer
        part.size = size
        tx.name_views[slot][:] = address
        size_of_control, control = self._built.get((local, segment)) or self._build(local, segment)
        tx.control_views[slot][:] = control
        tx.heads[slot].controllen = size_of_control
        self._queued.append((address, local, segment, keep))

    def _build(self, local: bytes, segment: int) -> tuple[int, bytes]:
        """Return the control messages that choose the source address and cut a train: their size, and a full slot."""
        control = b"".join(_control_message(*message) for message in _source_choice(local))
        if segment:
            control += _control_message(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", segment))
        if len(self._built) >= _CACHE_SIZE:
            self._built.clear()
        self._built[local, segment] = built = (len(control), control.ljust(_CONTROL_SIZE, b"\0"))
        return built

    def flush(self) -> None:
        """Send what is queued, in order; a datagram that the system refuses does not hold up its neighbours."""
        total, done = len(self._queued), 0
        while done < total:
            first = ctypes.byref(self._tx.headers, done * _HEADER_SIZE)
            sent = _libc.sendmmsg(self._fd, first, total - done, 0)
            if sent > 0:
                done += sent
            else:
                code = ctypes.get_errno()
                if code != errno.EINTR:
                    self._send_apart(done, code)
                    done += 1
        self._queued.clear()

    def _send_apart(self, slot: int, code: int) -> None:
        """Deal with the queued message that sendmmsg refused with errno `code`."""
        address, local, segment, _ = self._queued[slot]
        part = self._tx.parts[slot]
        size = part.size
        step = segment or size
        if code in (errno.EAGAIN, errno.ENOBUFS):
            self._failed("send_buffer_full", address, -(-size // step), size)
            return
        payload = ctypes.string_at(part.base, size)
        # A train may be too large for the way out, or the relay's own address may be gone: try each one plainly.
        for start in range(0, size, step):
            piece = payload[start : start + step]
            try:
                if not (segment or local):
                    raise OSError(code, os.strerror(code))
                self._send_one(piece, address, local if segment and code in (errno.EMSGSIZE, errno.EIO) else b"")
            except OSError:
                self._failed("send_failed", address, 1, len(piece))

    def _send_one(self, datagram: bytes, address: bytes, local: bytes) -> None:
        host, port = addresses.unpack(address)
        self.socket.sendmsg([datagram], _source_choice(local), 0, (host, port))
