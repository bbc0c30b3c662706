# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A settings file: TOML in, checked values out. Every error names the file, the key, the value and the fix."""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04: python3-tomli
    import tomli as tomllib

KEY_SIZE = 32  # bytes of a WireGuard key
MAX_NAME = 64
MAX_SHOWN = 80  # characters of a value
A_NAME = f"one word of at most {MAX_NAME} characters"
A_KEY = "32 bytes in base64, as `wg pubkey` prints them"
A_PORT = "a port from 1 to 65535"
A_PATH = "an absolute path"
_REQUIRED = object()


class SettingsError(Exception):
    """The settings cannot be used; the message says where, what and how to fix it."""


def load(file: Path, maker: str, checker: str) -> tuple[dict[str, Any], bytes]:
    """Return the file's content, parsed and as it is; raise SettingsError.

    `maker` is who writes such a file, `checker` the command that checks it.
    """
    try:
        raw = file.read_bytes()
        return tomllib.loads(raw.decode()), raw
    except OSError as error:
        raise SettingsError(
            f"{file}: {error.strerror}: create it ({maker} does) or name another by --settings"
        ) from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of more digits than Python reads
        raise SettingsError(f"{file}: not TOML: {error}: correct the line, then run {checker}") from error


class Table:
    """One TOML table while it is being read: knows its keys and converts their values."""

    def __init__(self, file: Path, where: str, content: Any, known: tuple[str, ...]):
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: {where} is {shown(content)}: write a table")
        self._file, self._where, self._content = file, where, content
        # First of all: a misspelt key would otherwise be reported as a missing one.
        for key in content.keys() - set(known):
            fix = f"unknown key: remove it or correct its name; known are {', '.join(known)}"
            raise self.error(key, content[key], fix)

    def error(self, key: str, value: Any, fix: str) -> SettingsError:
        """Return the error for one value."""
        return SettingsError(f"{self._file}: {self._where} {key} = {shown(value)}: {fix}")

    def read(
        self, key: str, kind: type | tuple[type, ...], convert: Callable[[Any], Any], fix: str, default: Any = _REQUIRED
    ) -> Any:
        """Return the converted value of a key; the conversion says no by ValueError."""
        if key not in self._content:
            if default is _REQUIRED:
                raise SettingsError(f"{self._file}: {self._where} {key} is missing: {fix}")
            return convert(default)
        value = self._content[key]
        # In Python a bool is an int; in TOML it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, value, fix)
        try:
            return convert(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise self.error(key, value, fix) from error

    def tables(self, kind: str, known: tuple[str, ...]) -> list[Table]:
        """Return the tables [[kind]] within this one, which errors call by their name, or by their number."""
        entries = self.read(kind, list, list, f"write [[{kind}]] tables", [])
        return [
            Table(self._file, f"[[{kind}]] {_label(entry) or f'number {number}'}:", entry, known)
            for number, entry in enumerate(entries, 1)
        ]


def _label(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def shown(value: object) -> str:
    """Return what to show of a value that may be anything, such as a number with more digits than Python prints."""
    try:
        return f"{value!r:.{MAX_SHOWN}}"
    except ValueError:
        return "a number of thousands of digits"


# --- conversions: each returns the value, or raises ValueError --------------------------------------------------------


def one_of(allowed: Container[Any]) -> Callable[[Any], Any]:
    """Make the conversion that lets only these values pass: a tuple of words, or a range."""

    def convert(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(value)
        return value

    return convert


def port(value: int) -> int:
    """A port of UDP or TCP."""
    if not 1 <= value <= 65535:
        raise ValueError(value)
    return value


def name(value: str) -> str:
    """One word, which can be shown."""
    if not 0 < len(value) <= MAX_NAME or not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError(value)
    return value


def path(value: str) -> Path:
    """An absolute path of a file."""
    result = Path(value)
    if not result.is_absolute() or not result.name or not value.isprintable():
        raise ValueError(value)
    return result


def text(value: Any) -> str:
    """An element of a list that is to hold text."""
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def key(value: str) -> bytes:
    """The 32 bytes of a key in base64, as `wg` writes it."""
    try:
        result = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(result) != KEY_SIZE or base64.b64encode(result).decode() != value:
        raise ValueError(f"{len(result)} bytes instead of 32" if len(result) != KEY_SIZE else "not canonical base64")
    if not any(result):
        raise ValueError("only zeros, which is no key")
    return result
