# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compared: each contestant starts on a relay's host of its own and says how it is sent through."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from harness.client import random_index
from harness.processes import Process, wait_until
from harness.service import Relay
from hosts import RECEIVERS, RELAY_IN, RELAY_OUT, SENDERS, Hosts, pin
from load import PORT, Devices, Flow, Load, head, round_trips
from peer_common import packets
from population import Population, addresses_of

_ASYNCIO_PORT, _TURN_PORT, _OTHER_PORT = 40001, 3478, 40002


class NotHere(Exception):
    """This contestant cannot run on this machine; says why."""


class Contestant(ABC):
    """Has a name, ways through it, and perhaps a process."""

    several = True  # whether it can carry more than one pair

    def __init__(self, name: str, logs: Path, pairs: int = 1):
        self.name = name
        self.pairs = pairs
        self.hosts = Hosts("".join(filter(str.isalnum, name)) + str(pairs), logs)
        self.devices = Devices(self.hosts)
        self.process: Process | None = None
        self._loads: dict[tuple[int, bool, bool], Load] = {}
        try:
            self.flows = self.start(pairs)
            if self.process:
                pin(self.process.pid)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def start(self, pairs: int) -> list[Flow]:
        """Make it forward; return the ways through it."""

    def frame(self, datagram: bytes) -> bytes:
        """Put around a datagram what the relay takes off."""
        return datagram

    def renew(self) -> None:  # noqa: B027  most need nothing
        """Do what keeps the ways open."""

    def load(self, size: int, trains: bool, hairpin: bool) -> Load:
        """Return the load for a case; it remembers which window served best."""
        case = size, trains, hairpin
        if case not in self._loads:
            self._loads[case] = Load(self.hosts, self.devices, self.flows, size, self.frame)
        return self._loads[case]

    def round_trips(self, size: int, count: int) -> list[float]:
        """Return seconds of round trips of the first pair."""
        self.hosts.loaded(False)
        return round_trips(self.devices, self.flows[0], size, count, self.frame)

    def close(self) -> None:
        if self.process:
            self.process.stop()
        self.devices.close()
        self.hosts.remove()

    def _run(self, *command: str, says: str = "") -> None:
        self.process = self.hosts.relay.spawn(*command, log="relay")
        process = self.process
        wait_until(f"{self.name} is ready", lambda: says in process.text() and process.running, 10)

    @staticmethod
    def _ends(pairs: int) -> list[tuple[str, str]]:
        return list(zip(addresses_of(SENDERS, pairs), addresses_of(RECEIVERS, pairs), strict=True))


class Forwarding(Contestant):
    """The kernel routes the datagrams; nobody looks at them."""

    def start(self, pairs: int) -> list[Flow]:
        start = head(packets.TRANSPORT, random_index())
        return [Flow(one, (other, PORT), start, other, start) for one, other in self._ends(pairs)]


class Ours(Contestant):
    """The service; senders and receivers are registered devices, each pair with a session."""

    data_plane = "userspace"

    def start(self, pairs: int) -> list[Flow]:
        self.relay = Relay(self.hosts.relay, self.hosts.logs, data_plane=self.data_plane)
        self._population = Population(self.devices, self.relay, pairs)
        self.relay.start()
        self.process = self.relay.process
        return self._population.connect()

    def close(self) -> None:
        self.relay.remove()
        super().close()

    def renew(self) -> None:
        self._population.renew()


class OursInTheKernel(Ours):
    """The same, with the kernel data plane."""

    data_plane = "kernel"

    def start(self, pairs: int) -> list[Flow]:
        flows = super().start(pairs)
        status = self.relay.status()
        if status["data_plane"] != self.data_plane:
            raise NotHere(status["data_plane_reason"])
        return flows


