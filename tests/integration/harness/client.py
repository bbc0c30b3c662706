# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device in our own hands: as a stock one to the relay, but with indexes and datagrams of the test's choice."""

from __future__ import annotations

import base64
import os
import socket
import struct
import time

from peer_common import packets
from peer_relay.wireguard.noise import Identity, InitiationReader, InitiationWriter, generate_private_key, tai64n
from peer_relay.wireguard.session import Session

from harness.service import Registration


def random_index() -> int:
    return struct.unpack("<I", os.urandom(4))[0]


class Client:
    """A registered device that makes its handshakes by hand. The socket may live in any namespace."""

    def __init__(self, name: str, address: str, end: socket.socket, relay: tuple[str, int]):
        self.name = name
        self.address = address
        self.identity = Identity(generate_private_key())
        self.end = end
        self.relay = relay
        self.session: Session | None = None

    @property
    def public_key(self) -> str:
        return base64.b64encode(self.identity.public).decode()

    def registration(self) -> Registration:
        return Registration(self.name, self.public_key, [self.address])

    def send(self, datagram: bytes) -> None:
        self.end.sendto(datagram, self.relay)

    def receive(self, kind: int, index: int | None = None) -> bytes:
        """Return the next datagram of that message type, to that index when one is given."""
        while True:
            datagram = self.end.recv(2048)
            if datagram[0] == kind and index in (None, packets.receiver_index(datagram)):
                return datagram

    def initiation(self, responder: bytes, index: int) -> InitiationWriter:
        return InitiationWriter(self.identity, responder, index, tai64n(time.time()))

    def register(self, relay_key: str) -> None:
        """Make a session with the relay and confirm it: the relay binds this socket's address."""
        index = random_index()
        writer = self.initiation(base64.b64decode(relay_key), index)
        self.send(writer.datagram)
        keys = writer.finish(self.receive(packets.RESPONSE, index))
        self.session = Session(keys, index, time.monotonic(), initiator=True)
        self.keepalive()

    def keepalive(self) -> None:
        self.send(self.session.seal(b""))

    def call(self, responder: Client, index: int, responder_index: int) -> None:
        """Make a session with another client: afterwards each may send to the other under the other's index."""
        self.send(self.initiation(responder.identity.public, index).datagram)
        responder.answer(responder_index)
        self.receive(packets.RESPONSE)

    def answer(self, index: int) -> None:
        """Answer the next initiation that arrives, under our index of choice."""
        reader = InitiationReader(self.identity, self.receive(packets.INITIATION))
        reader.timestamp()
        self.send(reader.respond(index)[0])


def transport(index: int, counter: int, size: int) -> bytes:
    """A datagram of `size` bytes that only its receiver could tell from a real transport message."""
    return struct.pack("<IIQ", packets.TRANSPORT, index, counter) + os.urandom(size - 16)
