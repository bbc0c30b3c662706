# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a restart: which mappings the router may have, and since when it has its external address.

A mapping that is taken off the settings while the keeper does not run would else stay open: until its lease ends, which
some routers never let happen. A state file that cannot be used costs no more than that.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from peer_common import files
from port_mapping.address import canonical_address
from port_mapping.mapping import Wanted

from port_keeper.lease import Key, key

log = logging.getLogger("port_keeper")

_MAX_SIZE = 1 << 20
_MAX_MAPPINGS = 256
_KEYS = range(1, 65536)


class Address(NamedTuple):
    """An external address as the last run knew it."""

    text: str = ""
    since: float = 0.0  # Unix time
    changes: int = 0


class State(NamedTuple):
    """The content of the file."""

    mappings: tuple[Wanted, ...] = ()
    addresses: dict[int, Address] = {}  # by address family


def write(file: Path, mappings: Iterable[Wanted], addresses: dict[int, Address]) -> None:
    """Replace the file; raise OSError."""
    content = {
        "mappings": sorted({key(wanted) for wanted in mappings}),
        "addresses": {str(family): address for family, address in sorted(addresses.items())},
    }
    files.replace(file, [json.dumps(content)], 0o600)


def load(file: Path) -> Any:
    """Return what a JSON file of the service's holds; raise OSError or ValueError."""
    return json.loads(files.read(file, _MAX_SIZE))


def read(file: Path) -> State:
    """Return what the file says, as far as it makes sense."""
    try:
        content = load(file)
        mappings = tuple(_wanted(Key(*entry)) for entry in content["mappings"])
        addresses = {int(family): _address(*entry) for family, entry in content["addresses"].items()}
        if len(mappings) > _MAX_MAPPINGS:
            raise ValueError(f"{len(mappings)} mappings, more than {_MAX_MAPPINGS}")
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        log.warning("%s: %.200s: refused; ports that were taken off the settings meanwhile may stay open", file, error)
        return State()
    return State(mappings, addresses)


def _wanted(entry: Key) -> Wanted:
    if entry.family not in (4, 6) or entry.protocol not in ("udp", "tcp"):
        raise ValueError(entry)
    if type(entry.internal_port) is not int or type(entry.external_port) is not int:
        raise ValueError(entry)
    if entry.internal_port not in _KEYS or entry.external_port not in _KEYS:
        raise ValueError(entry)
    return Wanted(entry.internal_port, entry.external_port, entry.protocol, entry.family)


def _address(text: Any, since: Any, changes: Any) -> Address:
    if not isinstance(text, str) or not math.isfinite(since) or type(changes) is not int or changes < 0:
        raise ValueError(text, since, changes)
    return Address(canonical_address(text) if text else "", float(since), changes)