class Asyncio(Contestant):
    """The same forwarding as an asyncio datagram protocol."""

    several = False

    def start(self, pairs: int) -> list[Flow]:
        flows, lines = [], []
        for one, other in self._ends(pairs):
            there, back = random_index(), random_index()
            lines.append(f"{one}:{PORT} {struct.pack('<I', there).hex()} {other}:{PORT}")
            lines.append(f"{other}:{PORT} {struct.pack('<I', back).hex()} {one}:{PORT}")
            start, reply = (head(packets.TRANSPORT, index) for index in (there, back))
            flows.append(Flow(one, (RELAY_IN, _ASYNCIO_PORT), start, other, reply))
        table = self.hosts.logs / "routes"
        table.write_text("\n".join(lines))
        program = Path(__file__).with_name("asyncio_relay.py")
        self._run(sys.executable, str(program), str(_ASYNCIO_PORT), str(table), says="ready")
        return flows


class Coturn(Contestant):
    """coturn: the sender has a TURN channel to the receiver (RFC 8656)."""

    several = False
    _COOKIE = 0x2112A442
    _CHANNEL = 0x4000
    _ALLOCATE, _REFRESH, _CHANNEL_BIND = 0x0003, 0x0004, 0x0009
    _REQUESTED_TRANSPORT, _CHANNEL_NUMBER, _XOR_PEER_ADDRESS = 0x0019, 0x000C, 0x0012

    def start(self, pairs: int) -> list[Flow]:
        if shutil.which("turnserver") is None:
            raise NotHere("the package coturn is not installed")
        options = f"-n --no-auth --no-cli --no-tls --no-dtls -m 1 --listening-port {_TURN_PORT} --log-file stdout"
        folder = self.hosts.logs
        self._run(
            "turnserver", *options.split(), "--simple-log", "--listening-ip", RELAY_IN, "--relay-ip", RELAY_OUT,
            "--pidfile", str(folder / "turn.pid"), "--userdb", str(folder / "turn.db"),
        )  # fmt: skip
        ((self._one, other),) = self._ends(1)
        wait_until("coturn answers", self._allocated, 10)
        self.renew()
        start = head(packets.TRANSPORT, random_index())
        return [Flow(self._one, (RELAY_IN, _TURN_PORT), start, other, start)]

    def renew(self) -> None:
        """Refresh the allocation and the channel; both end after ten minutes."""
        self._request(self._REFRESH, b"")
        ((_, other),) = self._ends(1)
        address = struct.unpack("!I", socket.inet_aton(other))[0] ^ self._COOKIE
        peer = struct.pack("!BBHI", 0, 1, PORT ^ (self._COOKIE >> 16), address)
        answer = self._request(
            self._CHANNEL_BIND,
            struct.pack("!HHHH", self._CHANNEL_NUMBER, 4, self._CHANNEL, 0)
            + struct.pack("!HH", self._XOR_PEER_ADDRESS, len(peer))
            + peer,
        )
        if answer != self._CHANNEL_BIND | 0x0100:
            raise RuntimeError(f"coturn refuses the channel: {answer}")

    def _allocated(self) -> bool:
        try:
            transport = struct.pack("!HHI", self._REQUESTED_TRANSPORT, 4, 17 << 24)
            return self._request(self._ALLOCATE, transport) == self._ALLOCATE | 0x0100
        except OSError:
            return False

    def _request(self, kind: int, attributes: bytes) -> int:
        request = struct.pack("!HHI", kind, len(attributes), self._COOKIE) + os.urandom(12)
        self.devices.send(self._one, request + attributes, (RELAY_IN, _TURN_PORT))
        return struct.unpack_from("!H", self.devices.receive(self._one).datagram)[0]

    def frame(self, datagram: bytes) -> bytes:
        return struct.pack("!HH", self._CHANNEL, len(datagram)) + datagram


class Other(Contestant):
    """Any UDP forwarder: its command may name {port}, where it listens, and {target}, where it sends."""

    several = False

    def __init__(self, name: str, logs: Path, command: str):
        self._command = command
        super().__init__(name, logs)

    def start(self, pairs: int) -> list[Flow]:
        ((one, other),) = self._ends(1)
        self._run(*self._command.format(port=_OTHER_PORT, target=f"{other}:{PORT}").split())
        wait_until("it listens", lambda: f":{_OTHER_PORT}" in self.hosts.relay.run("ss", "-uln"), 5)
        start = head(packets.TRANSPORT, random_index())
        return [Flow(one, (RELAY_IN, _OTHER_PORT), start, other, start)]
