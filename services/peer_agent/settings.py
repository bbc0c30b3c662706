# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the fix."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from peer_common import toml_table
from peer_common.toml_table import A_KEY, A_NAME, A_PATH, A_PORT, SettingsError, Table

from peer_agent.endpoints import Address, Network, read_address

FOLDER = Path("/etc/peer-agent")
STATUS_FOLDER = Path("/run/peer-agent")


class HostPort(NamedTuple):
    """An endpoint as it is written: a name or an address, and a port."""

    host: str
    port: int


@dataclass(frozen=True)
class Relay:
    """A relay that this device may use."""

    name: str
    public_key: str
    addresses: tuple[Address, ...]
    endpoints: tuple[HostPort, ...]  # likeliest first
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
    endpoints: tuple[HostPort, ...]  # where this device can be reached, beside what it finds out
    control_port: int
    directory_port: int
    status_file: Path
    relays: tuple[Relay, ...]
    peers: tuple[Peer, ...]
    sha256: str = field(default="", compare=False)  # of the file: two that differ may say the same


def _interface(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", value):
        raise ValueError(value)
    return value


def _key(value: str) -> str:
    toml_table.key(value)
    return value


def _addresses(values: list[str]) -> tuple[Address, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError("no list of addresses")
    return tuple(read_address(value) for value in values)


def _networks(values: list[str]) -> tuple[Network, ...]:
    if not values or not all(isinstance(value, str) and "%" not in value for value in values):
        raise ValueError("no list of networks")
    return tuple(ip_network(value) for value in values)


def _host_ports(values: list[str]) -> tuple[HostPort, ...]:
    return tuple(_host_port(value) for value in values)


def _host_port(value: str) -> HostPort:
    parts = re.fullmatch(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})", value)
    if not parts:
        raise ValueError(value)
    return HostPort(parts[1] or str(read_address(parts[2])), toml_table.port(int(parts[3])))


def _some_host_ports(values: list[str]) -> tuple[HostPort, ...]:
    if not values:
        raise ValueError(values)
    return _host_ports(values)


def _url(value: str) -> str:
    if value and not re.fullmatch(r"wss?://[!-.0-~]+(/[!-~]*)?", value):
        raise ValueError(value)
    return value


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if plain and not re.fullmatch("[0-9a-f]{64}", plain):
        raise ValueError(value)
    return plain


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
_OVERLAY = 'a list of overlay addresses, like ["10.77.0.2"]'
_ENDPOINTS = 'a list of "host:port"; an IPv6 address is in brackets'


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    content, raw = toml_table.load(file, "role peer", "peer-relay agent check")
    return replace(parse(content, file), sha256=hashlib.sha256(raw).hexdigest())


def parse(content: dict[str, Any], file: Path) -> Settings:
    """Check parsed TOML; raise SettingsError. `file` is only named in messages, except that it names the interface."""
    top = Table(file, "the file's", content, ("agent", "relay", "peer"))
    agent = Table(file, "[agent]", top.read("agent", dict, dict, "write an [agent] table"), _AGENT_KEYS)
    interface = agent.read("interface", str, _interface, "the name of a network interface", file.stem)
    settings = Settings(
        file=file,
        interface=interface,
        addresses=agent.read("addresses", list, _addresses, _OVERLAY),
        networks=agent.read("networks", list, _networks, 'a list of overlay networks, like ["10.77.0.0/16"]'),
        endpoints=agent.read("endpoints", list, _host_ports, _ENDPOINTS, []),
        control_port=agent.read("control_port", int, toml_table.port, A_PORT, 7078),
        directory_port=agent.read("directory_port", int, toml_table.port, A_PORT, 7077),
        status_file=agent.read("status_file", str, toml_table.path, A_PATH, str(STATUS_FOLDER / f"{interface}.json")),
        relays=tuple(map(_relay, top.tables("relay", _RELAY_KEYS))),
        peers=tuple(map(_peer, top.tables("peer", _PEER_KEYS))),
    )
    if not settings.relays:
        raise SettingsError(f"{file}: no [[relay]]: write one for each relay of the inventory")
    _refuse_doubles(settings)
    return settings


def _relay(table: Table) -> Relay:
    return Relay(
        name=table.read("name", str, toml_table.name, A_NAME),
        public_key=table.read("public_key", str, _key, A_KEY),
        addresses=table.read("addresses", list, _addresses, _OVERLAY),
        endpoints=table.read("endpoints", list, _some_host_ports, f"{_ENDPOINTS}, at least one"),
        fallback_url=table.read("fallback_url", str, _url, 'like "wss://relay.example:443/", or "" for none', ""),
        fallback_fingerprint=table.read(
            "fallback_fingerprint", str, _fingerprint, 'the SHA-256 of the certificate, 64 hex digits, or ""', ""
        ),
    )


def _peer(table: Table) -> Peer:
    return Peer(
        name=table.read("name", str, toml_table.name, A_NAME),
        public_key=table.read("public_key", str, _key, A_KEY),
        addresses=table.read("addresses", list, _addresses, _OVERLAY),
    )


def _refuse_doubles(settings: Settings) -> None:
    owners: dict[Any, str] = dict.fromkeys(settings.addresses, "this device")
    entries: tuple[Relay | Peer, ...] = (*settings.relays, *settings.peers)
    for entry in entries:
        for value in (entry.name, entry.public_key, *entry.addresses):
            if value in owners:
                raise SettingsError(
                    f"{settings.file}: {entry.name}: {value} is already that of {owners[value]}: give each its own"
                )
            owners[value] = entry.name
