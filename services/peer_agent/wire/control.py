# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two agents tell each other inside the tunnel: JSON in one datagram. WireGuard proves who the sender is."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from typing import NamedTuple

from peer_agent.endpoints import Endpoint
from peer_agent.wire.probes import SECRET_SIZE

SIZE = 1000  # fits the smallest tunnel whole
VERSION = 1
MAX_CANDIDATES = 12
_MAX_RELAYS = 16
_MAX_NAME_LENGTH = 64
_MAX_ROUND_TRIP = 60.0


class MessageError(ValueError):
    """Not a message of an agent."""


class Message(NamedTuple):
    """Everything that an agent has to say; each message replaces the one before."""

    secret: bytes  # one half of the pair's key, new with each start of the agent
    candidates: tuple[Endpoint, ...] = ()  # where the sender may be reached, likeliest first
    relays: dict[str, float] = {}  # the relays that the sender reaches, best first: seconds of round trip
    symmetric: bool = False  # the sender's NAT gives it another address for each destination
    answer: bool = False  # the sender wants to hear from the other
    punch: bool = False  # the sender probes now: do the same
    left: bool = False  # the sender has left the direct path
    bye: bool = False  # the sender stops, maybe to start again at once
    full: bool = False  # the sender answers pings of full size


_FLAGS = ("symmetric", "answer", "punch", "left", "bye", "full")


def encode(message: Message) -> bytes:
    """Return the datagram, with as many relays as it takes."""
    relays = {name: round(rtt, 4) for name, rtt in [*message.relays.items()][:_MAX_RELAYS]}
    document: dict[str, object] = {
        "v": VERSION,
        "key": base64.b64encode(message.secret).decode(),
        "candidates": [str(endpoint) for endpoint in message.candidates[:MAX_CANDIDATES]],
        "relays": relays,
    }
    document |= {flag: True for flag in _FLAGS if getattr(message, flag)}
    while len(datagram := json.dumps(document, separators=(",", ":")).encode()) > SIZE:
        relays.popitem()
    return datagram


def decode(datagram: bytes) -> Message:
    """Read a message; raise MessageError when it is none. Candidates of a kind unknown here are left out."""
    if len(datagram) > SIZE:
        raise MessageError(f"{len(datagram)} bytes are more than {SIZE}")
    try:
        document = json.loads(datagram)
    except (ValueError, RecursionError) as error:
        raise MessageError("no JSON") from error
    if not isinstance(document, dict) or document.get("v") != VERSION:
        raise MessageError(f"no message of version {VERSION}")
    return Message(
        _secret(document.get("key")),
        _candidates(document.get("candidates", [])),
        _relays(document.get("relays", {})),
        **{flag: document.get(flag) is True for flag in _FLAGS},
    )


def _secret(value: object) -> bytes:
    try:
        secret = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != SECRET_SIZE:
        raise MessageError(f"key: not {SECRET_SIZE} bytes in base64")
    return secret


def _candidates(value: object) -> tuple[Endpoint, ...]:
    if not isinstance(value, list):
        raise MessageError("candidates: not a list")
    result: dict[Endpoint, None] = {}
    for text in value[:MAX_CANDIDATES]:
        with contextlib.suppress(ValueError):
            endpoint = Endpoint.parse(text if isinstance(text, str) else "")
            if str(endpoint) == text:  # the one form that agents write: what stands for another address is none
                result[endpoint] = None
    return tuple(result)


def _relays(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise MessageError("relays: not an object")
    return {
        name: float(rtt)
        for name, rtt in [*value.items()][:_MAX_RELAYS]
        if len(name) <= _MAX_NAME_LENGTH and type(rtt) in (int, float) and 0 <= rtt < _MAX_ROUND_TRIP
    }
