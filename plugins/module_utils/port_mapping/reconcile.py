# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring one mapping to a wanted state, and tell what that changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from .address import same_host
from .leases import LeaseFile, RecordedLease
from .mapping import Client, Conflict, Granted, HolderUnknown, Life, Wanted


@dataclass(frozen=True)
class Outcome:
    """The change; `before` and `after` are for people."""

    changed: bool
    before: dict[str, str]
    after: dict[str, str]
    granted: Granted | None = None


class Reconciler:
    """One mapping at one router. A dry run asks, but changes nothing."""

    def __init__(self, client: Client, wanted: Wanted, leases: LeaseFile, dry_run: bool):
        self._client = client
        self._leases = leases
        self._lease = leases.get(wanted)
        self._wanted = wanted
        self._dry_run = dry_run
        self._life: Life = client.look()
        self._now = time.time()

    def present(self, overwrite: bool) -> Outcome:
        mine, holder = self._ask(self._wanted)
        if holder and not mine and not overwrite:
            raise Conflict(
                f"the router {self._client.gateway} maps external port {self._wanted.external_port}/"
                f"{self._wanted.protocol} to {holder}: choose another external_port, or set overwrite: true"
            )
        moved = self._moved()
        if mine:
            before = self._describe(self._wanted)
        elif moved:
            before = self._describe(moved)
        else:
            before = self._describe(self._wanted, holder) if holder else {}
        after = self._describe(self._wanted)
        if self._dry_run:
            granted = Granted(self._external_address(), self._wanted.external_port, self._wanted.lease)
        else:
            if holder and not mine:
                self._client.remove(self._wanted)
            if moved:
                self._client.unmap(moved)
            granted = self._client.map(self._wanted)
            self._leases.put(self._wanted, RecordedLease.of(self._client, granted, self._life, self._now))
        return Outcome(not mine or bool(moved), before, after, granted)

    def absent(self) -> Outcome:
        wanted = self._moved() or self._wanted
        mine, _holder = self._ask(wanted)
        if not self._dry_run:
            self._client.unmap(wanted)  # also what seems not to be there: the lease file may be lost
            self._leases.drop(wanted)
        return Outcome(mine, self._describe(wanted) if mine else {}, {})

    def _ask(self, wanted: Wanted) -> tuple[bool, str]:
        """Return whether the mapping is there, and whose the external port is as far as the router says."""
        try:
            entry = self._client.holder(wanted)
        except HolderUnknown:
            lease = self._lease
            return bool(lease and lease.external_port == wanted.external_port and self._is_valid(lease)), ""
        if entry is None:
            return False, ""
        mine = same_host(entry.internal_address, self._client.local_address)
        holder = _join(entry.internal_address, entry.internal_port)
        return mine and entry.internal_port == wanted.internal_port, holder

    def _moved(self) -> Wanted | None:
        """The mapping of the same internal port that lies on another external port."""
        lease = self._lease
        if lease and lease.external_port != self._wanted.external_port and self._is_valid(lease):
            return replace(self._wanted, external_port=lease.external_port)
        return None

    def _is_valid(self, lease: RecordedLease) -> bool:
        return lease.is_at(self._client, self._life, self._now)

    def _external_address(self) -> str:
        known = self._lease.external_address if self._lease and self._is_valid(self._lease) else ""
        return self._life.external_address or known

    def _describe(self, wanted: Wanted, internal: str = "") -> dict[str, str]:
        return {
            "external": f"port {wanted.external_port}/{wanted.protocol} of the router {self._client.gateway}",
            "internal": internal or _join(self._client.local_address, wanted.internal_port),
        }


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
