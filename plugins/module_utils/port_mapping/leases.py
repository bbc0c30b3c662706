# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What routers granted to this host, on disk: PCP, NAT-PMP and pinholes of UPnP cannot be asked for it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .address import canonical_address
from .lifetime import restarted
from .mapping import Client, Granted, Life, Wanted


@dataclass(frozen=True)
class RecordedLease:
    """A mapping that a router granted."""

    method: str
    gateway: str
    local_address: str
    external_address: str
    external_port: int
    seconds: int  # 0: until it is deleted
    at: float  # the time of day when it was granted
    life: Life  # the router's, then

    @classmethod
    def of(cls, client: Client, granted: Granted, life: Life, now: float) -> RecordedLease:
        return cls(
            method=client.method,
            gateway=client.gateway,
            local_address=client.local_address,
            external_address=granted.external_address,
            external_port=granted.external_port,
            seconds=granted.lease,
            at=now,
            life=life,
        )

    def runs(self, now: float) -> bool:
        return not self.seconds or self.at <= now < self.at + self.seconds

    def is_at(self, client: Client, life: Life, now: float) -> bool:
        """Whether this router, as it answers now, still has the mapping."""
        return (
            (self.method, self.gateway, self.local_address) == (client.method, client.gateway, client.local_address)
            and self.runs(now)
            and not restarted(self.life, self.at, life, now)
        )


class LeaseFile:
    """The leases by mapping. A file that is lost or broken counts as empty: a mapping is then made once more."""

    def __init__(self, path: str):
        self._path = Path(path)
        self._leases = self._read()

    def get(self, wanted: Wanted) -> RecordedLease | None:
        return self._leases.get(_key(wanted))

    def put(self, wanted: Wanted, lease: RecordedLease) -> None:
        self._leases[_key(wanted)] = lease
        self._write()

    def drop(self, wanted: Wanted) -> None:
        if self._leases.pop(_key(wanted), None):
            self._write()

    def _read(self) -> dict[str, RecordedLease]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return {key: _lease(entry) for key, entry in entries.items()}
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def _write(self) -> None:
        text = json.dumps({key: asdict(lease) for key, lease in sorted(self._leases.items())}, indent=2)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
        temporary.replace(self._path)


def _lease(entry: dict[str, Any]) -> RecordedLease:
    """Read an entry; raise ValueError, TypeError or KeyError. The file lies in the keeper's directory, not root's."""
    lease = RecordedLease(**{**entry, "life": Life(**entry["life"])})
    for address in filter(None, (lease.external_address, lease.life.external_address)):
        canonical_address(address)
    numbers = (lease.external_port, lease.seconds, lease.life.epoch or 0, lease.life.boot_id or 0)
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not whole or any(not 0 <= number < 1 << 32 for number in numbers) or not math.isfinite(lease.at):
        raise ValueError(entry)
    return lease


def _key(wanted: Wanted) -> str:
    return f"{wanted.protocol}/{wanted.family}/{wanted.internal_port}"
