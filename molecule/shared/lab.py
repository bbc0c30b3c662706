"""What the scenarios' tests share: a pytest plugin that the shared Molecule settings load into every scenario."""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import json
import os
import re
import shlex
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import testinfra
from testinfra.backend.base import BaseBackend, CommandResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTER = Path(__file__).resolve().parents[2] / "tests/lab/enter"
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
T = TypeVar("T")
_figures: list[str] = []


@functools.cache
def machines() -> list[str]:
    command = ["podman", "ps", "--filter", f"label=lab={SCENARIO}", "--format", "{{.Names}}"]
    names = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return sorted(name.removeprefix(f"pr-{SCENARIO}-") for name in names)


class Container(BaseBackend):
    """A container of the lab: what testinfra's own backend for podman does, in a fraction of the time."""

    NAME = "lab"

    def run(self, command: str, *args: str, **_kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        return self.run_local(f"{ENTER} %s /bin/sh -c %s", self.hostname, line)


@functools.cache
def machine(name: str) -> testinfra.host.Host:
    """The scenario's container, as testinfra sees it."""
    return testinfra.host.Host(Container(f"pr-{SCENARIO}-{name}"))


def run(name: str, command: str) -> str:
    """Run a shell command that has to succeed; what it prints."""
    result = machine(name).run(command)
    assert result.rc == 0, f"{name}: {command}: exit code {result.rc}\n{result.stdout}{result.stderr}"
    return result.stdout


def fails(name: str, command: str) -> bool:
    return machine(name).run(command).rc != 0


def attempt(playbook: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a playbook on the scenario's machines, whichever way it ends; it prints one JSON document."""
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], playbook, *arguments]
    environment = os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(command, capture_output=True, check=False, text=True, env=environment)


def play(playbook: str, *arguments: str) -> dict[str, dict[str, int]]:
    """Run a playbook that has to succeed; its statistics for each host."""
    result = attempt(playbook, *arguments)
    assert result.returncode == 0, f"{playbook}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return _document(result.stdout)["stats"]


def _document(output: str) -> dict[str, Any]:
    # The scenarios' settings let another callback print its times around it.
    return json.JSONDecoder().raw_decode(output, output.index("{"))[0]


def last_words(output: str) -> str:
    """What the last task of a playbook that failed says, for the one host that failed."""
    hosts = _document(output)["plays"][-1]["tasks"][-1]["hosts"]
    return next(result["msg"] for result in hosts.values() if result.get("failed"))


def wait_for(what: str, check: Callable[[], T], seconds: float = 20) -> T:
    """Repeat the check until it is true or the time is over; its last value."""
    end = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < end, f"after {seconds} s still not so: {what}"
        time.sleep(0.3)
    return value


def status(relay: str = "relay") -> dict[str, Any]:
    # A status with problems exits with 1 and prints all the same.
    result = machine(relay).run("peer-relay status --json")
    assert result.rc in (0, 1), f"{relay}: peer-relay status: exit code {result.rc}\n{result.stdout}{result.stderr}"
    return json.loads(result.stdout)


def agent_status(name: str) -> dict[str, Any]:
    """What a device's path agent says; empty while it says nothing."""
    # With problems it exits with 1; unreached, it prints nothing and exits with 3.
    result = machine(name).run("peer-relay agent status --json")
    assert result.rc in (0, 1, 3), f"{name}: agent status: exit code {result.rc}\n{result.stdout}{result.stderr}"
    return json.loads(result.stdout) if result.stdout else {}


def device(name: str, relay: str = "relay") -> dict[str, Any]:
    """What the relay says about one device."""
    return next(device for device in status(relay)["devices"] if device["name"] == name)


def overlay(name: str, version: int, relay: str = "relay") -> str:
    """The device's address in the tunnel."""
    return next(a for a in device(name, relay)["addresses"] if ipaddress.ip_address(a).version == version)


def is_bound(name: str, relay: str = "relay") -> bool:
    return device(name, relay)["state"] == "bound"


def pair_state(source: str, destination: str, relay: str = "relay") -> str | None:
    pairs = status(relay)["pairs"]
    return next((p["state"] for p in pairs if (p["from"], p["to"]) == (source, destination)), None)


def ping(name: str, address: str, count: int = 3) -> None:
    """Every one of the pings has to be answered."""
    run(name, f"ping -n -q -i 0.2 -W 5 -c {count} {address}")


def reaches(name: str, address: str) -> bool:
    return machine(name).run(f"ping -n -q -W 2 -c 1 {address}").rc == 0


@contextlib.contextmanager
def background(name: str, command: str) -> Iterator[None]:
    """Let a command run in the container, as a unit of its systemd, until the block ends."""
    unit = f"lab-{re.sub(r'[^a-z0-9]', '', command)[:20]}"
    run(name, f"systemd-run --quiet --collect --unit {unit} {command}")
    try:
        yield
    finally:
        machine(name).run(f"systemctl stop {unit}")


@contextlib.contextmanager
def capture(name: str, interface: str, expression: str) -> Iterator[list[bytes]]:
    """Record the IP packets that pass an interface; the list is filled when the block ends."""
    path = f"/run/lab-{interface}.pcap"
    packets: list[bytes] = []
    with background(name, f"tcpdump -Z root -U --immediate-mode -n -i {interface} -w {path} {shlex.quote(expression)}"):
        wait_for("tcpdump records", lambda: machine(name).run(f"test -s {path}").rc == 0)
        yield packets
        time.sleep(0.5)
    packets += packets_of(base64.b64decode(run(name, f"base64 {path} && rm {path}")))


def packets_of(pcap: bytes) -> Iterator[bytes]:
    """The IP packets in a file of tcpdump, which has the byte order of the machine that wrote it."""
    ethernet = struct.unpack_from("I", pcap, 20)[0] == 1
    position = 24
    while position < len(pcap):
        length = struct.unpack_from("I", pcap, position + 8)[0]
        frame = pcap[position + 16 : position + 16 + length]
        yield frame[14:] if ethernet else frame
        position += 16 + length


def source_address(packet: bytes) -> str:
    raw = packet[8:24] if packet[0] >> 4 == 6 else packet[12:16]
    return str(ipaddress.ip_address(raw))


def udp_payload(packet: bytes) -> bytes:
    header = 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
    length = int.from_bytes(packet[header + 4 : header + 6], "big")
    return packet[header + 8 : header + length]


def is_wireguard(payload: bytes) -> bool:
    """A message of WireGuard's four types, with its three zero bytes and a size that fits."""
    sizes = {1: 148, 2: 92, 3: 64}
    kind = payload[0] if payload else 0
    if payload[1:4] != bytes(3):
        return False
    return len(payload) == sizes[kind] if kind in sizes else kind == 4 and len(payload) >= 32


def figure(what: str, measured: str) -> None:
    """Note a measured figure, to be shown at the end."""
    _figures.append(f"{what}: {measured}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
    for line in _figures:
        terminalreporter.line(line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the journals of the services in question with a test that failed."""
    report = (yield).get_result()
    units = "-u peer-relay -u peer-relay-ports -u 'wg-quick@*'"
    if report.failed:
        for name in machines():
            journal = machine(name).run(f"journalctl -b -n 30 --no-pager -o short {units}").stdout
            report.sections.append((f"journal of {name}", journal))
