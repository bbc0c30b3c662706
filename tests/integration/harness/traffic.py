# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traffic inside the tunnels: a numbered stream that knows each lost packet, and iperf3 for load."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator

from harness.processes import Process, wait_until
from harness.wireguard import Device

_NUMBERED = struct.Struct(">Qd")
_LINGER = 0.5  # seconds in which packets under way may still arrive
_ports = iter(range(20000, 60000))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Direction:
    """What one side sent and the other side received, by packet number; times are of the one monotonic clock."""

    def __init__(self, name: str):
        self.name = name
        self.sent: dict[int, float] = {}
        self.received: dict[int, float] = {}
        self.late = 0  # packets that arrived behind a younger one
        self.active = True
        self._youngest = -1

    def arrived(self, number: int) -> None:
        self.received.setdefault(number, time.monotonic())
        self.late += number < self._youngest
        self._youngest = max(self._youngest, number)

    def lost(self, until: float | None = None) -> list[float]:
        """When the packets that never arrived were sent."""
        sent = list(self.sent.items())  # the stream's thread goes on
        return [at for number, at in sent if number not in self.received and (not until or at < until)]

    def delays(self) -> list[float]:
        """One-way times, sorted."""
        return sorted(at - self.sent[number] for number, at in self.received.items())

    def back_after(self, moment: float) -> float:
        """Seconds from `moment` to the first arrival of a packet that was sent after it."""
        later = [at for number, at in self.received.items() if self.sent[number] >= moment]
        if not later:
            raise AssertionError(f"{self.name}: nothing arrived any more")
        return min(later) - moment

    def arrived_after(self, moment: float) -> bool:
        return any(self.sent[number] >= moment for number in list(self.received)[-20:])


class Stream:
    """Numbered packets both ways between two devices, until `stop`."""

    def __init__(self, one: Device, other: Device, rate: float = 50, size: int = 100, family: int = 0):
        self._sockets = []
        for device in (one, other):
            address = device.addresses[family].split("/")[0]
            with device.host.inside():
                end = socket.socket(_family(address), socket.SOCK_DGRAM)
                end.bind((address, next(_ports)))
                end.setblocking(False)
            self._sockets.append(end)
        self.there = Direction(f"{one.name} to {other.name}")
        self.back = Direction(f"{other.name} to {one.name}")
        self.directions = (self.there, self.back)
        self._interval = 1 / rate
        self._filler = bytes(size - _NUMBERED.size)
        self._sending = True
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ends = [end.getsockname() for end in self._sockets]
        pairs = list(zip(self._sockets, reversed(ends), self.directions, strict=True))
        with selectors.DefaultSelector() as selector:
            for end, direction in zip(self._sockets, reversed(self.directions), strict=True):
                selector.register(end, selectors.EVENT_READ, direction)
            number, due = 0, time.monotonic()
            while not self._done:
                now = time.monotonic()
                due = due if self._sending else now
                if self._sending and now >= due:
                    for end, to, direction in pairs:
                        if not direction.active:
                            continue
                        direction.sent[number] = time.monotonic()
                        try:
                            end.sendto(_NUMBERED.pack(number, now) + self._filler, to)
                        except OSError:  # the interface is away or its queue is full: a lost packet
                            continue
                    number, due = number + 1, due + self._interval
                for key, _ in selector.select(max(0, due - time.monotonic()) if self._sending else 0.02):
                    self._receive(key.fileobj, key.data)

    @staticmethod
    def _receive(end: socket.socket, direction: Direction) -> None:
        try:
            while True:
                direction.arrived(_NUMBERED.unpack_from(end.recv(2048))[0])
        except OSError:
            return

    def wait_flowing(self, seconds: float = 10) -> float:
        """Wait until packets sent from now on arrive, both ways; return how long that took."""
        moment = time.monotonic()
        return wait_until(
            f"{self.there.name} and back flows",
            lambda: all(direction.arrived_after(moment) for direction in self._active()),
            seconds,
        )

    def only_there(self) -> None:
        """Let the first device alone send from now on."""
        self.back.active = False

    def _active(self) -> list[Direction]:
        return [direction for direction in self.directions if direction.active]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have nothing under way until the block ends."""
        self._sending = False
        time.sleep(_LINGER)
        yield
        self._sending = True

    def stop(self) -> None:
        self._sending = False
        time.sleep(_LINGER)
        self._done = True
        self._thread.join(5)
        for end in self._sockets:
            end.close()

    def lost(self) -> int:
        return sum(len(direction.lost()) for direction in self.directions)

    def sent(self) -> int:
        return sum(len(direction.sent) for direction in self.directions)

    def back_after(self, moment: float) -> float:
        """Seconds after `moment` until all of it flowed."""
        return max(direction.back_after(moment) for direction in self._active())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done:
            self.stop()


class Iperf:
    """iperf3 over UDP between two devices, at a paced rate; runs in the background.

    What reached the receiver's socket while a busy machine did not let iperf3 read it is not lost: it has arrived.
    """

    def __init__(self, sender: Device, receiver: Device, megabits: float, seconds: float, length: int = 1340):
        address = receiver.address.split("/")[0]
        port = str(next(_ports))
        self._receiver = receiver
        self._dropped_before = self._dropped()
        self._server: Process = receiver.host.spawn(
            "iperf3", "-s", "-1", "--forceflush", "-B", address, "-p", port, log=f"iperf3-{port}"
        )
        wait_until("iperf3 listens", lambda: f"on {port}" in self._server.text(), 5)
        words = f"-u -b {megabits}M -t {seconds} -l {length} -c {address} -p {port} --json --get-server-output"
        self._client = sender.host.spawn("iperf3", *words.split(), log=f"iperf3-client-{port}")
        self._seconds = seconds

    def result(self) -> tuple[int, int, float]:
        """Wait for the end; return packets sent, packets lost, and Mbit/s received."""
        try:
            self._client.wait(self._seconds + 15)
            answer = json.loads(self._client.text())
            if "error" in answer:
                raise AssertionError(f"iperf3: {answer['error']}")
            total = answer["end"]["sum"]
            sent = answer["end"]["streams"][0]["udp"]["packets"]
            lost = max(0, total["lost_packets"] - (self._dropped() - self._dropped_before))
            return sent, lost, (sent - lost) * 8 * self._payload(answer) / total["seconds"] / 1e6
        finally:
            self.stop()

    def _dropped(self) -> int:
        counters = json.loads(self._receiver.host.run("nstat", "-asj", "UdpRcvbufErrors", "Udp6RcvbufErrors"))
        return sum(counters["kernel"].values())

    @staticmethod
    def _payload(answer: dict) -> int:
        return answer["start"]["test_start"]["blksize"]

    def stop(self) -> None:
        self._client.stop()
        self._server.stop()
