# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay knows of a device, of a pair of devices and of their routes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from peer_common import packets

from peer_relay.core.device_settings import DeviceSettings
from peer_relay.core.rate_limits import TokenBucket
from peer_relay.core.twins import Twins
from peer_relay.wireguard.cookies import CookieJar
from peer_relay.wireguard.session import Session

NEVER = float("-inf")
# A device that keeps alive every 25 s and a session that ends after 180 s: silence beyond this means absence.
ABSENT_AFTER = 190.0
_ROUTES_PER_PAIR = 8  # current, previous, next session and retries of each side; bounds what one device can store
# For an initiation's addressee: searches that find nobody, and keys that are tried, 1 us each; a second and at once.
_SEARCH_RATE, _SEARCH_BURST = 20.0, 100.0
_TRIES_RATE, _TRIES_BURST = 50_000.0, 100_000.0
# Changes of a binding: a walk through some networks at once, and then no more than what a data plane can bear.
_MOVES_RATE, _MOVES_BURST = 0.2, 10.0
# Handshake messages between two devices, and of one device with all its peers: stock WireGuard sends one to each peer
# every 5 s at most.
_PAIR_RATE, _PAIR_BURST = 10.0, 128.0
_HANDSHAKES_RATE, _HANDSHAKES_BURST = 500.0, 10_000.0
# Questions where a device says that it is. What it has sent pays for them, but for the first one.
_ASKS_RATE, _ASKS_BURST = 1.0, 5.0
_CREDIT = packets.INITIATION_SIZE  # bytes


class Binding(NamedTuple):
    """Where a device is reached: its `address`, from the relay's own address `local` (both opaque to the core)."""

    address: bytes
    local: bytes


class Claim(NamedTuple):
    """Where a device says that it is and has not proven it: when to ask again, and how often yet."""

    binding: Binding
    due: float
    tries: int


class Pair:
    """What one device sends to another one (one direction)."""

    __slots__ = (
        "_handshakes_until",
        "bytes",
        "crossed",
        "indexes",
        "initiations",
        "kernel_packets",
        "last_initiation",
        "last_packet",
        "last_passed",
        "last_response",
        "packets",
        "peer",
        "responses",
    )

    def __init__(self, peer: Device):
        self.peer = peer
        self.indexes: list[int] = []  # receiver indexes of the routes, oldest first
        self.initiations = self.responses = 0  # sent by this side, answered by the peer
        self.packets = self.bytes = 0
        self.kernel_packets = 0  # of these, those that the kernel forwarded
        self.last_initiation = self.last_response = self.last_packet = NEVER
        self.last_passed = NEVER  # when an initiation was last handed to a peer that is there
        self.crossed = False  # the latest initiation was dropped because the peer's own was on its way
        self._handshakes_until = NEVER  # when the handshake messages so far would have been sent at the rate

    def admit(self, now: float) -> bool:
        """Count a handshake message; False when there are more than WireGuard sends."""
        until = max(self._handshakes_until, now)
        if until - now > (_PAIR_BURST - 1) / _PAIR_RATE:
            return False
        self._handshakes_until = until + 1 / _PAIR_RATE
        return True


class Route:
    """A receiver index under which a device sends to a peer, until `expires`; `confirmed` once it was answered."""

    __slots__ = ("confirmed", "expires", "pair")

    def __init__(self, pair: Pair, expires: float, confirmed: bool):
        self.pair = pair
        self.expires = expires
        self.confirmed = confirmed


