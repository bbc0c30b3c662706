# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the cure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from peer_agent.endpoints import Address, Network, read_address

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04: python3-tomli
    import tomli as tomllib

FOLDER = Path("/etc/peer-agent")
STATUS_FOLDER = Path("/run/peer-agent")
_MAX_NAME = 64
_REQUIRED = object()


class SettingsError(Exception):
    """The settings cannot be used; the message says where, what and how to mend it."""


class Place(NamedTuple):
    """An endpoint as it is written: a name or an address, and a port."""

    host: str
    port: int


@dataclass(frozen=True)
class Relay:
    """A relay that this device may use."""

    name: str
    public_key: str
    addresses: tuple[Address, ...]
    endpoints: tuple[Place, ...]  # likeliest first
    fallback_url: str  # "": it has none
    fallback_fingerprint: str  # "": its certificate is one of the system's authorities


@dataclass(frozen=True)
class Peer:
    """Another device."""

    name: str
    public_key: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Settings:
    """The settings of the agent of one interface."""

    file: Path
    interface: str
    addresses: tuple[Address, ...]  # of this device, inside the tunnel
    networks: tuple[Network, ...]  # what is inside the tunnel
    endpoints: tuple[Place, ...]  # where this device can be reached, beside what it finds out
    control_port: int
    directory_port: int
    status_file: Path
    relays: tuple[Relay, ...]
    peers: tuple[Peer, ...]
    sha256: str = field(default="", compare=False)  # of the file: two that differ may say the same


