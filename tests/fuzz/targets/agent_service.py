# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole agent, with a registered device and a relay that mean harm: no fault, and bounds on what it does."""

from __future__ import annotations

import base64
import functools
import logging
import os
import tempfile
from pathlib import Path

import pytest
from peer_agent.core import limits
from peer_agent.endpoints import Endpoint, read_address, usable
from peer_agent.host.probe_socket import Datagram
from peer_agent.wire import control, probes

from targets.grammar import Hostile
from targets.target import Target

_NAS, _TV, _RELAY = (read_address(host) for host in ("10.77.1.2", "10.77.1.3", "10.77.0.1"))
_SECRET = bytes(range(32))
_HEADERS = 28  # bytes, of IPv4 and UDP


def message(data: bytes) -> bytes:
    """What an agent may say, written by somebody who means harm."""
    choices = Hostile(data)
    return _message(choices)


def _message(choices: Hostile) -> bytes:
    document = {
        "v": 1,
        "key": base64.b64encode(_SECRET if choices.number(4) else choices.bytes(32)).decode(),
        "candidates": [choices.endpoint() for _ in range(choices.number(16))],
        "relays": {choices.of(["one", "two", "three"]): choices.of([0.01, 1e999, -1, "x"]) for _ in range(2)},
        choices.of(["punch", "answer", "left", "bye", "symmetric", "full"]): True,
        "punch": True,
    }
    return choices.json(document)


def agent_hostile_message(data: bytes) -> None:
    read = control.decode(message(data))
    for candidate in read.candidates:
        assert str(candidate).isascii()
        assert str(candidate).isprintable()
        assert candidate.address.packed == read_address(candidate.host).packed


class _Probe:
    """WireGuard's port: nothing leaves, and what would is looked at."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, payload: bytes, target: Endpoint) -> None:
        assert usable(target, ()), target
        self.sent += len(payload) + _HEADERS


class _Discard(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


@functools.cache
def _running():
    """The service of this process: what it is, and not what it has heard, lasts from one input to the next."""
    os.environ["PEER_AGENT_STRICT"] = "1"
    from agent_run import Run

    made = Run(Path(tempfile.mkdtemp(prefix="fuzz-agent-")), pytest.MonkeyPatch())
    log = logging.getLogger("peer_agent")
    log.addHandler(_Discard())
    log.propagate = False
    made.advance(1)
    return made


def _answer(run, choices: Hostile) -> bytes:
    """What a relay answers the last question: to the point, and whatever it likes."""
    from peer_common import directory

    payload, _ = run.sockets.overlay.questions[-1]
    nonce, targets = directory.read_request(payload)
    entries = []
    for _ in range(1 + len(targets)):
        address, port = choices.address(), int.from_bytes(choices.bytes(2), "big")
        seen = (str(address), port) if port and any(address.packed) else None
        entries.append(directory.Entry(seen, bool(choices.number(2))))
    return directory.write_answer(directory.Answer(nonce, entries[0], tuple(entries[1:])))


def agent_service(data: bytes) -> None:
    run, choices = _running(), Hostile(data)
    outside = run.sockets.probe = _Probe()
    service = run.service
    run.sockets.overlay.questions.clear()
    service._begin(run.now, service._state.interface, service._state.sockets)
    run.advance(0.2)
    pair = next(told.pair for told in service._attached.paths if told.peer.name == "nas")
    begun, came, number = run.now, 0, 0
    while choices.left:
        rule = choices.number(5)
        if rule == 0:
            payload = _message(choices)
            service._told(run.now, payload, choices.of([_NAS, _NAS, _TV]), 7078)
            came += len(payload) + 120
        elif rule == 1 and run.sockets.overlay.questions:
            service._told(run.now, _answer(run, choices), _RELAY, 7077)
        elif rule == 2:
            number += choices.number(256)
            key = probes.Key(_SECRET, pair._signaling._secret, not pair._leader)
            probe = probes.Probe(1 + choices.number(2), number, *(bool(choices.number(2)) for _ in range(2)))
            address = str(choices.address())
            for _ in range(choices.of([1, 1, 50])):
                source = Endpoint.of(address, 1 + int.from_bytes(choices.bytes(2), "big") % 65535)
                service._probed(run.now, Datagram(key.seal(probe), source, "192.168.1.2"))
                came += probes.SIZE + _HEADERS
        elif rule == 3:
            payload = choices.bytes(choices.number(64))
            service._told(run.now, payload, choices.of([_NAS, _RELAY]), choices.of([7077, 7078]))
        run.advance(choices.of([0, 0.05, 0.3, 2]))
    for told in service._attached.paths:
        assert len(told.pair._candidates) <= 16
        assert len(told.pair._candidates._pending) <= 256
    assert len(service._attached.paths._limits._prefixes) <= limits._MAX_PREFIXES
    spent = run.now - begun
    allowance = 2 * (limits._PAIR[0] + spent * limits._PAIR[1]) * (probes.SIZE + _HEADERS)
    large = 2 * (limits._FULL_SIZE[0] + spent * limits._FULL_SIZE[1]) * (1452 + _HEADERS)
    assert outside.sent <= allowance + large + came, (outside.sent, came, spent)
    assert len(run.sockets.overlay.sent) < 100_000
    run.sockets.overlay.sent.clear()
    run.wireguard.done.clear()


_SEEDS = [bytes([rule, *range(60)]) * 3 for rule in range(5)] + [bytes(200), b"\x02\x05\x00\x01\x00\x02" * 30]
TARGETS = {
    "agent_hostile_message": Target(agent_hostile_message, (control.MessageError,), [*_SEEDS, bytes(range(256))]),
    "agent_service": Target(agent_service, (), _SEEDS),
}