class Device:
    """A registered device: settings, binding, its sessions with the relay, and what it sends to whom."""

    # Beyond 30 attributes Python no longer keeps them at hand, which each forwarded packet would feel.
    __slots__ = (
        "asked",
        "asks",
        "attempt_source",
        "authenticated",
        "behind_since",
        "binding",
        "bound_since",
        "bucket",
        "claim",
        "cookies",
        "credit",
        "current",
        "drops",
        "former",
        "handshakes",
        "held",
        "last_attempt",
        "last_handshake",
        "last_rekey",
        "last_seen",
        "mac1_key",
        "moves",
        "name",
        "next",
        "next_search",
        "pairs",
        "previous",
        "public_key",
        "refused",
        "routes",
        "rx_bytes",
        "rx_packets",
        "search",
        "settings",
        "timestamp",
        "tries",
        "twins",
        "tx_bytes",
        "tx_packets",
    )

    def __init__(self, settings: DeviceSettings):
        self.public_key = settings.public_key
        self.mac1_key = packets.mac1_key(settings.public_key)
        self.update(settings)
        self.binding: Binding | None = None
        self.bound_since = NEVER  # when it came to its address
        self.claim: Claim | None = None
        self.moves = TokenBucket(_MOVES_RATE, _MOVES_BURST)
        self.twins = Twins()
        self.asks = TokenBucket(_ASKS_RATE, _ASKS_BURST)
        self.credit = _CREDIT
        self.authenticated = self.last_seen = self.last_handshake = self.last_attempt = NEVER
        self.attempt_source: bytes | None = None  # where the last handshake with the relay came from
        # The relay's own sessions with it (whitepaper section 6.3): `next` is in use only once it is confirmed.
        self.current: Session | None = None
        self.previous: Session | None = None
        self.next: Session | None = None
        self.former: dict[int, float] = {}  # the relay's indexes of sessions before a restart -> when those end
        self.timestamp = bytes(12)  # greatest TAI64N received
        self.behind_since = NEVER  # since when nothing has come but handshakes older than that one
        self.cookies = CookieJar()
        self.asked: OrderedDict[bytes, int] = OrderedDict()  # where the relay's initiations went -> their index
        self.last_rekey = NEVER
        self.routes: dict[int, Route] = {}
        self.pairs: OrderedDict[Device, Pair] = OrderedDict()  # by the latest initiation, oldest first
        self.held: dict[Device, tuple[float, bytes]] = {}  # sender -> its latest initiation to this device
        self.handshakes = TokenBucket(_HANDSHAKES_RATE, _HANDSHAKES_BURST)
        self.search = TokenBucket(_SEARCH_RATE, _SEARCH_BURST)
        self.tries = TokenBucket(_TRIES_RATE, _TRIES_BURST)
        self.next_search = 0  # where in the list of those that it may reach the next search begins
        self.refused: tuple[Device | None] | None = None  # whose key, or nobody's, it asked for in vain; for doctor
        self.rx_packets = self.rx_bytes = self.tx_packets = self.tx_bytes = 0
        self.drops: Counter[str] = Counter()

    def update(self, settings: DeviceSettings) -> None:
        """Take over changed settings; the key stays."""
        self.settings = settings
        self.name = settings.name
        # A tenth of a second at full rate, but always a few full-size trains.
        burst = max(settings.rate_limit / 10, 131072.0)
        self.bucket = TokenBucket(settings.rate_limit, burst) if settings.rate_limit else None

    def may_reach(self, other: Device) -> bool:
        """Two devices may talk when they share a group."""
        return other is not self and not self.settings.groups.isdisjoint(other.settings.groups)

    def live(self, now: float) -> bool:
        """Tell whether the device has proven its address lately."""
        return self.binding is not None and now - self.authenticated < ABSENT_AFTER

    def pair(self, peer: Device) -> Pair:
        """Return what this device sends to `peer`."""
        found = self.pairs.get(peer)
        if found is None:
            found = self.pairs[peer] = Pair(peer)
        return found

    def route(self, index: int, now: float) -> Route | None:
        """Return what the device may send under receiver `index`; None when there is nothing, or no longer."""
        route = self.routes.get(index)
        return route if route is not None and route.expires > now else None

    def add_route(self, index: int, peer: Device, expires: float, confirmed: bool) -> int | None:
        """Let this device send to `peer` under receiver `index`; the pair's route that ends first makes room.

        Return the index of that one. Those that no answer has confirmed end first, so that forged initiations push out
        each other only.
        """
        pair = self.pair(peer)
        known = self.routes.get(index)
        if known is not None:
            if known.pair is pair:
                known.expires = max(known.expires, expires)
                known.confirmed |= confirmed
                return None
            self.drop_route(index)
        self.routes[index] = Route(pair, expires, confirmed)
        pair.indexes.append(index)
        if len(pair.indexes) <= _ROUTES_PER_PAIR:
            return None
        first = min(pair.indexes[:-1], key=lambda known: self.routes[known].expires)
        self.drop_route(first)
        return first

    def drop_route(self, index: int) -> None:
        """Forget one route."""
        self.routes.pop(index).pair.indexes.remove(index)

    def forget(self, peer: Device) -> list[int]:
        """Forget everything toward `peer`, in both directions of thought; return the indexes of the routes to it."""
        self.held.pop(peer, None)
        pair = self.pairs.pop(peer, None)
        if pair is None:
            return []
        for index in pair.indexes:
            del self.routes[index]
        return pair.indexes

    def sessions(self) -> list[Session]:
        """Return the relay's sessions with this device."""
        return [session for session in (self.next, self.current, self.previous) if session]
