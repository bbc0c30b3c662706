"""Whether a stranger's packets get through to a host: real packets, in one go for all ports and both IP versions."""

from __future__ import annotations

import json
import subprocess

from lab import SCENARIO, machine, run, wait_for

ADDRESSES = {"relay": ("198.51.100.10", "2001:db8:ff::10"), "fresh": ("198.51.100.11", "2001:db8:ff::11")}

ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def answered(question):
    kind, host, port, source = question
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            if source:
                client.bind((source, 0))
            client.connect((host, port))
            if kind == "udp":
                client.send(b"?")
            return bool(client.recv(100))
        except OSError:
            return False

questions = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(questions)) as pool:
    print(json.dumps(list(pool.map(answered, questions))))
"""


def answers(*questions: tuple[str, str, int, str], asker: str = "stranger") -> list[bool]:
    """For each (udp or tcp, host, port, source): whether the echo, or the greeting of the SSH server, came back."""
    result = machine(asker).run("python3 -c %s %s", ASK, json.dumps(questions))
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


def _open_ports(name: str) -> list[set[str]]:
    """Of the relay's port, another one and SSH, those that strangers reach: over IPv4, and over IPv6."""
    ports = [("udp", 40000), ("udp", 40001), ("tcp", 22)]
    return [
        {f"{port}/{kind}" for (kind, port), answered in zip(ports, by_version, strict=True) if answered}
        for by_version in (answers(*((kind, address, port, "") for kind, port in ports)) for address in ADDRESSES[name])
    ]


def has_open(name: str, *ports: str) -> bool:
    """These ports are open, over IPv4 and IPv6 alike, or will be shortly: firewalld is up before its rules are."""
    seen: list[set[str]] = []

    def settled() -> bool:
        seen[:] = _open_ports(name)
        return seen == [set(ports)] * 2

    try:
        return wait_for(f"strangers reach {ports} alone", settled, 15)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}; they reach {seen}") from None


def is_open(name: str) -> bool:
    """The relay's port and SSH are open, another port is not."""
    return has_open(name, "40000/udp", "22/tcp")


def is_closed(name: str) -> bool:
    """SSH alone is open."""
    return has_open(name, "22/tcp")


def reboot(name: str) -> None:
    subprocess.run(["podman", "restart", "--time", "5", f"pr-{SCENARIO}-{name}"], check=True, capture_output=True)
    running = ("running", "degraded")
    wait_for(f"{name} is up", lambda: machine(name).run("systemctl is-system-running").stdout.strip() in running)
    run("stranger", "ip neigh flush all")  # the container has a new hardware address
