# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the cure."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Any

from peer_relay.addresses import pack
from peer_relay.device import DeviceSettings

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04: python3-tomli
    import tomli as tomllib

DEFAULT_FILE = Path("/etc/peer-relay/relay.toml")
_MAX_NAME = 64
_MAX_SOCKET_PATH = 107  # unix(7)
_BYTES_PER_MBIT = 125_000.0
_REQUIRED = object()
# A relay is reached from anywhere, by either family.
_EVERYWHERE = ["0.0.0.0", "::"]  # noqa: S104

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """The settings cannot be used; the message says where, what and how to mend it."""


@dataclass(frozen=True)
class Settings:
    """The settings of a relay. Rates in bytes a second, addresses and networks parsed, keys as 32 bytes."""

    file: Path
    name: str
    listen: tuple[tuple[str, int], ...]
    private_key_file: Path
    networks: tuple[Network, ...]
    addresses: frozenset[Address]
    state_file: Path
    status_socket: Path
    metrics_listen: tuple[str, int] | None
    public_endpoint: str
    relay_ports: frozenset[int]
    edge_status_file: Path
    data_plane: str
    bpf_directory: Path
    devices: tuple[DeviceSettings, ...]


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a base64 key as `wg` writes it; raise ValueError otherwise."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(key) != 32 or base64.b64encode(key).decode() != text:
        raise ValueError(f"{len(key)} bytes instead of 32" if len(key) != 32 else "not canonical base64")
    if not any(key):
        raise ValueError("only zeros, which is no key")
    return key


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


