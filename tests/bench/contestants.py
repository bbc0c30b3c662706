# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compared: each contestant starts in the relay's namespace and says how it is sent through."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from harness.client import Client, random_index
from harness.processes import Process, wait_until
from harness.service import PORT, Registration, Relay
from load import RECEIVER, RELAY_CORE, RELAY_IN, RELAY_OUT, SENDER, Hosts, Route, udp_socket
from peer_relay import packets

_ASYNCIO_PORT, _TURN_PORT, _OTHER_PORT = 40001, 3478, 40002


def pin(pid: int) -> None:
    """Keep a process and its threads on the relay's core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {RELAY_CORE})


def _transport_head(index: int) -> bytes:
    return struct.pack("<IIQ", packets.TRANSPORT, index, 0)


class Contestant(ABC):
    """Has a name, a route through it, and perhaps a process."""

    def __init__(self, name: str, hosts: Hosts):
        self.name = name
        self.hosts = hosts
        self.sender = udp_socket(hosts.sender, SENDER)
        self.receiver = udp_socket(hosts.receiver, RECEIVER)
        self.process: Process | None = None
        self.route = self.start()
        if self.process:
            pin(self.process.pid)

    @abstractmethod
    def start(self) -> Route:
        """Make it forward; return the route through it."""

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        self.sender.close()
        self.receiver.close()

    def _run(self, *command: str, says: str = "") -> None:
        self.process = self.hosts.relay.spawn(*command, log=self.name.split()[0])
        process = self.process
        wait_until(f"{self.name} is ready", lambda: says in process.text() and process.running, 10)


class Forwarding(Contestant):
    """The kernel routes the datagrams; nobody looks at them."""

    def start(self) -> Route:
        head = _transport_head(random_index())
        return Route(self.sender, self.receiver.getsockname(), head, self.receiver, head)


class Ours(Contestant):
    """The service, userspace plane; sender and receiver are two registered devices with a session."""

    def start(self) -> Route:
        relay = Relay(self.hosts.relay, self.hosts.relay.logs)
        one = Client("one", "10.77.1.1", self.sender, (RELAY_IN, PORT))
        other = Client("other", "10.77.1.2", self.receiver, (RELAY_OUT, PORT))
        for client in (one, other):
            relay.registrations[client.name] = client.registration()
        relay.start()
        self.process = relay.process
        for client in (one, other):
            client.register(relay.public_key)
        there, back = random_index(), random_index()
        one.call(other, back, there)
        return Route(self.sender, (RELAY_IN, PORT), _transport_head(there), self.receiver, _transport_head(back))


class Asyncio(Contestant):
    """The same forwarding as an asyncio datagram protocol."""

    def start(self) -> Route:
        program = Path(__file__).with_name("asyncio_relay.py")
        there, back = random_index(), random_index()
        ends = ["{}:{}".format(*end.getsockname()) for end in (self.sender, self.receiver)]
        routes = [
            f"{ends[0]}={struct.pack('<I', there).hex()}={ends[1]}",
            f"{ends[1]}={struct.pack('<I', back).hex()}={ends[0]}",
        ]
        self._run(sys.executable, str(program), str(_ASYNCIO_PORT), *routes, says="ready")
        target = (RELAY_IN, _ASYNCIO_PORT)
        return Route(self.sender, target, _transport_head(there), self.receiver, _transport_head(back))


class Coturn(Contestant):
    """coturn: the sender has a TURN channel to the receiver (RFC 8656)."""

    _COOKIE = 0x2112A442
    _CHANNEL = 0x4000
    _ALLOCATE, _CHANNEL_BIND = 0x0003, 0x0009
    _REQUESTED_TRANSPORT, _CHANNEL_NUMBER, _XOR_PEER_ADDRESS = 0x0019, 0x000C, 0x0012

    @staticmethod
    def installed() -> bool:
        return shutil.which("turnserver") is not None

    def start(self) -> Route:
        options = f"-n --no-auth --no-cli --no-tls --no-dtls -m 1 --listening-port {_TURN_PORT} --log-file stdout"
        folder = self.hosts.relay.logs
        self._run(
            "turnserver", *options.split(), "--simple-log", "--listening-ip", RELAY_IN, "--relay-ip", RELAY_OUT,
            "--pidfile", str(folder / "turn.pid"), "--userdb", str(folder / "turn.db"),
        )  # fmt: skip
        wait_until("coturn answers", self._allocated, 10)
        host, port = self.receiver.getsockname()
        address = struct.unpack("!I", socket.inet_aton(host))[0] ^ self._COOKIE
        peer = struct.pack("!BBHI", 0, 1, port ^ (self._COOKIE >> 16), address)
        answer = self._request(
            self._CHANNEL_BIND,
            struct.pack("!HHHH", self._CHANNEL_NUMBER, 4, self._CHANNEL, 0)
            + struct.pack("!HH", self._XOR_PEER_ADDRESS, len(peer))
            + peer,
        )
        if answer != self._CHANNEL_BIND | 0x0100:
            raise RuntimeError(f"coturn refuses the channel: {answer}")
        return Route(self.sender, (RELAY_IN, _TURN_PORT), b"", self.receiver, b"", self._frame)

    def _allocated(self) -> bool:
        try:
            transport = struct.pack("!HHI", self._REQUESTED_TRANSPORT, 4, 17 << 24)
            return self._request(self._ALLOCATE, transport) == self._ALLOCATE | 0x0100
        except OSError:
            return False

    def _request(self, kind: int, attributes: bytes) -> int:
        head = struct.pack("!HHI", kind, len(attributes), self._COOKIE) + os.urandom(12)
        self.sender.sendto(head + attributes, (RELAY_IN, _TURN_PORT))
        return struct.unpack_from("!H", self.sender.recv(2048))[0]

    def _frame(self, datagram: bytes) -> bytes:
        return struct.pack("!HH", self._CHANNEL, len(datagram)) + datagram


class Other(Contestant):
    """Any UDP forwarder: its command may name {port}, where it listens, and {target}, where it sends."""

    def __init__(self, name: str, hosts: Hosts, command: str):
        self._command = command
        super().__init__(name, hosts)

    def start(self) -> Route:
        target = "{}:{}".format(*self.receiver.getsockname())
        self._run(*self._command.format(port=_OTHER_PORT, target=target).split())
        wait_until("it listens", lambda: f":{_OTHER_PORT}" in self.hosts.relay.run("ss", "-uln"), 5)
        head = _transport_head(random_index())
        return Route(self.sender, (RELAY_IN, _OTHER_PORT), head, self.receiver, head)


def service_with(hosts: Hosts, folder: Path, devices: int) -> tuple[float, float]:
    """Start the service with that many devices; return MiB of resident memory and seconds until it was ready."""
    relay = Relay(hosts.relay, folder)
    for number in range(devices):
        address = f"10.77.{1 + number // 250}.{1 + number % 250}"
        key = base64.b64encode(os.urandom(32)).decode()
        relay.registrations[f"device{number}"] = Registration(f"device{number}", key, [address])
    start = time.monotonic()
    relay.start(60)
    took = time.monotonic() - start
    try:
        return relay.memory() / 2**20, took
    finally:
        relay.stop()
