# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens beside forwarding: jobs in slices, documents for whoever asks, states for a disk, faults of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer_relay import state
from peer_relay.dataplane.userspace import UserspacePlane
from peer_relay.faults import Faults
from peer_relay.slices import Slices, Steps
from peer_relay.state_writer import StateWriter
from peer_relay.status import server as status_server
from peer_relay.status.server import StatusServer
from peer_relay.status.snapshots import Snapshot, Snapshots
from relay_world import World, at
from test_report import status

# --- slices -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(clock: Clock, steps: int, done: list[str], name: str) -> Steps[None]:
    for _ in range(steps):
        clock.now += 0.0004
        yield
    done.append(name)


def test_a_long_job_gives_way() -> None:
    clock, done = Clock(), []
    slices = Slices(clock)
    slices.add(job(clock, 100, done, "long"))
    turns = 0
    while slices:
        before = clock.now
        slices.turn()
        turns += 1
        assert clock.now - before < 0.002
    assert turns > 30
    assert done == ["long"]


def test_a_question_comes_before_what_nobody_waits_for() -> None:
    clock, done = Clock(), []
    slices = Slices(clock)
    slices.add(job(clock, 10, done, "state"))
    slices.turn()
    slices.add_first(job(clock, 10, done, "status"))
    while slices:
        slices.turn()
    assert done == ["status", "state"]


# --- documents --------------------------------------------------------------------------------------------------------


class Loop:
    """The loop's part, in a thread: builds when it is asked."""

    def __init__(self, document: dict[str, Any], seconds: float = 0.0):
        self.built = 0
        self.document, self.seconds = document, seconds
        self.slices = Slices()
        self.snapshots = Snapshots(self.build, lambda document: document, lambda: None)
        self.over = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def build(self) -> Steps[dict[str, Any]]:
        self.built += 1
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            yield
        if isinstance(self.document, Exception):
            raise self.document
        return self.document

    def run(self) -> None:
        faults = Faults()
        while not self.over:
            self.snapshots.turn(self.slices)
            faults.guard("report", self.slices.turn)
            time.sleep(0.001)


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    made: list[Loop] = []
    yield made
    for loop in made:
        loop.over = True
        loop.thread.join()


def test_all_who_ask_at_once_get_one_document(loops: list[Loop]) -> None:
    loop = Loop(status(World()), seconds=0.1)
    loops.append(loop)
    answers: list[Snapshot] = []
    threads = [threading.Thread(target=lambda: answers.append(loop.snapshots.ask())) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 30
    assert loop.built <= 2
    assert loop.snapshots.ask() in answers, "what took long is told for a while"


def test_json_is_the_document(loops: list[Loop]) -> None:
    world = World()
    world.add("ann", at("192.0.2.1")).connect()
    document = status(world)
    loop = Loop(document)
    loops.append(loop)
    assert json.loads(loop.snapshots.ask().json()) == document


def test_a_fault_while_building_is_told_to_who_asks_and_ends_nothing(loops: list[Loop]) -> None:
    loop = Loop(ValueError("a fault"))
    loops.append(loop)
    for _ in range(2):
        with pytest.raises(ValueError, match="a fault"):
            loop.snapshots.ask()
    loop.document = status(World())
    assert loop.snapshots.ask().document["name"] == "relay"


# --- who asks over HTTP -----------------------------------------------------------------------------------------------


class Server:
    def __init__(self, folder: Path, document: dict[str, Any]):
        self.unix = folder / "status.sock"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        snapshot = Snapshot(document, lambda content: content)
        self.server = StatusServer(self.unix, ("127.0.0.1", self.port), lambda: snapshot, lambda: snapshot)

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5, (host, 0))

    def get(self, path: str = "/healthz", host: str = "127.0.0.1") -> bytes:
        with self.connect(host) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    document = status(World())
    document["problems"] = ["x" * 1000] * 8000  # more than the system buffers
    made = Server(tmp_path, document)
    yield made
    made.server.close()