class _Table:
    """One TOML table while it is being read: knows its keys and converts their values."""

    def __init__(self, file: Path, where: str, content: Any, known: tuple[str, ...]):
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: {where} is {_shown(content)}: write a table, as in the example in the README")
        self._file, self._where, self._content = file, where, content
        # First of all: a misspelt key would otherwise be reported as a missing one.
        for key in content.keys() - set(known):
            cure = f"unknown key: remove it or correct its name; known are {', '.join(known)}"
            raise self.error(key, content[key], cure)

    def error(self, key: str, value: Any, cure: str) -> SettingsError:
        """Return the error for one value."""
        return SettingsError(f"{self._file}: {self._where} {key} = {_shown(value)}: {cure}")

    def take(self, key: str, kind: type, convert: Callable[[Any], Any], cure: str, default: Any = _REQUIRED) -> Any:
        """Return the converted value of a key; the conversion says no by ValueError."""
        if key not in self._content:
            if default is _REQUIRED:
                raise SettingsError(f"{self._file}: {self._where} {key} is missing: {cure}")
            return convert(default)
        value = self._content[key]
        # In Python a bool is an int; in TOML it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, value, cure)
        try:
            return convert(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise self.error(key, value, cure) from error


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError(value)
    return value


def _name(value: str) -> str:
    if not 0 < len(value) <= _MAX_NAME or not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError(value)
    return value


def _data_plane(value: str) -> str:
    if value not in DATA_PLANES:
        raise ValueError(value)
    return value


def _path(value: str) -> Path:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(value)
    return Path(value)


def _socket_path(value: str) -> Path:
    if len(value.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(value)
    return _path(value)


def _rate(value: int | float) -> float:
    if not 0 <= value < 1e9:
        raise ValueError(value)
    return value * _BYTES_PER_MBIT


def _literals(values: list[str]) -> tuple[str, ...]:
    hosts = tuple(str(ip_address(_string(value))) for value in values)
    if not hosts or len(set(hosts)) != len(hosts):
        raise ValueError(values)
    for host in hosts:
        pack(host, 0)  # a scope is given as a number
    return hosts


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _networks(values: list[str]) -> tuple[Network, ...]:
    if not values:
        raise ValueError(values)
    return tuple(ip_network(_string(value)) for value in values)


def _addresses(values: list[str]) -> tuple[Address, ...]:
    if not values:
        raise ValueError(values)
    if any("%" in _string(value) for value in values):  # a scope means nothing in the overlay
        raise ValueError(values)
    return tuple(ip_address(value) for value in values)


def _groups(values: list[str]) -> frozenset[str]:
    if not values:
        raise ValueError(values)
    return frozenset(_name(_string(value)) for value in values)


def _host_port(value: str) -> tuple[str, int] | None:
    if not value:
        return None
    host, _, port = value.rpartition(":")
    return str(ip_address(host.strip("[]"))), _port(int(port))


def _ports(values: list[int]) -> frozenset[int]:
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise ValueError(values)
    return frozenset(map(_port, values))


def _endpoint(value: str) -> str:
    parts = re.fullmatch(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", value)
    if value and not (parts and _port(int(parts[1]))):
        raise ValueError(value)
    return value


_RELAY_KEYS = (
    "name",
    "listen_port",
    "listen_addresses",
    "private_key_file",
    "networks",
    "addresses",
    "state_file",
    "status_socket",
    "metrics_listen",
    "public_endpoint",
    "relay_ports",
    "edge_status_file",
    "data_plane",
    "bpf_directory",
)
DATA_PLANES = ("auto", "userspace", "kernel")
_DEVICE_KEYS = ("name", "public_key", "addresses", "groups", "rate_limit_mbit")


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise SettingsError(
            f"{file}: {error.strerror}: create it (role relay does) or name another by --settings"
        ) from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of more digits than Python reads
        raise SettingsError(f"{file}: not TOML: {error}: correct the line, then run peer-relay check") from error
    return parse(content, file)


def parse(content: dict[str, Any], file: Path) -> Settings:
    """Check parsed TOML; raise SettingsError. `file` is only named in messages."""
    top = _Table(file, "the file's", content, ("relay", "device"))
    relay = _Table(file, "[relay]", top.take("relay", dict, dict, "write a [relay] table"), _RELAY_KEYS)
    devices = top.take("device", list, list, "write [[device]] tables", default=[])

    name = relay.take("name", str, _name, "one word of at most 64 characters", "relay")
    port = relay.take("listen_port", int, _port, "a UDP port from 1 to 65535, for example 40000")
    listen = relay.take("listen_addresses", list, _literals, "a list of different IPv4 or IPv6 literals", _EVERYWHERE)
    key_file = relay.take("private_key_file", str, _path, "an absolute path", "/etc/peer-relay/private.key")
    networks = relay.take("networks", list, _networks, 'a list of networks without host bits, like ["10.77.0.0/16"]')
    addresses = relay.take("addresses", list, _addresses, 'a list of overlay addresses, like ["10.77.0.1"]')
    for address in addresses:
        _inside(relay, address, networks)
    state_file = relay.take("state_file", str, _path, "an absolute path", "/var/lib/peer-relay/state.json")
    status = relay.take(
        "status_socket", str, _socket_path, "an absolute path of at most 107 bytes", "/run/peer-relay/status.sock"
    )
    metrics = relay.take(
        "metrics_listen", str, _host_port, 'an address and a port, like "127.0.0.1:9586", or "" for none', ""
    )
    endpoint = relay.take(
        "public_endpoint", str, _endpoint, 'where devices reach the relay, like "192.0.2.1:40000"', ""
    )
    ports = relay.take("relay_ports", list, _ports, "a list of the UDP ports of all relays, like [40000, 41000]", [])
    seen_at = [int(endpoint.rpartition(":")[2])] if endpoint else []
    edge = relay.take("edge_status_file", str, _path, "an absolute path", "/run/peer-relay-ports/status.json")
    plane = relay.take("data_plane", str, _data_plane, f"one of {', '.join(DATA_PLANES)}", "auto")
    bpf = relay.take("bpf_directory", str, _path, "an absolute path", "/run/peer-relay-bpf")
    return Settings(
        file=file,
        name=name,
        listen=tuple((host, port) for host in listen),
        private_key_file=key_file,
        networks=networks,
        addresses=frozenset(addresses),
        state_file=state_file,
        status_socket=status,
        metrics_listen=metrics,
        public_endpoint=endpoint,
        relay_ports=ports.union([port], seen_at),
        edge_status_file=edge,
        data_plane=plane,
        bpf_directory=bpf,
        devices=_devices(file, devices, networks, frozenset(addresses), name),
    )


def _inside(table: _Table, address: Address, networks: tuple[Network, ...]) -> None:
    if not any(address in network for network in networks):
        names = ", ".join(map(str, networks))
        raise table.error("addresses", str(address), f"outside the networks {names}: choose one inside")


def _devices(
    file: Path, entries: list[Any], networks: tuple[Network, ...], relay: frozenset[Address], relay_name: str
) -> tuple[DeviceSettings, ...]:
    result = []
    names: dict[str, str] = {relay_name: "the relay"}
    keys: dict[bytes, str] = {}
    owners: dict[Address, str] = dict.fromkeys(relay, "the relay")
    for number, entry in enumerate(entries, 1):
        label = entry.get("name") if isinstance(entry, dict) else None
        table = _Table(
            file, f"[[device]] {label if isinstance(label, str) else f'number {number}'}:", entry, _DEVICE_KEYS
        )
        device = _device(table, networks)
        if device.name in names:
            raise table.error(
                "name", device.name, f"already the name of {names[device.name]}: give each device its own"
            )
        if device.public_key in keys:
            shown = base64.b64encode(device.public_key).decode()
            raise table.error("public_key", shown, f"already the key of {keys[device.public_key]}: make one per device")
        for address in device.addresses:
            if address in owners:
                raise table.error("addresses", str(address), f"already an address of {owners[address]}: choose another")
            owners[address] = device.name
        names[device.name] = keys[device.public_key] = device.name
        result.append(device)
    return tuple(result)


def _device(table: _Table, networks: tuple[Network, ...]) -> DeviceSettings:
    device = DeviceSettings(
        name=table.take("name", str, _name, "one word of at most 64 characters"),
        public_key=table.take("public_key", str, decode_key, "32 bytes in base64, as `wg pubkey` prints them"),
        addresses=table.take("addresses", list, _addresses, 'a list of overlay addresses, like ["10.77.0.2"]'),
        groups=table.take("groups", list, _groups, "a list of group names, at least one", ["default"]),
        rate_limit=table.take("rate_limit_mbit", (int, float), _rate, "Mbit/s, 0 for no limit", 0),
    )
    for address in device.addresses:
        _inside(table, address, networks)
    return device


def read_private_key(file: Path) -> bytes:
    """Return the 32 bytes of a private key file; raise SettingsError without ever showing its content."""
    try:
        return decode_key(file.read_text(encoding="ascii").strip())
    except OSError as error:
        cure = (
            f"peer-relay keygen {file} makes one"
            if isinstance(error, FileNotFoundError)
            else "it must be readable by the service's user"
        )
        raise SettingsError(f"{file}: private key: {error.strerror}: {cure}") from error
    except ValueError as error:
        # A UnicodeDecodeError would show the file's bytes.
        reason = "not text" if isinstance(error, UnicodeDecodeError) else error
        raise SettingsError(
            f"{file}: private key: {reason}: put the right key back, or remove it and run peer-relay keygen {file}"
        ) from None
