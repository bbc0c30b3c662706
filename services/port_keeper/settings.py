# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: TOML in, checked settings out. Every error names the file, the key, the value and the cure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from port_mapping.mapping import Wanted

from port_keeper.held import Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04: python3-tomli
    import tomli as tomllib

DEFAULT_FILE = Path("/etc/peer-relay-ports/ports.toml")
METHODS = ("auto", "pcp", "nat-pmp", "upnp")
_REQUIRED = object()
_MAX_NAME = 64


class SettingsError(Exception):
    """The settings cannot be used; the message says where, what and how to mend it."""


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


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


class _Table:
    """One TOML table while it is being read: knows its keys and converts their values."""

    def __init__(self, file: Path, where: str, content: Any, known: tuple[str, ...]):
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: {where} is {_shown(content)}: write a table")
        self._file, self._where, self._content = file, where, content
        # First of all: a misspelt key would otherwise be reported as a missing one.
        for key in content.keys() - set(known):
            cure = f"unknown key: remove it or correct its name; known are {', '.join(known)}"
            raise self.error(key, content[key], cure)

    def error(self, key: str, value: Any, cure: str) -> SettingsError:
        """Return the error for one value."""
        return SettingsError(f"{self._file}: {self._where} {key} = {_shown(value)}: {cure}")

    def take(self, key: str, kind: type, check: Callable[[Any], bool], cure: str, default: Any = _REQUIRED) -> Any:
        """Return the value of a key."""
        if key not in self._content:
            if default is _REQUIRED:
                raise SettingsError(f"{self._file}: {self._where} {key} is missing: {cure}")
            return default
        value = self._content[key]
        # In Python a bool is an int; in TOML it is not.
        if not isinstance(value, kind) or isinstance(value, bool) or not check(value):
            raise self.error(key, value, cure)
        return value


def _is_port(value: int) -> bool:
    return 1 <= value <= 65535


def _is_name(value: str) -> bool:
    return 0 < len(value) <= _MAX_NAME and value.isprintable() and not any(c.isspace() for c in value)


def _is_path(value: str) -> bool:
    return value.startswith("/") and "\0" not in value


def _is_address(value: str) -> bool:
    try:
        return not value or bool(ip_address(value))
    except ValueError:
        return False


def _is_server(value: str) -> bool:
    return not value or _is_name(value)


def load(file: Path) -> Settings:
    """Read and check a settings file; raise SettingsError."""
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise SettingsError(
            f"{file}: {error.strerror}: create it (role port_forward does) or name another by --settings"
        ) from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of more digits than Python reads
        raise SettingsError(f"{file}: not TOML: {error}: correct the line, then run peer-relay-ports check") from error
    return _parse(content, file)


def _parse(content: dict[str, Any], file: Path) -> Settings:
    top = _Table(file, "the file's", content, ("router", "keeper", "mapping"))
    router_keys = ("method", "gateway", "stun_server", "lease", "poll_seconds")
    router = _Table(file, "[router]", content.get("router", {}), router_keys)
    keeper = _Table(file, "[keeper]", content.get("keeper", {}), ("status_file", "state_file"))
    entries = top.take("mapping", list, bool, "write at least one [[mapping]] table")
    lease = router.take("lease", int, range(2, 604801).__contains__, "seconds, from 2 to 604800 (a week)", 3600)
    return Settings(
        file=file,
        method=router.take("method", str, METHODS.__contains__, f"one of {', '.join(METHODS)}", "auto"),
        gateway=router.take("gateway", str, _is_address, 'the router\'s address, or "" for the default gateway', ""),
        stun_server=router.take("stun_server", str, _is_server, '"HOST" or "HOST:PORT", or "" for none', ""),
        poll_seconds=router.take("poll_seconds", int, range(1, 61).__contains__, "seconds, from 1 to 60", 3),
        status_file=Path(
            keeper.take("status_file", str, _is_path, "an absolute path", "/run/peer-relay-ports/status.json")
        ),
        state_file=Path(
            keeper.take("state_file", str, _is_path, "an absolute path", "/var/lib/peer-relay-ports/state.json")
        ),
        mappings=_mappings(file, entries, lease),
    )


def _mappings(file: Path, entries: list[Any], lease: int) -> tuple[Mapping, ...]:
    result: list[Mapping] = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"[[mapping]] {name if isinstance(name, str) else f'number {number}'}:"
        table = _Table(file, where, entry, ("name", "protocol", "internal_port", "external_port", "family"))
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


def _mapping(table: _Table, lease: int) -> Mapping:
    name = table.take("name", str, _is_name, "one word of at most 64 characters")
    protocol = table.take("protocol", str, ("udp", "tcp").__contains__, '"udp" or "tcp"', "udp")
    internal = table.take("internal_port", int, _is_port, "a port from 1 to 65535")
    external = table.take("external_port", int, _is_port, "a port from 1 to 65535", internal)
    family = table.take("family", int, (4, 6).__contains__, "4, or 6 for a hole in the router's IPv6 firewall", 4)
    if family == 6 and external != internal:
        raise table.error("external_port", external, f"IPv6 ports are not translated: leave it out, or give {internal}")
    return Mapping(name, Wanted(internal, external, protocol, family, lease))
