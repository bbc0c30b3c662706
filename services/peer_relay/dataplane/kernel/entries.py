# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel is to forward, derived from the switchboard: no I/O, and no more work than what has changed.

Only routes that a response has confirmed get an entry. An initiation's sender index is everybody's word until then, and
forged ones would fill the table; a device sends its first packet under it only after the response, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from peer_relay import addresses
from peer_relay.core.device import Binding, Device, Pair
from peer_relay.core.switchboard import CONFIRMED_ROUTE, Switchboard
from peer_relay.dataplane.kernel.entry import Count, Key, NextHop, Refusal, Target

NO_SESSION = Refusal("no_session", "no session of the two yet")
_FAMILIES = Refusal("families", "one of the two is reached by IPv4, the other by IPv6")


class Flow:
    """The owner of an entry, where it leads, and what has been counted of it."""

    __slots__ = ("bytes", "device", "packets", "pair", "target")

    def __init__(self, device: Device, pair: Pair, target: Target):
        self.device = device
        self.pair = pair
        self.target = target
        self.packets = self.bytes = 0


class Change(NamedTuple):
    """What to remove from the table, and what to put there then."""

    remove: dict[Key, Flow]
    put: dict[Key, Target]


class Entries:
    """The entries that there should be. `next_hop` tells how a device is reached, or why the kernel cannot reach it."""

    def __init__(self, switchboard: Switchboard, port: int, next_hop: Callable[[Binding], NextHop | Refusal]):
        self.flows: dict[Key, Flow] = {}
        self.rejected: dict[Key, Refusal] = {}  # what the table did not take
        self.refusals: dict[tuple[Device, Device], Refusal] = {}
        self._switchboard = switchboard
        self._port = port
        self._next_hop = next_hop
        self._keys: dict[tuple[Device, Device], list[Key]] = {}
        self._senders: dict[Device, set[Device]] = {}  # who has routes toward a device
        # Whoever was there before this began looks new to it.
        switchboard.moved.update(switchboard.devices.values())

    # --- what should be there -----------------------------------------------------------------------------------------

    def follow(self) -> Change:
        """Take in what has changed in the switchboard since the last call."""
        changed = self._collect_changes()
        before: dict[Key, Flow] = {}
        for ends in changed:
            for key in self._keys.pop(ends, ()):
                before[key] = self.flows.pop(key)
            self.refusals.pop(ends, None)
        put: dict[Key, Target] = {}
        for device, peer in changed:
            for key, target in self._derive(device, peer).items():
                known = before.get(key)
                pair = device.pairs[peer]
                if known and known.device is device and known.pair is pair:
                    del before[key]
                    refused = self.rejected.pop(key, None)
                    if known.target != target or refused:
                        put[key] = known.target = target
                    self.flows[key] = known
                else:
                    put[key] = target
                    self.flows[key] = Flow(device, pair, target)
                self._keys.setdefault((device, peer), []).append(key)
        for key in before:
            self.rejected.pop(key, None)
        return Change(before, put)

    def _collect_changes(self) -> set[tuple[Device, Device]]:
        switchboard = self._switchboard
        pairs, moved = switchboard.rerouted, switchboard.moved
        switchboard.rerouted, switchboard.moved = set(), set()
        for device in moved:
            pairs |= {(device, peer) for peer in device.pairs}
            pairs |= {(sender, device) for sender in self._senders.get(device, ())}
        for device, peer in pairs:
            self._note_sender(device, peer)
        return pairs

    def _note_sender(self, device: Device, peer: Device) -> None:
        pair = device.pairs.get(peer)
        if pair and pair.indexes and self._switchboard.devices.get(device.public_key) is device:
            self._senders.setdefault(peer, set()).add(device)
        elif peer in self._senders:
            self._senders[peer].discard(device)
            if not self._senders[peer]:
                del self._senders[peer]

    def _derive(self, device: Device, peer: Device) -> dict[Key, Target]:
        """Return the entries for what a device sends to a peer; where there should be some and are none, note why."""
        pair = device.pairs.get(peer)
        here, there = device.binding, peer.binding
        if pair is None or here is None or there is None:
            return {}
        indexes = [index for index in pair.indexes if device.routes[index].confirmed]
        if not indexes:
            return {}
        if device.bucket is not None:
            self.refusals[device, peer] = Refusal("rate_limit", f"{device.name} has a rate limit")
            return {}
        if len(here.address) != len(there.address):
            self.refusals[device, peer] = _FAMILIES
            return {}
        inbound, outbound = self._next_hop(here), self._next_hop(there)
        obstacle = inbound if isinstance(inbound, Refusal) else inbound.unattached
        if obstacle:
            self.refusals[device, peer] = Refusal(obstacle.name, f"{device.name}: {obstacle.text}")
            return {}
        if isinstance(outbound, Refusal):
            self.refusals[device, peer] = Refusal(outbound.name, f"{peer.name}: {outbound.text}")
            return {}
        local = addresses.join(here.local, self._port)
        target = Target(there.address, addresses.join(there.local, self._port), outbound.interface, outbound.mtu)
        return {Key(here.address, local, index): target for index in indexes}

    # --- what there is ------------------------------------------------------------------------------------------------

    def revive(self, found: Mapping[Key, tuple[Target, Count]], now: float) -> None:
        """Give the switchboard routes that the table knows and the saved state does not: that is a little older."""
        bound = self._switchboard.bound
        for key, (target, _) in found.items():
            device, peer = bound.get(key.source), bound.get(target.destination)
            if (
                device
                and peer
                and key.receiver_index not in device.routes
                and device.binding == Binding(key.source, addresses.host_bytes(key.local))
                and peer.binding == Binding(target.destination, addresses.host_bytes(target.local))
            ):
                self._switchboard.restore_route(device, key.receiver_index, peer, CONFIRMED_ROUTE, now)

    def adopt(self, found: Mapping[Key, tuple[Target, Count]]) -> tuple[list[Key], dict[Key, Target]]:
        """Take over what a table holds already; return what to remove from it, and what to put there then."""
        change = self.follow()
        for key, (_, count) in found.items():
            if key in self.flows:
                self.flows[key].packets, self.flows[key].bytes = count.packets, count.bytes
        put = {key: target for key, target in change.put.items() if key not in found or found[key][0] != target}
        return [key for key in found if key not in self.flows], put

    def reject(self, keys: Mapping[Key, Refusal]) -> None:
        """Note what the table did not take."""
        self.rejected.update(keys)

    def again(self, name: str) -> dict[Key, Target]:
        """Return what the table did not take for a reason of this name, for another try."""
        again = [key for key, refusal in self.rejected.items() if refusal.name == name]
        for key in again:
            del self.rejected[key]
        return {key: self.flows[key].target for key in again}

    def count(self, flow: Flow, count: Count) -> None:
        """Take in what an entry has counted."""
        packets, size = count.packets - flow.packets, count.bytes - flow.bytes
        flow.packets, flow.bytes = count.packets, count.bytes
        if packets > 0:
            self._switchboard.forwarded(flow.device, flow.pair, packets, size, count.last_ns / 1e9)

    def refusal(self, device: Device, peer: Device) -> Refusal | None:
        """Return why the kernel does not forward what a device sends to a peer; None when it does."""
        keys = self._keys.get((device, peer))
        if not keys:
            return self.refusals.get((device, peer), NO_SESSION)
        refused = [self.rejected[key] for key in keys if key in self.rejected]
        return refused[0] if len(refused) == len(keys) else None

    def moved(self, bindings: Iterable[Binding]) -> None:
        """Look again at the devices that are reached there: the next hop has changed."""
        bound = self._switchboard.bound
        for binding in bindings:
            if binding.address in bound:
                self._switchboard.moved.add(bound[binding.address])