def ended(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        while client.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("request_", [b"", b"GET /status HTTP/1.0\r\n\r\n", b"GET /he"], ids=["silent", "slow", "half"])
def test_slow_clients_of_many_addresses_keep_nobody_out(server: Server, request_: bytes) -> None:
    slow = [server.connect(f"127.0.1.{number}") for number in range(1, 40)]
    for client in slow:
        with contextlib.suppress(OSError):  # pushed out already
            client.sendall(request_)
    for _ in range(5):
        assert server.get().startswith(b"HTTP/1.0 200")
    for client in slow:
        client.close()


def test_one_address_has_few_places(server: Server) -> None:
    others = [server.connect("127.0.1.1") for _ in range(2)]
    greedy = [server.connect("127.0.1.2") for _ in range(12)]
    assert server.get().startswith(b"HTTP/1.0 200")
    assert [ended(client) for client in greedy] == [True] * 8 + [False] * 4
    assert not any(map(ended, others))
    for client in (*others, *greedy):
        client.close()


def test_a_connection_ends_however_busy_it_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server, "_DEADLINE", 1.5)
    client = server.connect()
    start = time.monotonic()
    with pytest.raises(OSError, match=r"."):
        for _ in range(200):
            client.sendall(b"G")
            time.sleep(0.05)
    assert time.monotonic() - start < 5
    client.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n" + b"".join(b"h%d: %s\r\n" % (n, b"v" * 60_000) for n in range(90)) + b"\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"__class__ /healthz HTTP/1.0\r\n\r\n",
        b"POST /healthz HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
        b"\xff\xfe\0\0 \xed\xa0\x80 HTTP/1.0\r\n\r\n",
        b"GET //\x00/%ff?%% HTTP/1.0\r\n\r\n",
        b"\r\n" * 20_000,
        b"GET http://[::1%25\r\n HTTP/1.0\r\n\r\n",
    ],
)
def test_hostile_requests_cost_little_and_end_nothing(server: Server, request_: bytes) -> None:
    with server.connect() as client:
        with contextlib.suppress(OSError):
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
        assert ended(client)
    assert server.get().startswith(b"HTTP/1.0 200")


# --- the state and its disk -------------------------------------------------------------------------------------------


def test_a_disk_that_hangs(tmp_path: Path) -> None:
    """A pipe that nobody reads in the place of the new file: opening it takes for ever."""
    file = tmp_path / "state.json"
    os.mkfifo(tmp_path / "state.json.new")
    writer = StateWriter(None)
    writer.write(file, {"format": 1}, 100.0)
    assert writer.busy
    assert not writer.wait(0.2)
    assert writer.problems(105.0) == []
    (problem,) = writer.problems(130.0)
    assert problem.startswith(f"{file}: not written for 30 s, the disk does not answer: ")
    descriptor = os.open(tmp_path / "state.json.new", os.O_RDONLY)  # it answers again
    assert writer.wait(5)
    os.close(descriptor)
    assert writer.problems(130.0) == []
    writer.write(file, {"format": 1}, 131.0)
    assert writer.wait(5)


def test_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    writer = StateWriter(None)
    writer.write(tmp_path / "no" / "state.json", {"format": 1}, 100.0)
    assert writer.wait(5)
    (problem,) = writer.problems(101.0)
    assert "No such file or directory: a restart will cost handshakes" in problem
    writer.write(tmp_path / "state.json", {"format": 1}, 102.0)
    assert writer.wait(5)
    assert writer.problems(103.0) == []


def test_a_pipe_in_the_place_of_the_state_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.json")
    saved, problem = state.read(tmp_path / "state.json")
    assert saved is None
    assert "not a file" in problem


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_datagram_that_raises_is_counted_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    ann, bob = world.add("ann", at("127.0.0.1", 1)).connect(), world.add("bob", at("127.0.0.1", 2)).connect()
    receive = world.switchboard.receive

    def broken(datagram: bytes, *rest: Any) -> None:
        if datagram.startswith(b"bomb"):
            raise KeyError("a fault")
        receive(datagram, *rest)

    world.switchboard.receive = broken
    faults = Faults()
    plane = UserspacePlane(world.switchboard, faults)
    plane.listen([("127.0.0.1", 0)])
    try:
        (sock,) = plane.sockets
        target = sock.socket.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            for datagram in (b"bomb", b"junk", b"bomb"):
                end.sendto(datagram, target)
        for _ in range(3):
            plane.drain(sock, world.now)
    finally:
        plane.close()
    assert world.drops() == {"fault": 2, "not_wireguard": 1}
    (problem,) = faults.problems()
    assert problem.startswith("datagrams: a fault of the relay's own (KeyError: 'a fault')")
    assert len(caplog.records) == 1, "told once"
    assert ann.record.binding
    assert bob.record.binding
