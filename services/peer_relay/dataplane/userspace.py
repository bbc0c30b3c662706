# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The userspace data plane: sockets on one side, the switchboard on the other. Works everywhere, without privileges."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from peer_relay import addresses
from peer_relay.core.device import Binding
from peer_relay.core.switchboard import Switchboard
from peer_relay.dataplane import gso
from peer_relay.dataplane.batch_socket import RX_SLOTS, BatchSocket
from peer_relay.dataplane.gso import Run
from peer_relay.faults import Faults

BUFFER_SIZE = 8 << 20  # bytes asked for each socket buffer: 50 ms at 1 Gbit/s, with the kernel's accounting


class UserspacePlane:
    """Moves datagrams between the sockets and the switchboard."""

    def __init__(self, switchboard: Switchboard, faults: Faults):
        self.switchboard = switchboard
        self._faults = faults
        self.sockets: list[BatchSocket] = []
        self._listening: dict[tuple[str, int], BatchSocket] = {}
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
                opened[host, port] = self._listening.get((host, port)) or BatchSocket(
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
        for pair, sock in self._listening.items():
            if pair not in opened:
                sock.close()
        for unwanted in self._kept.values():
            unwanted.close()
        self._kept = {}
        self._listening = opened
        self.sockets = list(opened.values())
        # A socket on one address sends for that address; one on the wildcard for its whole family.
        self._by_local = {addresses.host_bytes(sock.local): sock for sock in self.sockets}
        self._by_family = {len(sock.local): sock for sock in reversed(self.sockets)}
        return skipped

    def close(self) -> None:
        """Close all sockets."""
        self.listen(())

    def drain(self, sock: BatchSocket, now: float) -> bool:
        """Take one batch from a socket through the switchboard; tell whether there may be more."""
        batch = sock.receive()
        for (source, local, head), runs in gso.flows(sock.payload, batch).items():
            try:
                index = gso.index_of(head)
                if index is not None:
                    count, size = gso.count(runs)
                    binding = self.switchboard.route(source, local, index, count, size, now)
                    if binding:
                        self._forward(sock, runs, binding)
                        continue
            except Exception as error:
                self._fault(error, *gso.count(runs))
                continue
            for offset, size in gso.singles(runs):
                try:
                    self.switchboard.receive(bytes(sock.payload[offset : offset + size]), source, local, now)
                    if self.switchboard.outbox:
                        self._empty_outbox()
                except Exception as error:
                    self._fault(error, 1, size)
        self.flush()
        return len(batch) == RX_SLOTS

    def _fault(self, error: Exception, count: int, size: int) -> None:
        """Drop what raised: nothing that somebody sends may end the service, nor keep what is queued from leaving."""
        self._faults.note("datagrams", error)
        self.switchboard.drop("fault", count, size)

    def flush(self) -> None:
        """Send what the switchboard has decided and what is queued."""
        self._empty_outbox()
        for sock in self.sockets:
            sock.flush()

    def _empty_outbox(self) -> None:
        if not self.switchboard.outbox:
            return
        taken = self.switchboard.outbox.copy()
        self.switchboard.outbox.clear()
        for datagram, (address, local) in taken:
            sender = self._sender(address, local)
            if sender:
                sender.send(datagram, address, local)
            else:
                self._failed("send_failed", address, 1, len(datagram))

    def _forward(self, sock: BatchSocket, runs: list[Run], binding: Binding) -> None:
        address, local = binding
        sender = self._sender(address, local)
        if sender is None:
            self._failed("send_failed", address, *gso.count(runs))
            return
        for parts, segment, mark in gso.join(runs):
            parts[::2] = [sock.payload_address + offset for offset in parts[::2]]
            sender.queue(parts, address, local, segment, sock.payload, mark)

    def _sender(self, address: bytes, local: bytes) -> BatchSocket | None:
        return self._by_local.get(local) or self._by_family.get(len(address))

    def _failed(self, reason: str, address: bytes, count: int, size: int) -> None:
        self.switchboard.drop(reason, count, size, self.switchboard.bound.get(address))
