# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the path agent of this device tells: its status file, read strictly."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

FOLDER = "/run/peer-agent"
STALE = 60  # seconds after which the agent is taken for gone: it writes every 10
MAX_SIZE = 8 * 1024 * 1024  # bytes
MAX_TEXT_LENGTH = 1000  # characters of a text
PATHS = ("lan", "direct", "relay", "fallback")


class AgentError(ValueError):
    """A status file that the agent did not write."""


@dataclass(frozen=True)
class AgentPath:
    """The path to one device."""

    path: str
    via: str  # the relay's name, or empty
    since: float  # seconds since the epoch
    why_not: str
    why_not_text: str


@dataclass(frozen=True)
class AgentStatus:
    updated: float  # seconds since the epoch
    problems: tuple
    fallbacks: frozenset  # names of the relays that are reached over the fallback
    paths: dict  # AgentPath by overlay address
    why_not: str = ""  # the reason that it looks after no device; one of 1.2 tells none
    why_not_text: str = ""

    def is_fresh(self, now: float) -> bool:
        return abs(now - self.updated) <= STALE


def load(interface: str) -> AgentStatus | None:
    """The status of the agent that looks after the interface; nothing when none has written one."""
    path = f"{FOLDER}/{interface}.json"
    try:
        text = _read(path)
        return None if text is None else parse(text)
    except (OSError, AgentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AgentError(
            f"{path}: not a status of the agent: {reason}: remove it and restart peer-agent@{interface}"
        ) from None


def _read(path: str) -> bytes | None:
    try:
        # A pipe in its place must not keep us waiting.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise AgentError("not a file")
        text = stream.read(MAX_SIZE + 1)
    if len(text) > MAX_SIZE:
        raise AgentError(f"larger than {MAX_SIZE} bytes")
    return text


def parse(text: bytes) -> AgentStatus:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise AgentError("not JSON") from None
    document = _a(dict, document, "the whole")
    paths = {}
    for number, peer in enumerate(_field(document, "peers", list)):
        where = f"peers[{number}]"
        told = _path(_a(dict, peer, where), where)
        for address in _field(peer, "addresses", list, where):
            paths[_text(address, f"{where}.addresses")] = told
    relays = [_a(dict, relay, "relays") for relay in _field(document, "relays", list)]
    return AgentStatus(
        updated=_number(document, "updated"),
        problems=tuple(_text(problem, "problems") for problem in _field(document, "problems", list)),
        fallbacks=frozenset(
            _text(relay.get("name"), "relays") for relay in relays if _field(relay, "fallback", bool, "relays")
        ),
        paths=paths,
        why_not=_text(document.get("why_not", ""), "why_not"),
        why_not_text=_text(document.get("why_not_text", ""), "why_not_text"),
    )


def _path(peer: dict, where: str) -> AgentPath:
    path = _text(peer.get("path"), f"{where}.path")
    if path not in PATHS:
        raise AgentError(f"{where}.path: {path!r} is not one of {', '.join(PATHS)}")
    return AgentPath(
        path=path,
        via=_text(peer.get("via"), f"{where}.via"),
        since=_number(peer, "since", where),
        why_not=_text(peer.get("why_not"), f"{where}.why_not"),
        why_not_text=_text(peer.get("why_not_text"), f"{where}.why_not_text"),
    )


def _a(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, kind):
        raise AgentError(f"{where}: not a {kind.__name__}")
    return value


def _field(document: dict, key: str, kind: type[T], where: str = "") -> T:
    return _a(kind, document.get(key), f"{where}.{key}" if where else key)


def _text(value: object, where: str) -> str:
    text = _a(str, value, where)
    if len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        raise AgentError(f"{where}: not a line of text")
    return text


def _number(document: dict, key: str, where: str = "") -> float:
    value = document.get(key)
    # Not a number (NaN) is in no range either.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e11:
        raise AgentError(f"{where}.{key}: not a number of seconds" if where else f"{key}: not a number of seconds")
    return float(value)
