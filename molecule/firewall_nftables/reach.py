"""Whether packets of the stranger get through, by real packets."""

from __future__ import annotations

import subprocess

from lab import SCENARIO, machine, wait_for

ADDRESSES = {"relay": ("198.51.100.10", "2001:db8:ff::10"), "fresh": ("198.51.100.11", "2001:db8:ff::11")}

ASK = """
import socket, sys
kind, host, port, source = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
client = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
client.settimeout(0.7)
if source:
    client.bind((source, 0))
client.connect((host, int(port)))
if kind == "udp":
    client.send(b"?")
client.recv(100)
"""


def answers(kind: str, host: str, port: int, source: str = "") -> bool:
    """The stranger gets an answer: the echo's, or the greeting of the SSH server."""
    return machine("stranger").run("python3 -c %s %s %s %s %s", ASK, kind, host, str(port), source).rc == 0


def udp(name: str, port: int) -> set[bool]:
    return {answers("udp", address, port) for address in ADDRESSES[name]}


def ssh(name: str) -> set[bool]:
    return {answers("tcp", address, 22) for address in ADDRESSES[name]}


def open_to_strangers(name: str) -> bool:
    """The relay's port and SSH are open over IPv4 and IPv6, another port is not."""
    return (udp(name, 40000), ssh(name), udp(name, 40001)) == ({True}, {True}, {False})


def closed_to_strangers(name: str) -> bool:
    """SSH alone is open."""
    return (udp(name, 40000), ssh(name), udp(name, 40001)) == ({False}, {True}, {False})


def reboot(name: str) -> None:
    subprocess.run(["podman", "restart", "--time", "5", f"pr-{SCENARIO}-{name}"], check=True, capture_output=True)
    running = ("running", "degraded")
    wait_for(f"{name} is up", lambda: machine(name).run("systemctl is-system-running").stdout.strip() in running)
