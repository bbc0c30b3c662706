# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP sockets that receive and send in batches: recvmmsg, sendmmsg, UDP_GRO and UDP_SEGMENT through ctypes.

Python's socket module moves one datagram a call. A batch costs one system call for many, a train of equal-sized
datagrams one header for many; payloads go out from the buffer they came in, without a copy in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from peer_relay import addresses
from peer_relay.dataplane.gso import Received

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_PKTINFO, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 8, 10, 23, 0
_IPV6_PKTINFO = socket.IPV6_PKTINFO
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
# DSCP and ECN as received, and to be sent.
_MARK: dict[int, tuple[int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
}

RX_SLOTS, TX_SLOTS = 64, 256
_TX_PARTS = 1024  # pieces of payload in one batch that is sent; the system takes as many for one message
# Room for the largest datagram or train; not a power of two, or the slots would share the same few cache lines.
_SLOT_SIZE = 65536 + 2112
_NAME_SIZE, _CONTROL_SIZE = 32, 96
_SOCKADDR_IN_SIZE = 16
_CACHE_SIZE = 4096  # parsed and built control messages, destinations without trains, addresses that are gone
_APART = 10.0  # seconds for which a destination that trains are too large for gets single datagrams
_LOOK = 1.0  # seconds for which a look is good at whether the host has lost an own address
_FULL = (errno.EAGAIN, errno.ENOBUFS)
# What can be said to a train because it is one. Too large for its way out: EMSGSIZE, or EINVAL before 2025's kernels.
_NO_TRAIN = (errno.EMSGSIZE, errno.EINVAL, errno.EIO)
# What can be said to a source address that the host does not have, among other things.
_NO_SOURCE = (errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

_cmsg_head = struct.Struct("@Nii")  # cmsghdr: length, level, type
# mmsghdr: name, its size, vector, its entries, control messages, their size, flags; bytes received. "0P" aligns.
_header = struct.Struct("@PIPNPNi0PI0P")
_part = struct.Struct("@PN")  # iovec
_received = struct.Struct(f"@{struct.calcsize('@PIPNP')}xN{struct.calcsize('@i0P')}xI0P")  # sizes: control, payload


class _Memory:
    """A block of memory that the system calls know by its address and Python by a view."""

    def __init__(self, size: int):
        self._block = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._block)
        self.view = memoryview(self._block).cast("B")


def _control_message(level: int, kind: int, payload: bytes) -> bytes:
    head = _cmsg_head.pack(socket.CMSG_LEN(len(payload)), level, kind)
    return (head + payload).ljust(socket.CMSG_SPACE(len(payload)), b"\0")


def _choices(family: int, local: bytes, mark: int) -> list[tuple[int, int, bytes]]:
    """Return the control messages (level, type, payload) that send from the address `local` and with this mark.

    None for b"", and none for mark 0: it is the default, and nearly all that is sent has it.
    """
    found: list[tuple[int, int, bytes]] = []
    if len(local) == 4:
        found.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("@i4s4s", 0, local, bytes(4))))
    elif local:
        found.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("@16si", local, 0)))
    if mark:
        found.append((*_MARK[family], struct.pack("@i", mark)))
    return found


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
        name = f"{self._address_size}s{_NAME_SIZE - self._address_size}x"
        self._names, self._controls = struct.Struct(name), struct.Struct(f"{_CONTROL_SIZE}s")
        payload = _Memory(RX_SLOTS * _SLOT_SIZE)
        self.payload, self.payload_address = payload.view, payload.address
        self._rx_headers, self._tx_headers = _Memory(RX_SLOTS * _header.size), _Memory(TX_SLOTS * _header.size)
        self._rx_names, self._tx_names = _Memory(RX_SLOTS * _NAME_SIZE), _Memory(TX_SLOTS * _NAME_SIZE)
        self._rx_controls = _Memory(RX_SLOTS * _CONTROL_SIZE)
        self._rx_parts, self._tx_parts = _Memory(RX_SLOTS * _part.size), _Memory(_TX_PARTS * _part.size)
        for slot in range(RX_SLOTS):
            _part.pack_into(self._rx_parts.view, slot * _part.size, payload.address + slot * _SLOT_SIZE, _SLOT_SIZE)
            _header.pack_into(
                self._rx_headers.view,
                slot * _header.size,
                self._rx_names.address + slot * _NAME_SIZE,
                _NAME_SIZE,
                self._rx_parts.address + slot * _part.size,
                1,
                self._rx_controls.address + slot * _CONTROL_SIZE,
                _CONTROL_SIZE,
                0,
                0,
            )
        self._fresh_headers = bytes(self._rx_headers.view)
        self._parsed: dict[bytes, tuple[bytes, int, int]] = {}
        self._built: dict[tuple[bytes, int, int], tuple[int, int, object]] = {}
        # Queued messages: address, local address, segment size, mark, parts, and all that the header points to.
        self._queued: list[tuple[bytes, bytes, int, int, list[int], object, object]] = []
        self._parts_used = 0
        # For each destination whose way out refused trains: from which segment size on, and until when to believe it.
        self._apart: dict[bytes, tuple[int, float]] = {}
        # For each own address that was in doubt: whether the host has lost it, and until when to believe it.
        self._lost: dict[bytes, tuple[bool, float]] = {}
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
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
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
        headers = self._rx_headers
        headers.view[:] = self._fresh_headers
        count = _libc.recvmmsg(self._fd, headers.address, RX_SLOTS, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return []  # nothing there, or a pending error that this call has cleared
        result, offset, parsed = [], 0, self._parsed
        for (control_size, size), (source,), (control,) in zip(
            _received.iter_unpack(headers.view[: count * _header.size]),
            self._names.iter_unpack(self._rx_names.view[: count * _NAME_SIZE]),
            self._controls.iter_unpack(self._rx_controls.view[: count * _CONTROL_SIZE]),
            strict=True,
        ):
            control = control[:control_size]
            local, segment, mark = parsed.get(control) or self._parse(control)
            step = segment if 0 < segment < size else size or 1
            result.append((offset, size, source, local, step, mark))
            offset += _SLOT_SIZE
        return result

    def _parse(self, control: bytes) -> tuple[bytes, int, int]:
        """Return (local address, segment size, mark) of the control messages of a received buffer."""
        local, segment, mark, offset = b"", 0, 0, 0
        while offset + _cmsg_head.size <= len(control):
            length, level, kind = _cmsg_head.unpack_from(control, offset)
            payload = control[offset + socket.CMSG_LEN(0) : offset + length]
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                local = payload[4:8]
            elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                local = payload[:16]
            elif (level, kind) == _MARK[self.family]:
                mark = int.from_bytes(payload[:4], sys.byteorder) & 0xFF  # an octet by IPv4, an int by IPv6
            elif (level, kind) == (_SOL_UDP, _UDP_GRO) and len(payload) >= 4:
                segment = struct.unpack_from("@i", payload)[0]
            offset += max(socket.CMSG_SPACE(len(payload)), _cmsg_head.size)
        if len(self._parsed) >= _CACHE_SIZE:
            self._parsed.clear()
        self._parsed[control] = local, segment, mark
        return local, segment, mark

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, datagram: bytes, address: bytes, local: bytes) -> None:
        """Queue one datagram."""
        pointer: Any = ctypes.cast(ctypes.c_char_p(datagram), ctypes.c_void_p).value
        self.queue([pointer, len(datagram)], address, local, 0, datagram)

    def queue(
        self, parts: list[int], address: bytes, local: bytes, segment: int, keep: object = None, mark: int = 0
    ) -> None:
        """Queue a datagram, or with `segment` a train of them; `mark` is their DSCP and ECN.

        `parts` are memory addresses, each followed by a size; `keep` keeps them alive. What `receive` returned lies at
        `payload_address` plus its offset, and stays there until the next batch.
        """
        if segment and address in self._apart and self._goes_apart(address, segment):
            for pointer, size in zip(parts[::2], parts[1::2], strict=True):
                for start in range(0, size, segment):
                    self.queue([pointer + start, min(segment, size - start)], address, local, 0, keep, mark)
            return
        if local in self._lost and self._has_lost(local):
            local = b""
        count = len(parts) // 2
        if len(self._queued) == TX_SLOTS or self._parts_used + count > _TX_PARTS:
            self.flush()
        slot, first = len(self._queued), self._parts_used * _part.size
        struct.pack_into(f"@{len(parts)}N", self._tx_parts.view, first, *parts)
        name = slot * _NAME_SIZE
        self._tx_names.view[name : name + self._address_size] = address
        built = self._built.get((local, segment, mark)) or self._build(local, segment, mark)
        _header.pack_into(
            self._tx_headers.view,
            slot * _header.size,
            self._tx_names.address + name,
            # The system wants a whole sockaddr_in; the bytes behind the address stay zero.
            max(self._address_size, _SOCKADDR_IN_SIZE),
            self._tx_parts.address + first,
            count,
            built[0],
            built[1],
            0,
            0,
        )
        self._parts_used += count
        self._queued.append((address, local, segment, mark, parts, keep, built))

    def _goes_apart(self, address: bytes, segment: int) -> bool:
        least, until = self._apart[address]
        if time.monotonic() >= until:
            del self._apart[address]
            return False
        return segment >= least

    def _build(self, local: bytes, segment: int, mark: int) -> tuple[int, int, object]:
        """Return the control messages that choose source and mark, and cut a train: address, size, and the memory.

        The memory lives as long as the caller keeps the answer: the cache may let it go at any time.
        """
        control = b"".join(_control_message(*message) for message in _choices(self.family, local, mark))
        if segment:
            control += _control_message(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", segment))
        memory = _Memory(max(len(control), 1))
        memory.view[: len(control)] = control
        if len(self._built) >= _CACHE_SIZE:
            self._built.clear()
        self._built[local, segment, mark] = built = (memory.address, len(control), memory)
        return built

    def flush(self) -> None:
        """Send what is queued, in order; a datagram that the system refuses does not hold up its neighbours."""
        total, done = len(self._queued), 0
        try:
            while done < total:
                sent = _libc.sendmmsg(self._fd, self._tx_headers.address + done * _header.size, total - done, 0)
                if sent > 0:
                    done += sent
                else:
                    code = ctypes.get_errno()
                    if code != errno.EINTR:
                        self._refused(done, code)
                        done += 1
        finally:
            self._queued.clear()
            self._parts_used = 0

    def _refused(self, slot: int, code: int) -> None:
        """Deal with the queued message that sendmmsg refused with errno `code`: what else was asked may be possible.

        A train is sent one by one, from the same address. Only what comes from an address that the host has lost leaves
        from another one.
        """
        address, local, segment, mark, parts, *_ = self._queued[slot]
        payload = b"".join(map(ctypes.string_at, parts[::2], parts[1::2]))
        step = segment or len(payload)
        if code in _FULL:
            self._failed("send_buffer_full", address, -(-len(payload) // step), len(payload))
            return
        train_refused = segment and code in _NO_TRAIN
        if len(self._apart) >= _CACHE_SIZE:
            self._apart.clear()
        for start in range(0, len(payload), step):
            piece, outcome = payload[start : start + step], code
            if train_refused:
                outcome = self._send_one(piece, address, local, mark)
                if not outcome:
                    self._apart[address] = (1 if code == errno.EIO else segment, time.monotonic() + _APART)
            if outcome in _NO_SOURCE and local and self._has_lost(local):
                outcome = self._send_one(piece, address, b"", mark)
            if outcome:
                self._failed("send_buffer_full" if outcome in _FULL else "send_failed", address, 1, len(piece))

    def _send_one(self, datagram: bytes, address: bytes, local: bytes, mark: int) -> int:
        """Send at once; return the errno of a refusal, or 0."""
        try:
            self.socket.sendmsg([datagram], _choices(self.family, local, mark), 0, addresses.unpack(address))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _has_lost(self, local: bytes) -> bool:
        """Find out whether the host has lost an own address: then nothing can be bound to it."""
        lost, until = self._lost.get(local, (False, 0.0))
        now = time.monotonic()
        if now >= until:
            lost = False
            try:
                with socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as other:
                    other.bind((socket.inet_ntop(self.family, local), 0))
            except OSError as error:
                lost = error.errno == errno.EADDRNOTAVAIL
            if len(self._lost) >= _CACHE_SIZE:
                self._lost.clear()
            self._lost[local] = lost, now + _LOOK
        return lost
