# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the fix."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from datetime import datetime
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

from peer_common import endpoints, toml_table
from peer_common.toml_table import A_KEY, A_NAME, A_PATH, SettingsError, Table

from peer_relay.addresses import pack
from peer_relay.core.device_settings import DeviceSettings

DEFAULT_FILE = Path("/etc/peer-relay/relay.toml")
_MAX_SOCKET_PATH = 107  # unix(7)
_BYTES_PER_MBIT = 125_000.0
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")  # a name, or an address
# A relay is reached from anywhere, by either family.
_EVERYWHERE = ["0.0.0.0", "::"]  # noqa: S104

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


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


def _socket_path(value: str) -> Path:
    if len(value.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(value)
    return toml_table.path(value)


def _rate(value: int | float) -> float:
    if not 0 <= value < 1e9:
        raise ValueError(value)
    return value * _BYTES_PER_MBIT


def _unix_time(value: datetime | None) -> float:
    if value is None:
        return math.inf
    if value.tzinfo is None:
        raise ValueError(value)
    return value.timestamp()


def _literals(values: list[str]) -> tuple[str, ...]:
    hosts = tuple(str(ip_address(toml_table.text(value))) for value in values)
    if not hosts or len(set(hosts)) != len(hosts):
        raise ValueError(values)
    for host in hosts:
        pack(host, 0)  # a scope is given as a number
    return hosts


def _networks(values: list[str]) -> tuple[Network, ...]:
    if not values:
        raise ValueError(values)
    return tuple(ip_network(toml_table.text(value)) for value in values)


def _addresses(values: list[str]) -> tuple[Address, ...]:
    if not values:
        raise ValueError(values)
    if any("%" in toml_table.text(value) for value in values):  # a scope means nothing in the overlay
        raise ValueError(values)
    return tuple(ip_address(value) for value in values)


def _groups(values: list[str]) -> frozenset[str]:
    if not values:
        raise ValueError(values)
    return frozenset(toml_table.name(toml_table.text(value)) for value in values)


def _host_port(value: str) -> tuple[str, int] | None:
    if not value:
        return None
    # Up to 1.2 an IPv6 address needed no brackets here: an inventory that worked goes on working.
    host, _, port = value.rpartition(":")
    host = host.strip("[]")
    address, number = endpoints.literal(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return str(address), number


def _ports(values: list[int]) -> frozenset[int]:
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise ValueError(values)
    return frozenset(map(toml_table.port, values))


def _endpoint(value: str) -> str:
    if value and not _HOST.fullmatch(endpoints.split(value)[0]):
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
_A_TIME = "a time with its zone, like 2026-12-31T18:00:00+01:00"
_DEVICE_KEYS = ("name", "public_key", "addresses", "groups", "rate_limit_mbit", "expires")


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    content, _raw = toml_table.load(file, "role relay", "peer-relay check")
    return parse(content, file)


def parse(content: dict[str, Any], file: Path) -> Settings:
    """Check parsed TOML; raise SettingsError. `file` is only named in messages."""
    top = Table(file, "the file's", content, ("relay", "device"))
    relay = Table(file, "[relay]", top.read("relay", dict, dict, "write a [relay] table"), _RELAY_KEYS)

    name = relay.read("name", str, toml_table.name, A_NAME, "relay")
    port = relay.read("listen_port", int, toml_table.port, "a UDP port from 1 to 65535, for example 40000")
    listen = relay.read("listen_addresses", list, _literals, "a list of different IPv4 or IPv6 literals", _EVERYWHERE)
    key_file = relay.read("private_key_file", str, toml_table.path, A_PATH, "/etc/peer-relay/private.key")
    networks = relay.read("networks", list, _networks, 'a list of networks without host bits, like ["10.77.0.0/16"]')
    addresses = relay.read("addresses", list, _addresses, 'a list of overlay addresses, like ["10.77.0.1"]')
    for address in addresses:
        _inside(relay, address, networks)
    state_file = relay.read("state_file", str, toml_table.path, A_PATH, "/var/lib/peer-relay/state.json")
    status = relay.read(
        "status_socket", str, _socket_path, "an absolute path of at most 107 bytes", "/run/peer-relay/status.sock"
    )
    metrics = relay.read(
        "metrics_listen", str, _host_port, 'an address and a port, like "[::1]:9586", or "" for none', ""
    )
    endpoint = relay.read(
        "public_endpoint", str, _endpoint, 'where devices reach the relay, like "192.0.2.1:40000"', ""
    )
    ports = relay.read("relay_ports", list, _ports, "a list of the UDP ports of all relays, like [40000, 41000]", [])
    seen_at = [endpoints.split(endpoint)[1]] if endpoint else []
    edge = relay.read("edge_status_file", str, toml_table.path, A_PATH, "/run/peer-relay-ports/status.json")
    plane = relay.read("data_plane", str, toml_table.one_of(DATA_PLANES), f"one of {', '.join(DATA_PLANES)}", "auto")
    bpf = relay.read("bpf_directory", str, toml_table.path, A_PATH, "/run/peer-relay-bpf")
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
        devices=_devices(top.tables("device", _DEVICE_KEYS), networks, frozenset(addresses), name),
    )


def _inside(table: Table, address: Address, networks: tuple[Network, ...]) -> None:
    if not any(address in network for network in networks):
        names = ", ".join(map(str, networks))
        raise table.error("addresses", str(address), f"outside the networks {names}: choose one inside")


def _devices(
    tables: list[Table], networks: tuple[Network, ...], relay: frozenset[Address], relay_name: str
) -> tuple[DeviceSettings, ...]:
    result = []
    names: dict[str, str] = {relay_name: "the relay"}
    keys: dict[bytes, str] = {}
    owners: dict[Address, str] = dict.fromkeys(relay, "the relay")
    for table in tables:
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


def _device(table: Table, networks: tuple[Network, ...]) -> DeviceSettings:
    device = DeviceSettings(
        name=table.read("name", str, toml_table.name, A_NAME),
        public_key=table.read("public_key", str, toml_table.key, A_KEY),
        addresses=table.read("addresses", list, _addresses, 'a list of overlay addresses, like ["10.77.0.2"]'),
        groups=table.read("groups", list, _groups, "a list of group names, at least one", ["default"]),
        rate_limit=table.read("rate_limit_mbit", (int, float), _rate, "Mbit/s, 0 for no limit", 0),
        expires=table.read(
            "expires", datetime, _unix_time, "a time with its zone, like 2026-12-31T18:00:00+01:00", None
        ),
    )
    for address in device.addresses:
        _inside(table, address, networks)
    return device


def read_private_key(file: Path) -> bytes:
    """Return the 32 bytes of a private key file; raise SettingsError without ever showing its content."""
    try:
        return toml_table.key(file.read_text(encoding="ascii").strip())
    except OSError as error:
        fix = (
            f"peer-relay keygen {file} makes one"
            if isinstance(error, FileNotFoundError)
            else "it must be readable by the service's user"
        )
        raise SettingsError(f"{file}: private key: {error.strerror}: {fix}") from error
    except ValueError as error:
        # A UnicodeDecodeError would show the file's bytes.
        reason = "not text" if isinstance(error, UnicodeDecodeError) else error
        raise SettingsError(
            f"{file}: private key: {reason}: put the right key back, or remove it and run peer-relay keygen {file}"
        ) from None
