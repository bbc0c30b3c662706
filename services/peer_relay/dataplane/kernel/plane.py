# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel data plane beside the service: its table follows the switchboard, the switchboard hears what it counts.

The userspace plane is always there behind it. What has no entry arrives at the sockets, so whatever fails here costs
speed and no packet, as long as nothing is left in the table that is no longer true: then all of it goes.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from peer_relay.core.device import Binding, Device
from peer_relay.core.rate_limits import FairShares
from peer_relay.core.switchboard import Switchboard
from peer_relay.dataplane.kernel.entries import Entries
from peer_relay.dataplane.kernel.entry import FULL, Key, Refusal, Target
from peer_relay.dataplane.kernel.needs import Unavailable
from peer_relay.dataplane.kernel.next_hops import NextHops
from peer_relay.dataplane.kernel.route import Network
from peer_relay.dataplane.kernel.table import KernelTable

KERNEL, USERSPACE, AUTO = "kernel", "userspace", "auto"
FOLDER = "table"  # in the directory that the settings name
TABLE_SIZE = 65536  # entries: two or three for each direction of a pair; 12 MB of the kernel's memory
_COUNT_INTERVAL = 1.0
_COUNT_SHARE = 0.05  # of the time that reading the counts may take: a large table is read less often
_RESOLUTION = 10_000_000  # ns, of the kernel's record of when it last forwarded
_RENEW_INTERVAL = 30.0  # a path MTU that has grown again is announced by nobody
_RENEW_PAUSE, _RENEW_PAUSE_PER_HOP = 0.1, 0.0004  # between two rounds, however often the network changes
# Looks at the next hop to one address, a second and at once, because somebody says that packets are too large for it.
_LOOK_RATE, _LOOK_BURST, _LOOK_SHARES = 1.0, 4.0, 4096
_RETRY_INTERVAL = 60.0
_FAULT = "a fault of the relay's own: see its journal"


class _InUse(Container[Binding]):
    """The addresses that stand for a device now."""

    def __init__(self, bound: dict[bytes, Device]):
        self._bound = bound

    def __contains__(self, binding: object) -> bool:
        device = self._bound.get(binding.address) if isinstance(binding, Binding) else None
        return device is not None and device.binding == binding


