# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole decision of the relay, without I/O: datagram, source and clock in; datagrams, events and counts out.

Everything is keyed by (source address, receiver index), never by an index alone. A source address stands for a device
only while that device has proven it on the relay's own session, so a device's routes move with its address by
themselves. Addresses are opaque, hashable bytes. `now` is monotonic time and `wall` Unix time, in seconds.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from peer_relay import packets
from peer_relay.device import NEVER, Binding, Device, DeviceSettings, Pair, Route
from peer_relay.drops import Refused
from peer_relay.relay_peer import HANDSHAKE_RETRY, RelayPeer
from peer_relay.waiting import WaitingRoom

HOLD = 5.0  # seconds that an initiation waits for its destination or its source to bind
# A session ends 180 s after its handshake and its successor starts at 120 s: 300 s outlive both.
CONFIRMED_ROUTE = 300.0
# Stock WireGuard that reads an initiation forgets its own: two that cross leave both sides waiting.
CROSSING = 1.5  # seconds that an answer may take before the other side may ask
PENDING_ROUTE = 20.0  # an initiation that nobody answered yet
# Unproven sources whose initiations are held at the same time, and how many of each. Those that have shaken hands with
# the relay and only have to confirm are kept apart, so that strangers cannot push them out.
_STRANGERS, _ARRIVING, _HELD_EACH = 1024, 512, 32
_CREDITS = 1024  # unproven sources whose credit is remembered
_SWEEP = 1.0  # seconds between two looks at what has expired
_GREETINGS = 20  # own initiations after a start, each tick: a slice of them, so that forwarding goes on
_GREETING_TRIES = 18  # whitepaper section 6.1: 90 s of retries


class Event(NamedTuple):
    """Something a person may want to read in the log; `binding` where an address belongs to it."""

    kind: str
    subject: str
    binding: Binding | None = None


class Count(NamedTuple):
    """Datagrams and bytes that were dropped for one reason."""

    packets: int = 0
    bytes: int = 0


