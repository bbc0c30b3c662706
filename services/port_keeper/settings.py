# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from peer_common import toml_table
from peer_common.toml_table import A_NAME, A_PATH, A_PORT, Table, one_of
from port_mapping.mapping import Wanted

from port_keeper.lease import Mapping

DEFAULT_FILE = Path("/etc/peer-relay-ports/ports.toml")
METHODS = ("auto", "pcp", "nat-pmp", "upnp")
_MAPPING_KEYS = ("name", "protocol", "internal_port", "external_port", "family")


@dataclass(frozen=True)
class Settings:
    """The settings of the keeper."""

    file: Path
    method: str
    gateway: str  # "": the default gateway
    stun_server: str  # "": nobody is asked
    poll_seconds: float
    status_file: Path
    state_file: Path
    mappings: tuple[Mapping, ...]


def _some(entries: list[Any]) -> list[Any]:
    if not entries:
        raise ValueError(entries)
    return entries


def _address(value: str) -> str:
    if value:
        ip_address(value)
    return value


def _server(value: str) -> str:
    return toml_table.name(value) if value else value


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    content, _raw = toml_table.load(file, "role port_forward", "peer-relay-ports check")
    return _parse(content, file)


def _parse(content: dict[str, Any], file: Path) -> Settings:
    top = Table(file, "the file's", content, ("router", "keeper", "mapping"))
    router_keys = ("method", "gateway", "stun_server", "lease", "poll_seconds")
    router = Table(file, "[router]", content.get("router", {}), router_keys)
    keeper = Table(file, "[keeper]", content.get("keeper", {}), ("status_file", "state_file"))
    top.read("mapping", list, _some, "write at least one [[mapping]] table")
    lease = router.read("lease", int, one_of(range(2, 604801)), "seconds, from 2 to 604800 (a week)", 3600)
    return Settings(
        file=file,
        method=router.read("method", str, one_of(METHODS), f"one of {', '.join(METHODS)}", "auto"),
        gateway=router.read("gateway", str, _address, 'the router\'s address, or "" for the default gateway', ""),
        stun_server=router.read("stun_server", str, _server, '"HOST" or "HOST:PORT", or "" for none', ""),
        poll_seconds=router.read("poll_seconds", int, one_of(range(1, 61)), "seconds, from 1 to 60", 3),
        status_file=keeper.read("status_file", str, toml_table.path, A_PATH, "/run/peer-relay-ports/status.json"),
        state_file=keeper.read("state_file", str, toml_table.path, A_PATH, "/var/lib/peer-relay-ports/state.json"),
        mappings=_mappings(top.tables("mapping", _MAPPING_KEYS), lease),
    )


def _mappings(tables: list[Table], lease: int) -> tuple[Mapping, ...]:
    result: list[Mapping] = []
    for table in tables:
        mapping = _mapping(table, lease)
        wanted = mapping.wanted
        for other in result:
            if (other.name, other.wanted.family) == (mapping.name, wanted.family):
                raise table.error("name", mapping.name, "already the name of another mapping: give each its own")
            if (other.wanted.protocol, other.wanted.family) == (wanted.protocol, wanted.family):
                for field in ("external_port", "internal_port"):
                    port = getattr(wanted, field)
                    if getattr(other.wanted, field) == port:
                        raise table.error(field, port, f"already that of {other.name}: choose another")
        result.append(mapping)
    return tuple(result)


def _mapping(table: Table, lease: int) -> Mapping:
    name = table.read("name", str, toml_table.name, A_NAME)
    protocol = table.read("protocol", str, one_of(("udp", "tcp")), '"udp" or "tcp"', "udp")
    internal = table.read("internal_port", int, toml_table.port, A_PORT)
    external = table.read("external_port", int, toml_table.port, A_PORT, internal)
    family = table.read("family", int, one_of((4, 6)), "4, or 6 for a hole in the router's IPv6 firewall", 4)
    if family == 6 and external != internal:
        raise table.error("external_port", external, f"IPv6 ports are not translated: leave it out, or give {internal}")
    return Mapping(name, Wanted(internal, external, protocol, family, lease))
