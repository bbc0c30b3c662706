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
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import NamedTuple

from peer_common import packets

from peer_relay import addresses
from peer_relay.core import key_search
from peer_relay.core.device import NEVER, Binding, Claim, Device, Pair, Route
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.core.held_initiations import HeldInitiations
from peer_relay.core.rate_limits import TokenBucket
from peer_relay.core.relay_peer import HANDSHAKE_RETRY, RelayPeer
from peer_relay.drops import Refused
from peer_relay.wireguard.session import Session

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
# What has expired is of no use at once, and forgotten within a second; with many routes within a second more for each
# 100,000 of them, so that no look takes long.
_SWEEP = 1.0
_SWEEP_ROUTES = 5_000  # looked at in a tick
_SOON = 0.05  # seconds until the next tick while there is more to do
_GREETINGS = 20  # own initiations after a start, each tick: a slice of them, so that forwarding goes on
_GREETING_TRIES = 18  # whitepaper section 6.1: 90 s of retries
_CLAIM_TRIES, _CLAIM_RETRY = 3, 1.0  # questions for one claim, seconds between two
_MAX_CREDIT = 4 * packets.INITIATION_SIZE
# Keys that are tried on an initiation before it counts as a search, and from one look at its budget to the next.
_TRIES_FREE, _TRIES_EACH = 16, 64
_ALL_TRIES_RATE, _ALL_TRIES_BURST = 200_000.0, 400_000.0  # a second and at once, of all devices
# Bytes for which handshakes and the relay's answers may run ahead of a rate limit, so that data does not starve them.
_RESERVE = 16384.0
_BEHIND = 30.0  # seconds of older handshakes, longer than the keepalive of who is well, until the device is asked


class Event(NamedTuple):
    """Something a person may want to read in the log; `binding` where an address belongs to it."""

    kind: str
    subject: str
    binding: Binding | None = None


class Dropped(NamedTuple):
    """Datagrams and bytes that were dropped for one reason."""

    packets: int = 0
    bytes: int = 0