class KernelPlane:
    """Lets the kernel forward what it can, while it can; `reason` says why it does not."""

    def __init__(
        self,
        switchboard: Switchboard,
        open_table: Callable[[Path, int], KernelTable] = KernelTable.open,
        open_network: Callable[[], Network] = Network,
    ):
        self._switchboard = switchboard
        self._open_table = open_table
        self._open_network = open_network
        self._resources = contextlib.ExitStack()  # what is open
        self._running = False
        self.mode, self._folder, self._port = USERSPACE, Path(), 0
        self.reason = ""
        self._changed = False  # the network
        self._count_due = self._renew_due = self._retry_due = 0.0
        self._renewed, self._counted_ns = 0.0, 0
        self._looks = FairShares(_LOOK_RATE, _LOOK_BURST, _LOOK_SHARES)

    # --- on and off ---------------------------------------------------------------------------------------------------

    def configure(self, mode: str, directory: Path, port: int, now: float) -> None:
        """Take over settings: start, stop, or go on."""
        folder = directory / FOLDER
        if self._running and folder != self._folder:
            self._end("the directory is another one")
        first, moved = self.mode == USERSPACE, port != self._port
        self.mode, self._port, self._folder = mode, port, folder
        if mode == USERSPACE:
            self._end("data_plane is userspace")
        elif not self._running:
            self._begin(now, revive=first)
        elif moved:
            self._attempt(now, self._adopt)

    def _begin(self, now: float, revive: bool = False) -> None:
        self._retry_due = now + _RETRY_INTERVAL
        try:
            with contextlib.ExitStack() as opened:
                self._table = opened.enter_context(contextlib.closing(self._open_table(self._folder, TABLE_SIZE)))
                self._network = opened.enter_context(contextlib.closing(self._open_network()))
                self._next_hops = NextHops(self._network)
                self._adopt(now if revive else None)
                self._resources = opened.pop_all()
        except (Unavailable, OSError) as error:
            self._end(str(error))
            return
        except Exception as error:
            self._end(f"{_FAULT} ({error!r:.200})")
            raise
        self._running, self.reason = True, ""
        self._count_due, self._renew_due = now + _COUNT_INTERVAL, now + _RENEW_INTERVAL

    def _adopt(self, revive: float | None = None) -> None:
        """Make the table what the switchboard wants, from what it holds."""
        found = self._table.read()
        self._entries = Entries(self._switchboard, self._port, self._next_hops)
        if revive is not None:
            self._entries.revive(found, revive)
        remove, put = self._entries.adopt(found)
        self._table.remove(remove)
        self._put(put)
        self._attach()
        self._counted_ns = time.monotonic_ns()

    def _end(self, reason: str) -> None:
        """Leave everything to userspace: what nobody keeps true must not forward."""
        self._running, self.reason = False, reason
        try:
            KernelTable.destroy_pinned(self._folder)
        except Exception as error:
            self.reason += f"; what it forwarded before could not be ended ({error}): peer-relay unload as root ends it"
        self._resources.close()

    def close(self) -> None:
        """Go, and let the kernel forward on."""
        self._resources.close()
        self._running = False

    def fileno(self) -> int:
        """Return the descriptor to poll, which tells that the network has changed; -1 for none."""
        return self._network.fileno() if self._running else -1

    # --- each turn ----------------------------------------------------------------------------------------------------

    def network_changed(self, now: float) -> None:
        """Look at the network again: the descriptor was readable."""
        if self._running:
            self._attempt(now, lambda: self._look_at_network(now))

    def _look_at_network(self, now: float) -> None:
        if self._network.changed():
            pause = _RENEW_PAUSE + _RENEW_PAUSE_PER_HOP * len(self._next_hops)
            self._renew_due = min(self._renew_due, max(now, self._renewed + pause))
        for address in self._network.narrowed():
            device = self._switchboard.bound.get(address)
            if device and device.binding and self._looks.consume(address, now):
                self._entries.moved(self._next_hops.look(device.binding))

    def turn(self, now: float) -> float:
        """Do what has become necessary. Return the time of the next call, if nothing happens before."""
        if self._running:
            self._attempt(now, lambda: self._turn(now))
        else:
            self._switchboard.moved.clear()
            self._switchboard.rerouted.clear()
            if self.mode != USERSPACE and now >= self._retry_due:
                self._begin(now)
        if not self._running:
            return float("inf") if self.mode == USERSPACE else self._retry_due
        return now if self._next_hops.busy else min(self._count_due, self._renew_due)

    def _attempt(self, now: float, action: Callable[[], None]) -> None:
        """Do something with the table, which is given up whatever is raised; a fault of the relay's own goes on up."""
        try:
            action()
        except Exception as error:
            self._retry_due = now + _RETRY_INTERVAL
            if isinstance(error, OSError):
                self._end(f"the kernel's table failed: {error}")
            else:
                self._end(f"{_FAULT} ({error!r:.200})")
                raise

    def _turn(self, now: float) -> None:
        if now >= self._renew_due:
            self._renewed, self._renew_due = now, now + _RENEW_INTERVAL
            self._next_hops.renew()
        if self._next_hops.busy:
            self._entries.moved(self._next_hops.step(_InUse(self._switchboard.bound)))
            if not self._next_hops.busy:
                self._attach()
        self._follow()
        if now >= self._count_due:
            self._count()
            took = time.monotonic_ns() - self._counted_ns
            self._count_due = now + max(_COUNT_INTERVAL, took / 1e9 / _COUNT_SHARE)

    def _follow(self) -> None:
        while self._switchboard.moved or self._switchboard.rerouted:
            change = self._entries.follow()
            for key, count in self._table.remove(change.remove).items():
                self._entries.count(change.remove[key], count)
            put = change.put
            if change.remove:
                put = self._entries.again("table_full") | put
            self._put(put)
            if self._next_hops.interfaces != self._attached:
                self._attach()

    def _put(self, entries: dict[Key, Target]) -> None:
        if not entries:
            return
        refused = self._table.put(list(entries.items()))
        self._entries.reject(
            {key: Refusal("table_full" if reason == FULL else "table", reason) for key, reason in refused.items()}
        )

    def _attach(self) -> None:
        refused = self._table.attach(self._next_hops.interfaces)
        self._entries.moved(self._next_hops.refuse(refused))
        self._attached = set(self._next_hops.interfaces)

    def count(self, now: float) -> None:
        """Tell the switchboard at once what the kernel has forwarded."""
        if self._running:
            self._attempt(now, self._count)

    def _count(self) -> None:
        since, self._counted_ns = self._counted_ns, time.monotonic_ns()
        flows = self._entries.flows
        for key, (_, count) in self._table.read(since - _RESOLUTION).items():
            if key in flows:
                self._entries.count(flows[key], count)

    # --- what it tells ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Return which plane forwards."""
        return KERNEL if self._running else USERSPACE

    def refusal(self, device: Device, peer: Device) -> str:
        """Return why the kernel does not forward what a device sends to a peer, "" if it does."""
        if not self._running:
            return self.reason
        refusal = self._entries.refusal(device, peer)
        return refusal.text if refusal else ""

    def document(self) -> dict[str, Any] | None:
        """Return the table's part of the status."""
        if not self._running:
            return None
        names = {interface.ifindex: interface.name for interface in self._network.interfaces()}
        refused = [*self._entries.refusals.values(), *self._entries.rejected.values()]
        return {
            "entries": len(self._entries.flows) - len(self._entries.rejected),
            "size": self._table.size,
            "interfaces": {names.get(index, str(index)): how for index, how in sorted(self._table.how.items())},
            "refusals": dict(sorted(Counter(refusal.name for refusal in refused).items())),
        }
