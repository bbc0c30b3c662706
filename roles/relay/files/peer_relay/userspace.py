# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The userspace data plane: sockets on one side, the switchboard on the other. Works everywhere, without privileges."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from peer_relay import addresses, packets
from peer_relay.datagrams import MAX_SEGMENTS, BatchSocket, Received
from peer_relay.device import Binding
from peer_relay.switchboard import Switchboard

_HEAD = struct.Struct("<Q")  # message type and receiver index of a transport message, read at once
_TYPE_MASK = 0xFFFFFFFF
BUFFER_SIZE = 8 << 20  # bytes asked for each socket buffer: 50 ms at 1 Gbit/s, with the kernel's accounting


class UserspacePlane:
    """Moves datagrams between the sockets and the switchboard."""

    def __init__(self, switchboard: Switchboard):
        self.switchboard = switchboard
        self.sockets: list[BatchSocket] = []
        self._open: dict[tuple[str, int], BatchSocket] = {}
        self._kept: dict[tuple[str, int], socket.socket] = {}
        self._by_local: dict[bytes, BatchSocket] = {}
        self._by_family: dict[int, BatchSocket] = {}

    def adopt(self, kept: Iterable[socket.socket]) -> None:
        """Use these bound sockets, which outlived a restart, where `listen` wants their addresses."""
        self._kept = {sock.getsockname()[:2]: sock for sock in kept}

    def listen(self, wanted: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Listen on exactly these (address, port) pairs; sockets that stay lose nothing.

        Return the pairs that this host cannot have because it has no IPv6. Raise OSError, with "address port N" in
        `filename` and nothing changed, when one fails otherwise.
        """
        opened, skipped = {}, []
        for host, port in wanted:
            try:
                opened[host, port] = self._open.get((host, port)) or BatchSocket(
                    host, port, BUFFER_SIZE, self._failed, self._kept.pop((host, port), None)
                )
            except OSError as error:
                if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    skipped.append((host, port))
                    continue
                for sock in opened.values():
                    if sock not in self.sockets:
                        sock.close()
                raise OSError(error.errno, error.strerror, f"{host} port {port}") from error
        for pair, sock in self._open.items():
            if pair not in opened:
                sock.close()
        for unwanted in self._kept.values():
            unwanted.close()
        self._kept = {}
        self._open = opened
        self.sockets = list(opened.values())
        # A socket on one address sends for that address; one on the wildcard for its whole family.
        self._by_local = {addresses.host_bytes(sock.local): sock for sock in self.sockets}
        self._by_family = {len(sock.local): sock for sock in reversed(self.sockets)}
        return skipped

    def close(self) -> None:
        """Close all sockets."""
        self.listen(())

    def drain(self, sock: BatchSocket, now: float) -> bool:
        """Take one batch from a socket through the switchboard; False when there was nothing."""
        batch = sock.receive()
        for received in batch:
            offset, size, source, local, segment = received
            if segment:
                self._train(sock, received, now)
            else:
                self._single(sock, offset, size, source, local, now)
        self.flush()
        return bool(batch)

    def flush(self) -> None:
        """Send what the switchboard has decided and what is queued."""
        self._empty_outbox()
        for sock in self.sockets:
            sock.flush()

    def _empty_outbox(self) -> None:
        outbox = self.switchboard.outbox
        for datagram, binding in outbox:
            address, local = binding
            sender = self._by_local.get(local) or self._by_family.get(len(address))
            if sender:
                sender.send(datagram, address, local)
            else:
                self._failed("send_failed", address, 1, len(datagram))
        outbox.clear()

    def _single(self, sock: BatchSocket, offset: int, size: int, source: bytes, local: bytes, now: float) -> None:
        if size >= packets.TRANSPORT_MIN_SIZE:
            head = _HEAD.unpack_from(sock.payload, offset)[0]
            if head & _TYPE_MASK == packets.TRANSPORT:
                binding = self.switchboard.route(source, local, head >> 32, 1, size, now)
                if binding:
                    self._forward(sock, offset, size, binding, 0)
                    return
        self.switchboard.receive(bytes(sock.payload[offset : offset + size]), source, local, now)
        if self.switchboard.outbox:
            self._empty_outbox()

    def _train(self, sock: BatchSocket, train: Received, now: float) -> None:
        """Cut a train into runs of one receiver index: a GRO buffer can mix the indexes of a source."""
        offset, size, source, local, step = train
        end = offset + size
        if step < packets.TRANSPORT_MIN_SIZE:
            self._singly(sock, train, now)
            return
        # The last datagram may be shorter than a header: it is looked at alone.
        tail = size % step
        whole = end - tail if tail < packets.TRANSPORT_MIN_SIZE else end
        heads = [_HEAD.unpack_from(sock.payload, start)[0] for start in range(offset, whole, step)]
        first = 0
        for last in range(1, len(heads) + 1):
            if last < len(heads) and heads[last] == heads[first] and last - first < MAX_SEGMENTS:
                continue
            start = offset + first * step
            length = min(offset + last * step, end) - start
            self._run(sock, heads[first], (start, length, source, local, step), now)
            first = last
        if whole < end:
            self._single(sock, whole, end - whole, source, local, now)

    def _run(self, sock: BatchSocket, head: int, run: Received, now: float) -> None:
        """Forward datagrams of one source and one first word, as a train again when there are several."""
        offset, size, source, local, step = run
        if head & _TYPE_MASK == packets.TRANSPORT:
            count = -(-size // step)
            binding = self.switchboard.route(source, local, head >> 32, count, size, now)
            if binding:
                self._forward(sock, offset, size, binding, step if count > 1 else 0)
                return
        self._singly(sock, run, now)

    def _singly(self, sock: BatchSocket, train: Received, now: float) -> None:
        offset, size, source, local, step = train
        for start in range(offset, offset + size, step):
            self._single(sock, start, min(step, offset + size - start), source, local, now)

    def _forward(self, sock: BatchSocket, offset: int, size: int, binding: Binding, segment: int) -> None:
        address, local = binding
        sender = self._by_local.get(local) or self._by_family.get(len(address))
        if sender:
            sender.queue(sock.payload_address + offset, size, address, local, segment)
        else:
            self._failed("send_failed", address, 1, size)

    def _failed(self, reason: str, address: bytes, count: int, size: int) -> None:
        self.switchboard.drop(reason, count, size, self.switchboard.bound.get(address))