class Switchboard:
    """Decides what happens to each datagram. The caller sends what is in `outbox` and logs what is in `events`."""

    def __init__(self, own: RelayPeer, relay_ports: Iterable[int] = ()):
        self.own = own
        # Where relays listen, this one and others: a source with such a port may be a relay instead of a device.
        self.relay_ports = frozenset(relay_ports)
        self.devices: dict[bytes, Device] = {}  # by public key
        self.bound: dict[bytes, Device] = {}  # by source address
        self.drops: dict[str, Dropped] = {}
        self.outbox: list[tuple[bytes, Binding]] = []
        self.events: list[Event] = []
        self.changes = 0  # counts what a restart has to remember: bindings and routes
        # For a data plane that forwards without asking: whose binding or settings, and whose routes toward whom, are
        # not what they were. It empties both.
        self.moved: set[Device] = set()
        self.rerouted: set[tuple[Device, Device]] = set()
        self._reachable: dict[frozenset[str], list[Device]] = {}  # by the groups of who asks; made when needed
        self._tries = TokenBucket(_ALL_TRIES_RATE, _ALL_TRIES_BURST)
        self._owners: dict[IPv4Address | IPv6Address, Device] = {}  # by overlay address
        self._indexes: dict[int, Device] = {}  # receiver index -> a device that sends with it
        self._credit: OrderedDict[bytes, int] = OrderedDict()  # bytes that an unproven source has paid for a challenge
        self._strangers = HeldInitiations(_STRANGERS, _HELD_EACH, HOLD)
        self._arriving = HeldInitiations(_ARRIVING, _HELD_EACH, HOLD)
        self._greetings: deque[tuple[Device, Binding, float, int]] = deque()  # whom, where, not before, tries left
        self._next_sweep = NEVER
        self._unswept: deque[Device] = deque()  # whose routes have not been looked at in this round
        self._wall_offset = 0.0

    # --- settings -----------------------------------------------------------------------------------------------------

    def apply(self, settings: Iterable[DeviceSettings]) -> None:
        """Take over the registered devices; those that stay keep their bindings, sessions and routes."""
        wanted = {entry.public_key: entry for entry in settings}
        self._remove([self.devices.pop(key) for key in [*self.devices] if key not in wanted])
        regrouped = set()
        for key, entry in wanted.items():
            device = self.devices.get(key)
            if device is None:
                self.devices[key] = Device(entry)
            elif device.settings != entry:
                if device.settings.groups != entry.groups:
                    regrouped.add(device)
                device.update(entry)
                self.moved.add(device)
        self._reachable = {}
        self._owners = {address: device for device in self.devices.values() for address in device.settings.addresses}
        for device in self.devices.values():
            device.refused = None  # whoever it asks for may be registered, or gone, now
            for peer in list(device.pairs) if device in regrouped else regrouped & device.pairs.keys():
                if not device.may_reach(peer):
                    self._forget(device, peer)
                    self._forget(peer, device)
                    self.rerouted |= {(device, peer), (peer, device)}

    def _remove(self, removed: list[Device]) -> None:
        for device in removed:
            self._unbind(device)
            self.own.forget(device)
            for index in device.routes:  # they must not let it be challenged, and so come back
                self._forget_index(index, device)
            self.events.append(Event("removed", device.name))
        gone = set(removed)
        for other in self.devices.values() if gone else ():
            for device in (gone & other.pairs.keys()) | (gone & other.held.keys()):
                self._forget(other, device)

    def _forget(self, device: Device, peer: Device) -> None:
        for index in device.forget(peer):
            self._forget_index(index, device)

    def expect_relays(self, ports: Iterable[int]) -> None:
        """Take over where relays listen; whoever is bound with such a port has to come again, and prove it."""
        new = frozenset(ports) - self.relay_ports
        self.relay_ports = frozenset(ports)
        for device in [device for address, device in self.bound.items() if addresses.port(address) in new]:
            self._unbind(device)

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def route(self, source: bytes, local: bytes, index: int, count: int, size: int, now: float) -> Binding | None:
        """Decide on a run of `count` transport messages, `size` bytes in all, of one path and receiver index.

        Return where they go, or None: then each of them belongs to `receive`, which finds out why.
        """
        device = self.bound.get(source)
        if device is None or (binding := device.binding) is None or binding.local != local:
            return None
        route = device.routes.get(index)
        return None if route is None else self._follow(device, route, count, size, now)

    def _follow(self, device: Device, route: Route, count: int, size: int, now: float) -> Binding | None:
        """Count transport messages on a route and return where they go; None when they may not, or nobody is there."""
        pair = route.pair
        binding = pair.peer.binding
        if binding is None or route.expires <= now:
            return None
        if device.bucket is not None and not device.bucket.consume(size, now):
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
        known = self.drops.get(reason, Dropped())
        self.drops[reason] = Dropped(known.packets + count, known.bytes + size)
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
        if device is not None and (route := device.route(index, now)) is not None:
            binding = self._follow(device, route, 1, len(datagram), now)
            if binding is None:
                raise Refused("rate_limited" if route.pair.peer.binding else "destination_not_bound")
            self.outbox.append((datagram, binding))
            if device.binding and device.binding.local != local and self._affords(device, now):
                # It writes to another address of the relay's, and may no longer hear the one that it is bound to.
                self._challenge(device, len(datagram), source, local, now)
        elif index in self.own.sessions:
            self._to_relay(datagram, source, local, now)
        else:
            self._unproven(index, len(datagram), source, local, device, now)

    def _to_relay(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        device, session, inner = self.own.unseal(datagram, now)
        answered, session.answered = session.answered, None
        if answered:
            self.changes += 1  # its index is what leads to the device after a restart
        device.authenticated = device.last_seen = now
        device.rx_packets += 1
        device.rx_bytes += len(datagram)
        device.credit = min(device.credit + len(datagram), _MAX_CREDIT)
        if session.newest:
            session.source = source
        placed = True
        # A late packet from the address before, or of the session before, must not move the device back.
        if session.newest and session is device.current:
            if device.binding != (source, local):
                proven = session.created if answered == source else NEVER
                placed = self._place(device, session, Binding(source, local), proven, now)
            elif device.held:  # it was silent and is back where it was
                self._release_held(device, now)
        elif session.newest and device.current and session is device.previous:
            device.twins.older_session_used(source, device.current.source, now - device.current.created, now)
        if device.binding and self.own.wants_rekey(device, now) and self._affords(device, now):
            self._initiate(device, device.binding, now)
        if inner:
            answer, understood = self.own.answer(device, session, inner, now, self._owners.get)
            self._charge(device, len(answer), now)
            self.outbox.append((answer, Binding(source, local)))
            if not understood:
                raise Refused("inner_unsupported", device)
        if not placed:
            raise Refused("moves_limited", device)

    def _unproven(self, index: int, size: int, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        """A known index from an unknown source, or from another one's, is probably a device that moved: ask it."""
        owner = self._indexes.get(index)
        if owner is None or not owner.route(index, now):
            owner = self.own.former.get(index)
            if owner and owner is not device and owner.credit >= packets.INITIATION_SIZE:
                # Keepalives are all that a device without traffic sends: the first question is on credit.
                owner.credit -= packets.INITIATION_SIZE
                size += packets.INITIATION_SIZE
        if owner is None or owner is device:
            raise Refused("unknown_index" if device else "unknown_source")
        self._challenge(owner, size, source, local, now)
        raise Refused("unknown_index" if device else "source_unproven")

    def _challenge(self, device: Device, size: int, source: bytes, local: bytes, now: float) -> None:
        """Ask who is at `source` whether it is the device, once it has paid for the question.

        The challenge is an initiation of 148 bytes; what the source sent before covers it, so nothing is amplified.
        """
        credit = self._credit.pop(source, 0) + size
        if credit >= packets.INITIATION_SIZE and self.own.challenge_allowed(device, source, now):
            credit -= packets.INITIATION_SIZE
            self._ask(device, Binding(source, local), now)
        self._credit[source] = min(credit, _MAX_CREDIT)
        if len(self._credit) > _CREDITS:
            self._credit.popitem(last=False)

    def _ask(self, device: Device, there: Binding, now: float) -> None:
        """Send a device an initiation there: only its answer from there proves that it receives there."""
        self.outbox.append((self.own.initiate(device, there, now, now + self._wall_offset), there))

    def _affords(self, device: Device, now: float, size: int = packets.INITIATION_SIZE) -> bool:
        """Take what a device makes the relay send, besides data, from its rate limit."""
        return device.bucket is None or device.bucket.consume(size, now, _RESERVE)

    def _charge(self, device: Device, size: int, now: float) -> None:
        if not self._affords(device, now, size):
            raise Refused("rate_limited", device)

    def _initiation(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        if packets.mac1_valid(self.own.identity.mac1_key, datagram):
            self._handshake(datagram, source, local, device, now)
        elif device is None:
            self._wait(datagram, source, now)
        else:
            self._forward_initiation(device, self._addressee(device, datagram, now), datagram, now)

    def _handshake(self, datagram: bytes, source: bytes, local: bytes, bound: Device | None, now: float) -> None:
        self.own.probes.refuse_spent(datagram)
        cookie = self.own.cookie_if_loaded(datagram, source, now)
        if cookie:
            if bound:
                self._charge(bound, len(cookie), now)
            self.outbox.append((cookie, Binding(source, local)))
            raise Refused("cookie_required")
        try:
            answer, device = self.own.respond(datagram, source, now, now + self._wall_offset, self.devices.get)
        except Refused as refusal:
            if refusal.reason == "timestamp_replayed":
                self._behind(refusal.sender, len(datagram), source, local, now)
            raise
        if device:
            self._charge(device, len(answer), now)
            self._arriving.add(source, self._strangers.pop(source, now), now)
        self.outbox.append((answer, Binding(source, local)))

    def _behind(self, device: Device, size: int, source: bytes, local: bytes, now: float) -> None:
        """Ask a device whose clock has gone back, or whoever replays its packets: it can answer what it may not begin.

        Without that, a device that reaches a time server only through its tunnel would never come back.
        """
        if device.behind_since <= device.authenticated:
            device.behind_since = now
        elif now - device.behind_since >= _BEHIND:
            self._challenge(device, size, source, local, now)

    def _addressee(self, device: Device, datagram: bytes, now: float) -> Device:
        """Find the device whose public key keyed mac1, among those that may be reached.

        Whom it is likely to mean costs a few hashes; beyond that a search has a budget, since anybody can send
        initiations that mean nobody.
        """
        known = key_search.known_peers(device)
        for peer in islice(known, _TRIES_FREE):
            if packets.mac1_valid(peer.mac1_key, datagram):
                return peer
        if not device.search.consume(1, now):
            raise Refused("search_limited")
        new = key_search.new_peers(device, self._those_reachable(device))
        found = self._try_keys(device, key_search.in_turn(known, new), datagram, now)
        if found:
            device.search.give_back(1)
            return found
        # For doctor. That all who may not be reached are tried, too, tells the sender nothing.
        groups = device.settings.groups
        hidden = (other for other in self.devices.values() if groups.isdisjoint(other.settings.groups))
        device.refused = (self._try_keys(device, hidden, datagram, now),)
        raise Refused("no_such_peer")

    def _try_keys(self, device: Device, peers: Iterable[Device], datagram: bytes, now: float) -> Device | None:
        """Return the first one whose key it is; refuse to look further when its sender's budget is at its end."""
        for number, peer in enumerate(peers):
            if number % _TRIES_EACH == 0 and not (
                device.tries.consume(_TRIES_EACH, now) and self._tries.consume(_TRIES_EACH, now)
            ):
                raise Refused("search_limited")
            if packets.mac1_valid(peer.mac1_key, datagram):
                return peer
        return None

    def _those_reachable(self, device: Device) -> list[Device]:
        groups = device.settings.groups
        if groups not in self._reachable:
            members = self.devices.values()
            self._reachable[groups] = [peer for peer in members if not groups.isdisjoint(peer.settings.groups)]
        return self._reachable[groups]

    def _forward_initiation(self, device: Device, peer: Device, datagram: bytes, now: float) -> None:
        pair = device.pair(peer)
        device.pairs.move_to_end(peer)
        pair.initiations += 1
        pair.last_initiation = now
        if not peer.live(now) or peer.claim:
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
        self._admit(device, pair, len(datagram), now)
        self._learn(peer, packets.sender_index(datagram), device, now, confirmed=False)
        if peer.live(now):
            pair.last_passed = now
        self._count_forwarded(device, len(datagram), now)
        self._send(datagram, peer)

    def _admit(self, device: Device, pair: Pair, size: int, now: float) -> None:
        """Refuse more handshake messages than WireGuard sends: each costs the peer, the routes and the table work."""
        if not (pair.admit(now) and device.handshakes.consume(1, now)):
            raise Refused("pair_limited", device)
        self._charge(device, size, now)

    def _response(self, datagram: bytes, source: bytes, local: bytes, device: Device | None, now: float) -> None:
        index = packets.receiver_index(datagram)
        if device is None or (route := device.route(index, now)) is None:
            if index in self.own.handshakes:
                self._challenge_met(datagram, source, local, now)
            else:
                self._unproven(index, len(datagram), source, local, device, now)
            return
        peer = route.pair.peer
        if not packets.mac1_valid(peer.mac1_key, datagram):
            raise Refused("bad_mac1")
        if peer.binding is None:
            raise Refused("destination_not_bound")
        if route.confirmed:
            self._admit(device, route.pair, len(datagram), now)
        else:  # The initiation has been admitted. Who forges others, with this source, cannot know its index.
            self._charge(device, len(datagram), now)
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
        if device is None or (route := device.route(index, now)) is None:
            if index in self.own.handshakes:
                self.own.store_cookie(datagram, now)
            else:
                self._unproven(index, len(datagram), source, local, device, now)
            return
        peer = route.pair.peer
        if peer.binding is None:
            raise Refused("destination_not_bound")
        self._admit(device, device.pair(peer), len(datagram), now)
        self._count_forwarded(device, len(datagram), now)
        self._send(datagram, peer)

    def _learn(self, holder: Device, index: int, toward: Device, now: float, confirmed: bool) -> None:
        """Let `holder` send to `toward` under `index`, unless that index already means something else to it."""
        known = holder.route(index, now)
        if self.own.owns(index) or (known and known.pair.peer is not toward):
            raise Refused("index_collision")
        if known is None and index in holder.routes:
            self._drop_route(holder, index)
        lifetime = CONFIRMED_ROUTE if confirmed else PENDING_ROUTE
        self._add_route(holder, index, toward, now + lifetime, confirmed)
        self.changes += 1

    def _add_route(self, holder: Device, index: int, toward: Device, expires: float, confirmed: bool) -> None:
        known = holder.routes.get(index)
        if known:
            self.rerouted.add((holder, known.pair.peer))
        self.rerouted.add((holder, toward))
        full = holder.add_route(index, toward, expires, confirmed)
        if full is not None:
            self._forget_index(full, holder)
        # Whoever chooses the same index later must not take a challenge away.
        self._indexes.setdefault(index, holder)

    def _drop_route(self, holder: Device, index: int) -> None:
        self.rerouted.add((holder, holder.routes[index].pair.peer))
        holder.drop_route(index)
        self._forget_index(index, holder)

    def _forget_index(self, index: int, holder: Device) -> None:
        if self._indexes.get(index) is holder:
            del self._indexes[index]

    @staticmethod
    def _count_forwarded(device: Device, size: int, now: float) -> None:
        device.last_seen = now
        device.rx_packets += 1
        device.rx_bytes += size

    # --- bindings -----------------------------------------------------------------------------------------------------

    def _challenge_met(self, datagram: bytes, source: bytes, local: bytes, now: float) -> None:
        device, session, asked_at, asked, confirmation = self.own.finish(datagram, now)
        session.source = source
        device.authenticated = device.last_seen = now
        proven = asked if source == asked_at else NEVER
        placed = self._place(device, session, Binding(source, local), proven, now)
        device.tx_packets += 1
        device.tx_bytes += len(confirmation)
        self.outbox.append((confirmation, Binding(source, local)))
        if not placed:
            raise Refused("moves_limited", device)

    def _place(self, device: Device, session: Session, there: Binding, proven: float, now: float) -> bool:
        """Bind a device where a message of its current session came from; False when it has moved too often for that.

        Anybody can forge a source. Hence an address that another device holds, or that may be a relay's, takes a proof
        that the device receives there: what the relay sent there at the time `proven`, and the device has since used
        (NEVER: nothing). Without it the device is asked there, and the message refused.
        """
        if device.binding is None or device.binding.address != there.address:
            holder = self.bound.get(there.address)
            # A proof of before the holder came proves nothing any more.
            contested = holder is not None or self._may_be_a_relay(there.address)
            if contested and (proven == NEVER or (holder is not None and proven < holder.bound_since)):
                self._claim(device, there, _CLAIM_TRIES, now)
                raise Refused("address_unproven", device)
            if not addresses.is_unicast(there.address):
                raise Refused("address_invalid", device)
        if device.binding != there and not device.moves.consume(1, now):
            return False
        self._bind(device, session, there, now)
        return True

    def _may_be_a_relay(self, address: bytes) -> bool:
        return addresses.port(address) in self.relay_ports

    def _claim(self, device: Device, there: Binding, tries: int, now: float) -> None:
        """Ask a device where it says that it is, as far as it has paid for it, and again if no answer comes."""
        if device.credit >= packets.INITIATION_SIZE and device.asks.consume(1, now) and self._affords(device, now):
            device.credit -= packets.INITIATION_SIZE
            self._ask(device, there, now)
        device.claim = Claim(there, now + _CLAIM_RETRY, tries - 1) if tries > 1 else None

    def _bind(self, device: Device, session: Session, binding: Binding, now: float) -> None:
        """Let the address stand for the device from now on, and release the initiations that waited for it."""
        before = device.binding
        if before is None or before.address != binding.address:
            if before:
                anew = session.created >= device.bound_since
                device.twins.moved(before.address, binding.address, now - device.bound_since, anew, now)
            device.bound_since = now
            other = self.bound.get(binding.address)
            if other and other is not device:
                self._unbind(other)
            if before:
                del self.bound[before.address]
            self.bound[binding.address] = device
            self.events.append(Event("moved" if before else "bound", device.name, binding))
        if before != binding:
            self.moved.add(device)
        device.binding, device.claim = binding, None
        self.changes += 1
        self._credit.pop(binding.address, None)
        self._release_held(device, now)
        for room in (self._arriving, self._strangers):
            for datagram in room.pop(binding.address, now):
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
        """Bind a device to where it was before a restart; the relay then asks whether it still is there."""
        if binding.address in self.bound:
            return
        if not self._may_be_a_relay(binding.address):
            device.binding = binding
            self.bound[binding.address] = device
            self.moved.add(device)
        self._greetings.append((device, binding, NEVER, _GREETING_TRIES))

    def restore_route(self, device: Device, index: int, peer: Device, left: float, now: float) -> None:
        """Give a device a route that it had before a restart, with the seconds that it had left."""
        if device.may_reach(peer):
            # A confirmed one with less than that belongs to a session that has ended.
            self._add_route(device, index, peer, now + left, confirmed=left > PENDING_ROUTE)

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float, wall: float) -> float:
        """Do what time asks for; call at least once a second. Return the seconds until the next call is due."""
        self._wall_offset = wall - now
        self._greet(now)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            self.own.expire(now)
            self._strangers.sweep(now)
            self._arriving.sweep(now)
            self._claim_again(now)
            if not self._unswept:
                self._unswept.extend(self.devices.values())
        self._sweep(now)
        return _SOON if self._unswept or (self._greetings and self._greetings[0][2] <= now) else _SWEEP

    def _initiate(self, device: Device, there: Binding, now: float) -> None:
        device.last_rekey = now
        self._send(self.own.initiate(device, there, now, now + self._wall_offset), device)

    def _greet(self, now: float) -> None:
        for _ in range(min(_GREETINGS, len(self._greetings))):
            device, there, due, tries = self._greetings[0]
            if due > now:
                break
            self._greetings.popleft()
            # One that was removed, or that has shaken hands meanwhile, needs no greeting.
            if device.current or self.devices.get(device.public_key) is not device:
                continue
            if tries:
                with contextlib.suppress(Refused):
                    self._ask(device, there, now)
                self._greetings.append((device, there, now + HANDSHAKE_RETRY, tries - 1))
            elif device.binding == there:  # nobody has answered there for a session's retries: it is not there any more
                self._unbind(device)
                self.changes += 1

    def _claim_again(self, now: float) -> None:
        for device in self.devices.values():
            claim = device.claim
            if claim and claim.due <= now:
                with contextlib.suppress(Refused):
                    self._claim(device, claim.binding, claim.tries, now)

    def _sweep(self, now: float) -> None:
        """Forget what has expired, of so many devices that it takes a few milliseconds at most."""
        looked_at = 0
        while self._unswept and looked_at < _SWEEP_ROUTES:
            device = self._unswept.popleft()
            if self.devices.get(device.public_key) is not device:
                continue
            looked_at += len(device.routes) + len(device.held)
            for index in [index for index, route in device.routes.items() if route.expires <= now]:
                self._drop_route(device, index)
            if device.held:
                device.held = {sender: held for sender, held in device.held.items() if now - held[0] <= HOLD}
