# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's loop, threads and command, with a router that is a few lines of Python."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peer_common import systemd
from port_keeper import __main__ as command
from port_keeper import router, service, settings, state
from port_keeper.inbox import Inbox, Item
from port_keeper.keeper import Find
from port_keeper.router import Worker
from port_mapping.deadline import left
from port_mapping.mapping import Granted, HolderUnknown, Life, MappingError, Refused, Unreachable, Wanted

RELAY = '[[mapping]]\nname = "relay"\ninternal_port = 40000\n'
WEB = '[[mapping]]\nname = "web"\nprotocol = "tcp"\ninternal_port = 80\n'


class Client:
    """A router with one family; `opened` is what it has open."""

    method, gateway, local_address = "pcp", "192.0.2.254", "192.0.2.7"
    model, oddities = "", ()

    def __init__(self) -> None:
        self.opened: set[tuple[str, int]] = set()
        self.error: MappingError | None = None
        self.silent = threading.Event()  # while set, no call returns
        self.silent.set()

    def _answer(self) -> None:
        self.silent.wait(20)
        if self.error:
            raise self.error

    def look(self) -> Life:
        self._answer()
        return Life(external_address="203.0.113.1", boot_id=1)

    def holder(self, _wanted: Wanted) -> None:
        raise HolderUnknown("nobody tells")

    def map(self, wanted: Wanted) -> Granted:
        self._answer()
        self.opened.add((wanted.protocol, wanted.external_port))
        return Granted("203.0.113.1", wanted.external_port, wanted.lease)

    def unmap(self, wanted: Wanted) -> None:
        self._answer()
        self.opened.discard((wanted.protocol, wanted.external_port))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    result = Client()

    def find(_method: str, _gateway: str, family: int) -> Client:
        result._answer()
        if family == 6:
            raise Unreachable("no router for IPv6")
        return result

    monkeypatch.setattr(router.discovery, "find", find)
    monkeypatch.setattr(router.routes, "default_gateway", lambda _family: "192.0.2.254")
    monkeypatch.setattr(router.routes, "local_address", lambda _gateway, _family: "192.0.2.7")
    monkeypatch.setattr(router.stun, "ask", lambda _server: "198.51.100.9")
    monkeypatch.setattr(service, "_ANNOUNCEMENTS", ("127.0.0.1", 0))
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    result = tmp_path / "ports.toml"
    write(result, RELAY)
    return result


def write(file: Path, mappings: str, router: str = "") -> None:
    folder = file.parent
    keeper = f'[keeper]\nstatus_file = "{folder}/status.json"\nstate_file = "{folder}/state.json"\n'
    file.write_text(f"[router]\npoll_seconds = 1\n{router}\n{keeper}{mappings}")


def read(file: Path) -> dict[str, Any]:
    return json.loads((file.parent / "status.json").read_text())