class _Table:
    """One TOML table while it is being read: knows its keys and converts their values."""

    def __init__(self, file: Path, where: str, content: Any, known: tuple[str, ...]):
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: {where} is {_short(content)}: write a table")
        self._file, self._where, self._content = file, where, content
        # First of all: a misspelt key would otherwise be reported as a missing one.
        for key in content.keys() - set(known):
            cure = f"unknown key: remove it or correct its name; known are {', '.join(known)}"
            raise self.error(key, content[key], cure)

    def error(self, key: str, value: Any, cure: str) -> SettingsError:
        """Return the error for one value."""
        return SettingsError(f"{self._file}: {self._where} {key} = {_short(value)}: {cure}")

    def take(self, key: str, kind: type, convert: Callable[[Any], Any], cure: str, default: Any = _REQUIRED) -> Any:
        """Return the converted value of a key; the conversion says no by ValueError."""
        if key not in self._content:
            if default is _REQUIRED:
                raise SettingsError(f"{self._file}: {self._where} {key} is missing: {cure}")
            return convert(default)
        value = self._content[key]
        # In Python a bool is an int; in TOML it is not.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, value, cure)
        try:
            return convert(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise self.error(key, value, cure) from error


def _short(value: object) -> str:
    """Return what to show of a value that may be anything, such as a number with more digits than Python prints."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number out of range"


def _interface(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", value):
        raise ValueError(value)
    return value


def _name(value: str) -> str:
    if not 0 < len(value) <= _MAX_NAME or not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError(value)
    return value


def _key(value: str) -> str:
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(value) from error
    if len(key) != 32 or base64.b64encode(key).decode() != value:
        raise ValueError(value)
    return value


def _addresses(values: list[str]) -> tuple[Address, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError("no list of addresses")
    return tuple(read_address(value) for value in values)


def _networks(values: list[str]) -> tuple[Network, ...]:
    if not values or not all(isinstance(value, str) and "%" not in value for value in values):
        raise ValueError("no list of networks")
    return tuple(ip_network(value) for value in values)


def _places(values: list[str]) -> tuple[Place, ...]:
    return tuple(_place(value) for value in values)


def _place(value: str) -> Place:
    parts = re.fullmatch(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})", value)
    if not parts:
        raise ValueError(value)
    return Place(parts[1] or str(read_address(parts[2])), _port(int(parts[3])))


def _some_places(values: list[str]) -> tuple[Place, ...]:
    if not values:
        raise ValueError(values)
    return _places(values)


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError("no port")
    return value


def _url(value: str) -> str:
    if value and not re.fullmatch(r"wss?://[!-.0-~]+(/[!-~]*)?", value):
        raise ValueError(value)
    return value


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if plain and not re.fullmatch("[0-9a-f]{64}", plain):
        raise ValueError(value)
    return plain


def _path(value: str) -> Path:
    path = Path(value)
    if not path.is_absolute() or not path.name or not value.isprintable():
        raise ValueError(value)
    return path


_AGENT_KEYS = (
    "interface",
    "addresses",
    "networks",
    "endpoints",
    "control_port",
    "directory_port",
    "status_file",
)
_RELAY_KEYS = ("name", "public_key", "addresses", "endpoints", "fallback_url", "fallback_fingerprint")
_PEER_KEYS = ("name", "public_key", "addresses")
_A_NAME = "one word of at most 64 characters"
_A_KEY = "32 bytes in base64, as `wg pubkey` prints them"
_OVERLAY = 'a list of overlay addresses, like ["10.77.0.2"]'
_ENDPOINTS = 'a list of "host:port"; an IPv6 address is in brackets'
_A_PORT = "a port from 1 to 65535"


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    try:
        raw = file.read_bytes()
        content = tomllib.loads(raw.decode())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}: create it (role peer does) or name another one") from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of more digits than Python reads
        raise SettingsError(f"{file}: not TOML: {error}: correct the line, then run peer-relay agent check") from error
    return replace(parse(content, file), sha256=hashlib.sha256(raw).hexdigest())


def parse(content: dict[str, Any], file: Path) -> Settings:
    """Check parsed TOML; raise SettingsError. `file` is only named in messages, except that it names the interface."""
    top = _Table(file, "the file's", content, ("agent", "relay", "peer"))
    agent = _Table(file, "[agent]", top.take("agent", dict, dict, "write an [agent] table"), _AGENT_KEYS)
    interface = agent.take("interface", str, _interface, "the name of a network interface", file.stem)
    settings = Settings(
        file=file,
        interface=interface,
        addresses=agent.take("addresses", list, _addresses, _OVERLAY),
        networks=agent.take("networks", list, _networks, 'a list of overlay networks, like ["10.77.0.0/16"]'),
        endpoints=agent.take("endpoints", list, _places, _ENDPOINTS, []),
        control_port=agent.take("control_port", int, _port, _A_PORT, 7078),
        directory_port=agent.take("directory_port", int, _port, _A_PORT, 7077),
        status_file=agent.take("status_file", str, _path, "an absolute path", str(STATUS_FOLDER / f"{interface}.json")),
        relays=tuple(_tables(file, top, "relay", _RELAY_KEYS, _relay)),
        peers=tuple(_tables(file, top, "peer", _PEER_KEYS, _peer)),
    )
    if not settings.relays:
        raise SettingsError(f"{file}: no [[relay]]: write one for each relay of the inventory")
    _refuse_doubles(settings)
    return settings


def _tables(file: Path, top: _Table, kind: str, keys: tuple[str, ...], read: Callable[[_Table], Any]) -> list[Any]:
    entries = top.take(kind, list, list, f"write [[{kind}]] tables", [])
    result = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        result.append(read(_Table(file, f"[[{kind}]] {name if isinstance(name, str) else number}:", entry, keys)))
    return result


def _relay(table: _Table) -> Relay:
    return Relay(
        name=table.take("name", str, _name, _A_NAME),
        public_key=table.take("public_key", str, _key, _A_KEY),
        addresses=table.take("addresses", list, _addresses, _OVERLAY),
        endpoints=table.take("endpoints", list, _some_places, f"{_ENDPOINTS}, at least one"),
        fallback_url=table.take("fallback_url", str, _url, 'like "wss://relay.example:443/", or "" for none', ""),
        fallback_fingerprint=table.take(
            "fallback_fingerprint", str, _fingerprint, 'the SHA-256 of the certificate, 64 hex digits, or ""', ""
        ),
    )


def _peer(table: _Table) -> Peer:
    return Peer(
        name=table.take("name", str, _name, _A_NAME),
        public_key=table.take("public_key", str, _key, _A_KEY),
        addresses=table.take("addresses", list, _addresses, _OVERLAY),
    )


def _refuse_doubles(settings: Settings) -> None:
    owners: dict[Any, str] = dict.fromkeys(settings.addresses, "this device")
    for entry in (*settings.relays, *settings.peers):
        for value in (entry.name, entry.public_key, *entry.addresses):
            if value in owners:
                raise SettingsError(
                    f"{settings.file}: {entry.name}: {value} is already that of {owners[value]}: give each its own"
                )
            owners[value] = entry.name
