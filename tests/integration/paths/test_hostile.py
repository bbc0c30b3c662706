# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registered device that means harm, and strangers at WireGuard's port, against a real agent."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness.capture import Capture
from harness.paths import Figure, Paths, Watched
from harness.topology import STRANGER_V4, Lab
from harness.wireguard import Device

_CONTROL = 7078
_HEADERS = 28  # of IPv4 and UDP
_CARRIED = 60  # bytes that the tunnel adds to a message on its way
_FLOOD = 6.0  # seconds
# Sends what it reads (lines of hexadecimal) again and again for so many seconds, and prints how often.
_REPEAT = """
import socket, sys, time
host, port, seconds, own = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
datagrams = [bytes.fromhex(line) for line in sys.stdin]
sock, count, end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0, time.monotonic() + seconds
sock.bind(("0.0.0.0", own))
while time.monotonic() < end:
    for datagram in datagrams:
        try:
            sock.sendto(datagram, (host, port))
            count += 1
        except OSError:
            pass
print(count)
"""


def _message(**content: object) -> bytes:
    return json.dumps({"v": 1, "key": base64.b64encode(bytes(32)).decode(), **content}).encode()


def _resident(paths: Paths) -> float:
    """MiB of ann's agent."""
    text = Path(f"/proc/{paths.agents[0].process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


@contextlib.contextmanager
def _at(device: Device) -> Iterator[socket.socket]:
    """The port of its agent, which is not there."""
    with device.host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((device.addresses[0].split("/")[0], _CONTROL))
        yield sock


def _alone(paths: Paths) -> None:
    """Ann runs an agent, and bob, who is registered, is whatever the test makes of him."""
    paths.up(agents=False)
    paths.agents[0].start()
    paths.agents[0].wait_path(paths.bob, "relay")


def test_a_device_that_names_odd_addresses_ends_nobodys_agent(paths: Paths) -> None:
    _alone(paths)
    agent = paths.agents[0]
    odd = ["[2001:db8::1%a\0b]:51820", "[2001:db8::1%\ud800]:1", "[::ffff:127.0.0.1]:1", "[fe80::1%lo]:9", "0.1.2.3:5"]
    odd += ["255.255.255.255:1", "224.0.0.1:1", "127.0.0.1:22"]
    datagrams = [_message(candidates=odd, punch=True, answer=True), b"[" * 999, _message(relays={"\ud800": 1e999})]
    datagrams += [b'{"v":' + b"9" * 900 + b"}", b"\xff" * 50, b"", _message(candidates=[{"a": []}], relays={"one": -1})]
    with _at(paths.bob) as sock:
        for _ in range(3):
            for datagram in datagrams:
                sock.sendto(datagram, ("10.77.1.1", _CONTROL))
            time.sleep(1)
    time.sleep(11)  # the status is written every 10 s
    assert agent.process.running
    refused = agent.status()["refused"]
    assert refused["malformed_message"] >= 9
    assert "fault" not in refused
    with Watched(paths.ann, paths.bob) as watched:
        watched.connection.check()


def test_a_third_party_gets_less_than_the_device_that_names_it_sends(paths: Paths, lab: Lab, figure: Figure) -> None:
    """Twelve candidates at one victim, each second with other ports: what comes after the allowance is paid for."""
    victim = lab.stranger()
    _alone(paths)
    came = 0
    with Capture(victim, "eth0", "udp") as capture:
        with _at(paths.bob) as sock:
            start = time.monotonic()
            for second in range(30):
                ports = range(1000 + 12 * second, 1012 + 12 * second)
                datagram = _message(candidates=[f"{STRANGER_V4}:{port}" for port in ports], punch=True, answer=True)
                sock.sendto(datagram, ("10.77.1.1", _CONTROL))
                came += len(datagram) + _CARRIED
                time.sleep(1)
            took = time.monotonic() - start
        seen = [each for each in capture.stop() if each.destination[0] == STRANGER_V4]
    sent = sum(len(each.payload) + _HEADERS for each in seen)
    figure("agent: to a third party", f"{len(seen) / took:.1f} probes/s, {sent / came:.2f} times the bytes", "< 1")
    assert 20 < len(seen) < 150, "the attack does not even reach the agent, or more than the allowance goes out"
    assert sent < came


def test_floods_hold_nothing_up(paths: Paths, figure: Figure) -> None:
    """From a device in the tunnel, and from a neighbour at WireGuard's port with what looks like probes."""
    paths.up()
    paths.wait("direct")
    agent, ann = paths.agents[0], paths.ann
    neighbour = paths.sites[0].host("neighbour")
    port = int(ann.host.run("wg", "show", ann.interface, "listen-port"))
    before = _resident(paths)
    probes = "\n".join((b"\xf7prp" + bytes([1, 0, number, 0]) + bytes(24)).hex() for number in range(256))
    messages = "\n".join(_message(candidates=["192.0.2.1:1"], answer=True, n=n).hex() for n in range(16))
    for what, host, target, own, lines in (
        ("strangers' probes", neighbour, ("192.168.1.11", port), 0, probes),
        ("a device's messages", paths.bob.host, ("10.77.1.1", _CONTROL), _CONTROL, messages),
    ):
        if own:
            paths.agents[1].stop()
        words = [sys.executable, "-c", _REPEAT, target[0], str(target[1]), str(_FLOOD), str(own)]
        old = agent.status()["updated"]
        busy = agent.busy_seconds()
        count = int(host.run(*words, stdin=lines, timeout=60))
        share = (agent.busy_seconds() - busy) / _FLOOD
        time.sleep(11)
        assert agent.process.running
        assert share > 0.02, "it did not even arrive"
        assert agent.status()["updated"] > old + _FLOOD, "it stood still"
        assert bool(own) == ("too_many_messages" in agent.status()["refused"]), "it did not even arrive"
        after = _resident(paths)
        figure(
            f"agent: flood of {what}",
            f"{count / _FLOOD:.0f}/s, {share:.0%} of a core, {before:.1f} to {after:.1f} MiB",
            "< 4 MiB more",
        )
        assert count > 1000 * _FLOOD
        assert after < before + 4
    with Watched(ann, paths.bob) as watched:
        watched.connection.check()
    assert agent.path(paths.bob)