@pytest.fixture
def handlers() -> Iterator[None]:
    """The service sets its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(file: Path, *steps: tuple[Callable[[], bool], Callable[[], object]]) -> None:
    """Run the service; when each condition holds, take its step; then end it by SIGTERM."""
    failed: list[str] = []

    def follow() -> None:
        for number, (condition, step) in enumerate(steps):
            deadline = time.monotonic() + 60  # only a fault takes that long, not a busy machine
            while not ((file.parent / "status.json").exists() and condition()):
                if time.monotonic() > deadline:
                    failed.append(f"step {number}: {read(file)}")
                    break
                time.sleep(0.02)
            step()
        os.kill(os.getpid(), signal.SIGTERM)

    made = service.Service(settings.load(file))
    thread = threading.Thread(target=follow)
    thread.start()
    made.run()
    thread.join()
    assert failed == []


def states(file: Path) -> Callable[[], dict[str, str]]:
    return lambda: {mapping["name"]: mapping["state"] for mapping in read(file)["mappings"]}


def test_opens_and_leaves_open(file: Path, client: Client, handlers: None) -> None:
    state_of = states(file)
    run(file, (lambda: state_of() == {"relay": "mapped"}, bool))
    assert client.opened == {("udp", 40000)}
    assert state.read(file.parent / "state.json").addresses[4].text == "203.0.113.1"


def test_takes_over_settings(file: Path, client: Client, handlers: None) -> None:
    state_of = states(file)

    def reload(mappings: str, router: str = "") -> Callable[[], None]:
        def step() -> None:
            write(file, mappings, router)
            os.kill(os.getpid(), signal.SIGHUP)

        return step

    run(
        file,
        (lambda: state_of() == {"relay": "mapped"}, reload(WEB, 'method = "pcp"\nstun_server = "stun.example.org"')),
        (lambda: state_of() == {"web": "mapped"} and read(file)["nat"] == "differs", reload("[[mapping]]\n")),
        (lambda: "name is missing" in str(read(file)["problems"]), reload(RELAY)),
        (lambda: state_of() == {"relay": "mapped"} and read(file)["problems"] == [], bool),
    )
    assert client.opened == {("udp", 40000)}
    assert read(file)["seen_address"] == ""


def test_what_an_earlier_run_opened_is_closed(file: Path, client: Client, handlers: None) -> None:
    client.opened = {("tcp", 80)}
    state.write(file.parent / "state.json", [Wanted(80, 80, "tcp")], {4: state.Address("203.0.113.9", 1.0, 3)})
    run(file, (lambda: client.opened == {("udp", 40000)}, bool))
    assert read(file)["address_changes"] == 4


def test_a_router_that_keeps_silent_delays_nothing(file: Path, client: Client, handlers: None) -> None:
    client.silent.clear()
    start = time.monotonic()
    run(file, (lambda: states(file)() == {"relay": "pending"}, bool))
    assert time.monotonic() - start < 5
    client.silent.set()


def test_a_directory_that_is_not_writable_is_told(file: Path, client: Client, handlers: None) -> None:
    write(file, RELAY)
    file.write_text(file.read_text().replace("state.json", "no/state.json"))
    run(file, (lambda: "make its directory writable" in str(read(file)["problems"]), bool))


def test_release(file: Path, client: Client) -> None:
    client.opened = {("udp", 40000), ("tcp", 80), ("tcp", 22)}
    state.write(file.parent / "state.json", [Wanted(80, 80, "tcp"), Wanted(80, 80, "tcp", 6)], {})
    assert service.release(settings.load(file)) == ["no router for IPv6"]
    assert client.opened == {("tcp", 22)}
    client.error = Refused("no")
    assert service.release(settings.load(file)) == ["no", "no"]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    result = Inbox()
    yield result
    result.close()


def first(inbox: Inbox, number: int = 1) -> Iterator[Item]:
    found: list[Item] = []
    deadline = time.monotonic() + 5
    while len(found) < number and time.monotonic() < deadline:
        found += inbox.pop(5)
    return iter(found)


def test_a_signal_at_any_moment_of_waiting_wakes_it(inbox: Inbox, handlers: None) -> None:
    """queue.SimpleQueue, on Python 3.10, waits for ever about once in 20,000 times."""
    number, turns, stuck = 5000, 0, False
    signal.signal(signal.SIGHUP, lambda *_: inbox.put(None, 0.0))

    def send() -> None:
        nonlocal stuck
        for _ in range(number):
            before, deadline = turns, time.monotonic() + 10
            os.kill(os.getpid(), signal.SIGHUP)
            while turns < before + 2 and not stuck:
                time.sleep(random.uniform(0.0001, 0.0004))
                stuck = time.monotonic() > deadline
        inbox.put("the end", 0.0)

    thread = threading.Thread(target=send)
    thread.start()
    while "the end" not in (item.owner for item in inbox.pop(0.0003)):
        turns += 1
    thread.join()
    assert not stuck


def test_a_worker_survives_whatever_happens(inbox: Inbox) -> None:
    worker = Worker("test", inbox)

    def fail(error: Exception) -> Callable[[], None]:
        def job() -> None:
            raise error

        return job

    refused, unknown = Refused("no"), HolderUnknown("nobody tells")
    for job in (lambda: 7, fail(refused), fail(unknown), fail(ZeroDivisionError("oh"))):
        worker.submit("owner", job)
    outcomes = list(first(inbox, 4))
    assert [owner for owner, _, _ in outcomes] == ["owner"] * 4
    assert [outcome for _, _, outcome in outcomes[:3]] == [7, refused, unknown]
    assert type(outcomes[3][2]) is MappingError
    assert str(outcomes[3][2]).startswith("ZeroDivisionError: oh: please report")
    assert worker.busy_since is None


def test_an_outcome_that_nobody_thought_of_does_not_end_the_service(
    file: Path, client: Client, handlers: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look, outcomes = client.look, iter([object(), None, Life(epoch=10**400), Life(external_address="203.0.113.1")])
    monkeypatch.setattr(client, "look", lambda: next(outcomes, None) or look())
    run(file, (lambda: states(file)() == {"relay": "mapped"}, bool))
    assert "please report this as a defect of the keeper" in caplog.text


def test_a_job_that_does_not_end_is_given_up(inbox: Inbox) -> None:
    worker = Worker("test", inbox)
    never = threading.Event()
    for _ in range(4):
        worker.submit("owner", never.wait)
        assert not worker.overdue(60)
        time.sleep(0.01)
        assert worker.overdue(0.005)
        owner, _, outcome = next(first(inbox))
        assert (owner, type(outcome)) == ("owner", Unreachable)
    worker.submit("owner", lambda: 7)
    assert next(first(inbox)).outcome == 7
    worker.submit("owner", never.wait)
    time.sleep(0.01)
    assert worker.overdue(0.005), "told"
    assert inbox.pop(0) == [], "but waited for: threads are not without number"
    never.set()
    assert next(first(inbox)).outcome is True
    assert not worker.overdue(0)
    time.sleep(0.05)
    assert inbox.pop(0) == [], "what was given up tells nothing any more"


def test_a_router_that_takes_its_time_with_each_question_has_an_end(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(router, "_PATIENCE", 0.05)

    def find(*_: object) -> None:
        while True:
            time.sleep(left(1) / 5)

    monkeypatch.setattr(router.discovery, "find", find)
    with pytest.raises(Unreachable, match="no time is left for more questions"):
        router.Router(4).perform(Find(""), settings.load(file))


def test_a_way_that_is_not_there(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def nowhere(*_: object) -> str:
        raise Unreachable("no route")

    config = settings.load(file)
    monkeypatch.setattr(router.routes, "default_gateway", nowhere)
    assert router.next_hop(config, 4) == ("", "")


def test_notifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.send("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
    systemd.send("WATCHDOG=1")  # nobody listens
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert systemd.watchdog_interval() == 30
    monkeypatch.setenv("WATCHDOG_USEC", "")
    assert systemd.watchdog_interval() is None


def test_announcements_without_end_are_heard_now_and_then(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            here = free.getsockname()
        monkeypatch.setattr(service, "_ANNOUNCEMENTS", here)
        threading.Thread(target=service._listen, args=(inbox,), daemon=True).start()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            sender.sendto(bytes(12), here)
            time.sleep(0.001)
    heard = inbox.pop(0)
    assert 1 <= len(heard) <= 4
    assert heard[0].outcome == "127.0.0.1"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def made(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["peer-relay-ports", "--settings", str(file), *words])
        return command.main()

    return made


def test_check(call: Callable[..., int], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check") == 0
    assert capsys.readouterr().out == f"{file}: fine, 1 mappings\n"
    file.write_text("x")
    assert call("check") == 2
    assert capsys.readouterr().err.startswith(f"peer-relay-ports: {file}: not TOML")


def test_status(
    call: Callable[..., int], file: Path, client: Client, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("status") == 3
    assert "status.json is missing: is the service running?" in capsys.readouterr().err
    state_of = states(file)
    run(file, (lambda: state_of() == {"relay": "mapped"}, bool))
    assert call("status") == 0
    assert "relay: udp 40000 -> 40000 (IPv4): mapped" in capsys.readouterr().out
    assert call("status", "--json", "--wait", "5") == 0
    document = json.loads(capsys.readouterr().out)
    document["mappings"][0]["state"] = "pending"
    (file.parent / "status.json").write_text(json.dumps(document))
    start = time.monotonic()
    assert call("status", "--wait", "0.5") == 1
    assert time.monotonic() - start >= 0.5


def test_status_waits_for_new_settings(
    call: Callable[..., int], file: Path, client: Client, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    state_of = states(file)
    run(file, (lambda: state_of() == {"relay": "mapped"}, bool))
    later = time.time() + 100
    os.utime(file, (later, later))
    start = time.monotonic()
    assert call("status", "--wait", "0.5") == 0
    assert time.monotonic() - start >= 0.5


def test_release_says_what_stays_open(
    call: Callable[..., int], client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("release") == 0
    client.error = Unreachable("192.0.2.254 does not answer")
    assert call("release") == 1
    assert capsys.readouterr().err == "peer-relay-ports: 192.0.2.254 does not answer\n"