class Switchboard:
    """Decides what happens to each datagram. The caller sends what is in `outbox` and logs what is in `events`."""

    def __init__(self, own: RelayPeer):
        self.own = own
        self.devices: dict[bytes, Device] = {}  # by public key
        self.bound: dict[bytes, Device] = {}  # by source address
        self.drops: dict[str, Count] = {}
        self.outbox: list[tuple[bytes, Binding]] = []
        self.events: list[Event] = []
        self.changes = 0  # counts what a restart has to remember: bindings and routes
        # For a data plane that forwards without asking: whose binding or settings, and whose routes toward whom, are
        # not what they were. It empties both.
        self.moved: set[Device] = set()
        self.rerouted: set[tuple[Device, Device]] = set()
        self._groups: dict[str, list[Device]] = {}
        self._owners: dict[IPv4Address | IPv6Address, Device] = {}  # by overlay address
        self._indexes: dict[int, Device] = {}  # receiver index -> a device that sends with it
        self._credit: OrderedDict[bytes, int] = OrderedDict()  # bytes that an unproven source has paid for a challenge
        self._strangers = WaitingRoom(_STRANGERS, _HELD_EACH, HOLD)
        self._arriving = WaitingRoom(_ARRIVING, _HELD_EACH, HOLD)
        self._greetings: deque[tuple[Device, float, int]] = deque()  # device, not before, tries left
        self._next_sweep = NEVER
        self._wall_offset = 0.0

    # --- settings -----------------------------------------------------------------------------------------------------

    def apply(self, settings: Iterable[DeviceSettings]) -> None:
        """Take over the registered devices; those that stay keep their bindings, sessions and routes."""
        wanted = {entry.public_key: entry for entry in settings}
        for key in [key for key in self.devices if key not in wanted]:
            self._remove(self.devices.pop(key))
        for key, entry in wanted.items():
            device = self.devices.get(key)
            if device is None:
                self.devices[key] = Device(entry)
            elif device.settings != entry:
                device.update(entry)
                self.moved.add(device)
        self._groups = {}
        self._owners = {address: device for device in self.devices.values() for address in device.settings.addresses}
        for device in self.devices.values():
            for group in device.settings.groups:
                self._groups.setdefault(group, []).append(device)
        for device in self.devices.values():
            for peer in [peer for peer in device.pairs if not device.may_reach(peer)]:
                device.forget(peer)
                peer.forget(device)
                self.rerouted |= {(device, peer), (peer, device)}

    def _remove(self, device: Device) -> None:
        self._unbind(device)
        self.own.forget(device)
        for other in self.devices.values():
            other.forget(device)
        # An index of its own must not let it be challenged, and so come back.
        self._indexes = {index: owner for index, owner in self._indexes.items() if owner is not device}
        self.events.append(Event("removed", device.name))

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def route(self, source: bytes, local: bytes, index: int, count: int, size: int, now: float) -> Binding | None:
        """Decide on a run of `count` transport messages, `size` bytes in all, of one path and receiver index.

        Return where they go, or None: then each of them belongs to `receive`, which finds out why.
        """
        device = self.bound.get(source)
        if device is None or device.binding.local != local:
            return None
        route = device.routes.get(index)
        return self._follow(device, route, count, size, now) if route else None

    def _follow(self, device: Device, route: Route, count: int, size: int, now: float) -> Binding | None:
        """Count transport messages on a route and return where they go; None when they may not, or nobody is there."""
        pair = route.pair
        binding = pair.peer.binding
        if binding is None or (device.bucket is not None and not device.bucket.take(size, now)):
            return None
        device.last_seen = pair.last_packet = now
        self._count(device, pair, count, size)
        return binding

    def forwarded(self, device: Device, pair: Pair, count: int, size: int, last: float) -> None:
        """Count transport messages that the kernel has forwarded, the latest of them at `last`."""
        device.last_seen = max(device.last_seen, last)
        pair.last_packet = max(pair.last_packet, last)
        self._count(device, pair, count, size)
        pair.kernel_packets += count

    @staticmethod
    def _count(device: Device, pair: Pair, count: int, size: int) -> None:
        """Count transport messages that a device has sent to a peer, whoever forwarded them."""
        peer = pair.peer
        device.rx_packets += count
        device.rx_bytes += size
        peer.tx_packets += count
        peer.tx_bytes += size
        pair.packets += count
        pair.bytes += size

    def receive(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        """Decide on any datagram that came from `source` to the relay's address `local`."""
        device = self.bound.get(source)
        try:
            kind = packets.message_type(datagram)
            if kind == packets.TRANSPORT:
                self._transport(datagram, source, local, device, now)
            elif kind == packets.INITIATION:
                self._initiation(datagram, source, local, device, now)
            elif kind == packets.RESPONSE:
                self._response(datagram, source, local, device, now)
            elif kind == packets.COOKIE_REPLY:
                self._cookie_reply(datagram, source, local, device, now)
            else:
                raise Refused("not_wireguard")
        except Refused as refusal:
            self.drop(refusal.reason, 1, len(datagram), refusal.sender or device)

    def drop(self, reason: str, count: int, size: int, device: Device | None = None) -> None:
        """Count datagrams that are not forwarded under a name of `drops.REASONS`."""
        known = self.drops.get(reason, Count())
        self.drops[reason] = Count(known.packets + count, known.bytes + size)
        if device:
            device.drops[reason] += count

    def _send(self, datagram: bytes, device: Device) -> None:
        if device.binding is None:
            raise Refused("destination_not_bound")
        device.tx_packets += 1
        device.tx_bytes += len(datagram)
        self.outbox.append((datagram, device.binding))

    def _transport(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        index = packets.receiver_index(datagram)
        if device and index in device.routes:
            route = device.routes[index]
            binding = self._follow(device, route, 1, len(datagram), now)
            if binding is None:
                raise Refused("rate_limited" if route.pair.peer.binding else "destination_not_bound")
            self.outbox.append((datagram, binding))
            if device.binding and device.binding.local != local:
                # It writes to another address of the relay's, and may no longer hear the one that it is bound to.
                self._challenge(device, len(datagram), source, local, now)
        elif index in self.own.sessions:
            self._to_relay(datagram, source, local, now)
        else:
            self._unproven(index, len(datagram), source, local, device, now)

    def _to_relay(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        device, session, inner = self.own.open(datagram, now)
        device.authenticated = device.last_seen = now
        device.rx_packets += 1
        device.rx_bytes += len(datagram)
        # A late packet from the address before, or of the session before, must not move the device back.
        if session.newest and session is device.current:
            if device.binding != (source, local):
                self._bind(device, Binding(source, local), now)
            elif device.held:  # it was silent and is back where it was
                self._release_held(device, now)
        if device.binding and self.own.wants_rekey(device, now):
            self._initiate(device, now)
        if inner:
            answer, understood = self.own.answer(device, session, inner, now, self._owners.get)
            self.outbox.append((answer, Binding(source, local)))
            if not understood:
                raise Refused("inner_unsupported", device)

    def _unproven(self, index: int, size: int, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        """A known index from an unknown source is probably a device that moved: ask it."""
        if device:
            raise Refused("unknown_index")
        owner = self._indexes.get(index)
        if owner is None or index not in owner.routes:
            raise Refused("unknown_source")
        self._challenge(owner, size, source, local, now)
        raise Refused("source_unproven")

    def _challenge(self, device: Device, size: int, source: bytes, local: bytes, now: float) -> None:
        """Ask who is at `source` whether it is the device, once it has paid for the question.

        The challenge is an initiation of 148 bytes; what the source sent before covers it, so nothing is amplified.
        """
        credit = self._credit.pop(source, 0) + size
        if credit >= packets.INITIATION_SIZE and self.own.challenge_allowed(device, now):
            credit -= packets.INITIATION_SIZE
            challenge = self.own.initiate(device, now, now + self._wall_offset)
            self.outbox.append((challenge, Binding(source, local)))
        self._credit[source] = min(credit, 4 * packets.INITIATION_SIZE)
        if len(self._credit) > _CREDITS:
            self._credit.popitem(last=False)

    def _initiation(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        if packets.mac1_valid(self.own.identity.mac1_key, datagram):
            self._handshake(datagram, source, local, now)
        elif device is None:
            self._wait(datagram, source, now)
        else:
            self._forward_initiation(device, self._addressee(device, datagram, now), datagram, now)

    def _handshake(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        self.own.probes.refuse_spent(datagram)
        cookie = self.own.cookie_if_loaded(datagram, source, now)
        if cookie:
            self.outbox.append((cookie, Binding(source, local)))
            raise Refused("cookie_required")
        answer, device = self.own.respond(datagram, source, now, now + self._wall_offset, self.devices.get)
        if device:
            self._arriving.add(source, self._strangers.take(source, now), now)
        self.outbox.append((answer, Binding(source, local)))

    def _addressee(self, device: Device, datagram: bytes, now: float) -> Device:
        """Find the device whose public key keyed mac1: those talked to before first, then all that may be reached."""
        for peer in device.pairs:
            if packets.mac1_valid(peer.mac1_key, datagram):
                return peer
        if not device.search.take(1, now):
            raise Refused("search_limited")
        for peer in self._reachable(device):
            if peer not in device.pairs and packets.mac1_valid(peer.mac1_key, datagram):
                return peer
        device.unmatched = datagram
        raise Refused("no_such_peer")

    def _reachable(self, device: Device) -> Iterator[Device]:
        groups = device.settings.groups
        for group in groups:
            yield from (peer for peer in self._groups[group] if peer is not device)

    def _forward_initiation(self, device: Device, peer: Device, datagram: bytes, now: float) -> None:
        pair = device.pair(peer)
        pair.initiations += 1
        pair.last_initiation = now
        if not peer.live(now):
            peer.held[device] = (now, datagram)
        self._pass_on(device, peer, datagram, now)

    def _pass_on(self, device: Device, peer: Device, datagram: bytes, now: float) -> None:
        if peer.binding is None:
            raise Refused("destination_not_bound")
        pair, back = device.pair(peer), peer.pairs.get(device)
        if back and back.last_response < back.last_passed and now - back.last_passed < CROSSING and not pair.crossed:
            # Only one in a row: whoever forges initiations of the peer must not be able to silence this device.
            pair.crossed = True
            raise Refused("crossed_initiation")
        pair.crossed = False
        self._learn(peer, packets.sender_index(datagram), device, now, confirmed=False)
        if peer.live(now):
            pair.last_passed = now
        self._count_forwarded(device, len(datagram), now)
        self._send(datagram, peer)

    def _response(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        index = packets.receiver_index(datagram)
        if device is None or index not in device.routes:
            if index in self.own.handshakes:
                self._challenge_met(datagram, source, local, now)
            else:
                self._unproven(index, len(datagram), source, local, device, now)
            return
        peer = device.routes[index].pair.peer
        if not packets.mac1_valid(peer.mac1_key, datagram):
            raise Refused("bad_mac1")
        if peer.binding is None:
            raise Refused("destination_not_bound")
        # The peer may send with the responder's index from now on, and the responder with the initiator's.
        self._learn(peer, packets.sender_index(datagram), device, now, confirmed=True)
        self._add_route(device, index, peer, now + CONFIRMED_ROUTE, confirmed=True)
        pair = peer.pair(device)
        if not pair.responses:
            self.events.append(Event("pair", f"{peer.name} -> {device.name}"))
        pair.responses += 1
        pair.last_response = now
        self._count_forwarded(device, len(datagram), now)
        self._send(datagram, peer)

    def _cookie_reply(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        index = packets.receiver_index(datagram)
        if device is None or index not in device.routes:
            if index in self.own.handshakes:
                self.own.take_cookie(datagram, now)
            else:
                self._unproven(index, len(datagram), source, local, device, now)
            return
        peer = device.routes[index].pair.peer
        if peer.binding is None:
            raise Refused("destination_not_bound")
        self._count_forwarded(device, len(datagram), now)
        self._send(datagram, peer)

    def _learn(self, holder: Device, index: int, toward: Device, now: float, confirmed: bool) -> None:
        """Let `holder` send to `toward` under `index`, unless that index already means something else to it."""
        known = holder.routes.get(index)
        if self.own.owns(index) or (known and known.pair.peer is not toward and known.expires > now):
            raise Refused("index_collision")
        lifetime = CONFIRMED_ROUTE if confirmed else PENDING_ROUTE
        self._add_route(holder, index, toward, now + lifetime, confirmed)
        self._note_index(index, holder)
        self.changes += 1

    def _add_route(self, holder: Device, index: int, toward: Device, expires: float, confirmed: bool) -> None:
        known = holder.routes.get(index)
        if known:
            self.rerouted.add((holder, known.pair.peer))
        self.rerouted.add((holder, toward))
        holder.add_route(index, toward, expires, confirmed)

    def _note_index(self, index: int, holder: Device) -> None:
        """Remember who sends with an index; whoever chooses the same one later must not take a challenge away."""
        if index not in self._indexes.get(index, holder).routes:
            del self._indexes[index]
        self._indexes.setdefault(index, holder)

    @staticmethod
    def _count_forwarded(device: Device, size: int, now: float) -> None:
        device.last_seen = now
        device.rx_packets += 1
        device.rx_bytes += size

    # --- bindings -----------------------------------------------------------------------------------------------------

    def _challenge_met(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        device, confirmation = self.own.finish(datagram, now)
        device.authenticated = device.last_seen = now
        self._bind(device, Binding(source, local), now)
        self._send(confirmation, device)

    def _bind(self, device: Device, binding: Binding, now: float) -> None:
        """Let the address stand for the device from now on, and release the initiations that waited for it."""
        before = device.binding
        if before is None or before.address != binding.address:
            other = self.bound.get(binding.address)
            if other and other is not device:
                self._unbind(other)
            if before:
                del self.bound[before.address]
            self.bound[binding.address] = device
            self.events.append(Event("moved" if before else "bound", device.name, binding))
        if before != binding:
            self.moved.add(device)
        device.binding = binding
        self.changes += 1
        self._credit.pop(binding.address, None)
        self._release_held(device, now)
        for room in (self._arriving, self._strangers):
            for datagram in room.take(binding.address, now):
                self.receive(datagram, binding.address, binding.local, now)

    def _unbind(self, device: Device) -> None:
        if device.binding:
            del self.bound[device.binding.address]
            device.binding = None
        self.moved.add(device)

    def _release_held(self, device: Device, now: float) -> None:
        held, device.held = device.held, {}
        for sender, (since, datagram) in held.items():
            if now - since > HOLD:
                continue
            try:
                self._pass_on(sender, device, datagram, now)
            except Refused as refusal:
                self.drop(refusal.reason, 1, len(datagram), sender)

    def _wait(self, datagram: bytes, source: bytes, now: float) -> None:
        """Keep an initiation of an address that nobody has proven yet: a device starts all its peers at once."""
        room = self._arriving if source in self._arriving else self._strangers
        room.add(source, [datagram], now)
        raise Refused("source_not_bound")

    def restore(self, device: Device, binding: Binding) -> None:
        """Bind a device to where it was before a restart; the relay then proves that it still is there."""
        if binding.address not in self.bound:
            device.binding = binding
            self.bound[binding.address] = device
            self.moved.add(device)
            self._greetings.append((device, NEVER, _GREETING_TRIES))

    def restore_route(self, device: Device, index: int, peer: Device, left: float, now: float) -> None:
        """Give a device a route that it had before a restart, with the seconds that it had left."""
        if device.may_reach(peer):
            # A confirmed one with less than that belongs to a session that has ended.
            self._add_route(device, index, peer, now + left, confirmed=left > PENDING_ROUTE)
            self._note_index(index, device)

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float, wall: float) -> float:
        """Do what time asks for; call at least once a second. Return the seconds until the next call is due."""
        self._wall_offset = wall - now
        self._greet(now)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            self._sweep(now)
        return 0.05 if self._greetings and self._greetings[0][1] <= now else _SWEEP

    def _initiate(self, device: Device, now: float) -> None:
        self._send(self.own.initiate(device, now, now + self._wall_offset), device)

    def _greet(self, now: float) -> None:
        for _ in range(min(_GREETINGS, len(self._greetings))):
            device, due, tries = self._greetings[0]
            if due > now:
                break
            self._greetings.popleft()
            # Bound devices only: one that was removed, or that has shaken hands meanwhile, needs no greeting.
            if device.binding and device.current is None and self.devices.get(device.public_key) is device:
                with contextlib.suppress(Refused):
                    self._initiate(device, now)
                if tries > 1:
                    self._greetings.append((device, now + HANDSHAKE_RETRY, tries - 1))

    def _sweep(self, now: float) -> None:
        self.own.expire(now)
        for device in self.devices.values():
            for index, route in [entry for entry in device.routes.items() if entry[1].expires <= now]:
                device.drop_route(index)
                self.rerouted.add((device, route.pair.peer))
            if device.held:
                device.held = {sender: held for sender, held in device.held.items() if now - held[0] <= HOLD}
        self._indexes = {index: device for index, device in self._indexes.items() if index in device.routes}
        self._strangers.sweep(now)
        self._arriving.sweep(now)
