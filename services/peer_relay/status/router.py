# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router in front of this host, as the keeper of its ports (role port_forward) tells of it in a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from peer_common import files

KEEPER = Path("/etc/peer-relay-ports/ports.toml")  # is there where a keeper is to run
_MAX_SIZE = 1 << 18
_MAX_TEXT = 2000
_MAX_LABEL = 100
_MAX_LIST = 256
_STALE = 60.0  # seconds; it is written six times as often
_ZONE = re.compile(r"%[\w.@-]{1,15}", re.ASCII)  # the name of an interface of this host
_FIX = "see systemctl status peer-relay-ports on the relay"


class EdgeError(Exception):
    """The file does not hold what a keeper writes."""


def parse(data: bytes) -> dict[str, Any]:
    """Return the document with what is known of it, and nothing else; raise EdgeError."""
    try:
        return _table(_DOCUMENT)(_UNTOLD | json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise EdgeError(f"{type(error).__name__}: {error}"[:_MAX_TEXT]) from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError(f"{value!r:.100} is no line of text")
    return value


def _address(value: Any) -> str:
    """Return the address as its bytes are written, or ""; a scope id can be any text and is refused."""
    if value == "":
        return ""
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"{value!r:.100} is no address")
    return str(ip_address(value))


def _gateway(value: Any) -> str:
    """Return a router's address, which is told with its zone where it is link-local."""
    literal, percent, zone = _text(value).partition("%")
    if percent and not _ZONE.fullmatch(percent + zone):
        raise ValueError(f"{value!r:.100} is no address")
    return _address(literal) + percent + zone


def _label(value: Any) -> str:
    """What becomes a label of the metrics, of which a monitoring system keeps each value."""
    if len(_text(value)) > _MAX_LABEL:
        raise ValueError(f"{value!r:.100} is too long")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.100} is no number")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r:.100} is no count")
    return value


def _maybe(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else kind(value)


def _list(kind: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > _MAX_LIST:
            raise ValueError(f"{value!r:.100} is no list, or a long one")
        return [kind(item) for item in value]

    return convert


def _table(kinds: dict[str, Callable[[Any], Any]]) -> Callable[[Any], dict[str, Any]]:
    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.100} is no table")
        return {key: kind(value[key]) for key, kind in kinds.items()}

    return convert


_MAPPING = {
    "name": _label,
    "protocol": _text,
    "family": _count,
    "internal_port": _count,
    "external_port": _count,
    "external_address": _address,
    "state": _text,
    "lease_seconds": _count,
    "expires": _maybe(_number),
    "renewals": _count,
    "restores": _count,
    "problem": _maybe(_text),
}
_DOCUMENT = {
    "updated": _number,
    "router": _maybe(_table({"address": _gateway, "method": _text})),
    "router_model": _text,
    "router_oddities": _list(_text),
    "external_address": _address,
    "seen_address": _address,
    "address_since": _maybe(_number),
    "address_changes": _count,
    "nat": _label,
    "explanation": _text,
    "mappings": _list(_table(_MAPPING)),
    "problems": _list(_text),
}
_UNTOLD = {"router_model": "", "router_oddities": []}  # by keepers up to 1.2


def read(file: Path, wall: float) -> tuple[dict[str, Any] | None, str | None]:
    """Return the document, None where there is none, and what is wrong with it; `wall` is the Unix time."""
    try:
        document = parse(files.read(file, _MAX_SIZE))
    except FileNotFoundError:
        return None, f"the keeper of the router's ports does not run: {_FIX}" if KEEPER.exists() else None
    except (OSError, ValueError, EdgeError) as error:
        return None, f"{file}: {error.strerror if isinstance(error, OSError) else error}: {_FIX}"
    age, since = _age(wall, document["updated"]), document["address_since"]
    document |= {"age_seconds": age, "address_age_seconds": None if since is None else _age(wall, since)}
    if age > _STALE:
        return document, f"the keeper of the router's ports has told nothing for {age:.0f} s: {_FIX}"
    return document, None


def _age(wall: float, then: float) -> float:
    return max(0.0, round(wall - then, 1))
