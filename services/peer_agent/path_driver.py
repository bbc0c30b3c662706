# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the paths to all other devices: tells each path selector what happens, and does what it decides."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from peer_agent import settings
from peer_agent.core.actions import Log, PairAction, Rekey, SendMessage, SendProbe, SetEndpoint, SetKey, SuspectRelay
from peer_agent.core.limits import Limits
from peer_agent.core.path_selector import PathSelector
from peer_agent.core.paths import RelayView
from peer_agent.core.refusals import Refusals
from peer_agent.core.traffic import Bytes
from peer_agent.endpoints import Address, Endpoint, Network
from peer_agent.host import overlay_socket
from peer_agent.host.probe_socket import Datagram
from peer_agent.host.sockets import Sockets
from peer_agent.relay_driver import RelayDriver
from peer_agent.wire import control
from peer_agent.wire.probes import PING, SECRET_SIZE, Key, Keyring
from peer_agent.wireguard.interface import Client, Interface, WireGuardError

log = logging.getLogger("peer_agent")

_HOLD = 0.002  # seconds from one time that an endpoint is set to the next, while it is held
_GRID = 0.5  # seconds: what is not urgent is done together, for one wake-up costs more than all that is done in it
_AFTER_FAULT = 10.0  # seconds
_URGENT = 1.0  # seconds to the next thing to do, up to which it is


class _Entry:
    """One other device."""

    def __init__(self, peer: settings.Peer, address: Address, pair: PathSelector, views: Iterable[RelayView]):
        self.peer = peer
        self.address = address  # where signaling to its agent goes
        self.pair = pair
        self.key: Key | None = None
        self.due = 0.0
        self.hold: tuple[Endpoint, float] | None = None  # an endpoint to be set over and over, until then
        self.sample: object = None  # its counters, as they were last
        self.sent = self.received = 0  # bytes of signaling in them
        self.views = {view.name: view for view in views}
        self.path: object = None  # what the status says of it


class PairEntry(NamedTuple):
    """A pair, for the status."""

    peer: settings.Peer
    pair: PathSelector


class PathDriver:
    """All pairs of this device."""

    def __init__(
        self,
        config: settings.Settings,
        relays: RelayDriver,
        sockets: Sockets,
        wireguard: Client,
        refusals: Refusals,
        now: float,
    ):
        self._sockets, self._wireguard, self._relays, self._refusals = sockets, wireguard, relays, refusals
        self._limits = Limits(now)
        self._config = config
        self._keyring: Keyring[str] = Keyring()
        self._entries: dict[str, _Entry] = {}
        self._by_address: dict[Address, _Entry] = {}
        self._watching: set[str] = set()
        self._holding: set[str] = set()
        self._views_told: object = None
        self._due = now
        self.changes = 0  # of what the status says
        self._network: tuple[list[Endpoint], list[Network]] = [], []
        for peer in config.peers:
            self._add(now, peer)

    def _add(self, now: float, peer: settings.Peer) -> None:
        common = _common(self._config.addresses, peer.addresses)
        if common is None:  # nothing that either could say would arrive
            log.warning("%s: no IP version in common: its path is not looked after", peer.name)
            return
        views = self._relays.views()
        pair = PathSelector(*common, views, secrets.token_bytes(SECRET_SIZE), self._config.networks, now)
        self._entries[peer.name] = entry = _Entry(peer, common[1], pair, views)
        self._by_address |= dict.fromkeys(peer.addresses, entry)

    def _remove(self, now: float, entry: _Entry) -> None:
        entry.pair.stop(now)
        self._perform(now, entry)
        del self._entries[entry.peer.name]
        for address in entry.peer.addresses:
            del self._by_address[address]
        self._keyring.put(entry.peer.name, None)
        self._limits.forget(entry.peer.name)
        self._watching.discard(entry.peer.name)
        self._holding.discard(entry.peer.name)

    def __iter__(self) -> Iterator[PairEntry]:
        return (PairEntry(entry.peer, entry.pair) for entry in self._entries.values())

    @property
    def watching(self) -> bool:
        """Whether the counters of a pair matter at every tick."""
        return bool(self._watching)

    # --- what happens -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        if now >= self._due:
            for entry in list(self._entries.values()):
                if now >= entry.due and not self._refusals.guard(now, entry.peer.name, self._tick, now, entry):
                    self._begin_anew(now, entry)
            self._due = min((entry.due for entry in self._entries.values()), default=now + 60.0)
        return _HOLD if self._hold(now) else self._due - now

    def _tick(self, now: float, entry: _Entry) -> None:
        delay = entry.pair.tick(now)
        self._perform(now, entry)
        entry.due = now + delay if delay < _URGENT else math.ceil((now + delay) / _GRID) * _GRID
        (self._watching.add if entry.pair.watching else self._watching.discard)(entry.peer.name)
        path = entry.pair.path
        shown = path.kind, path.via, path.endpoint, path.why_not, path.agent
        if shown != entry.path:
            entry.path = shown
            self.changes += 1

    def _begin_anew(self, now: float, entry: _Entry) -> None:
        """What its other side has said led to a fault, and would do so at every tick."""
        entry.pair.outbox.clear()
        self._remove(now, entry)
        self._add(now, entry.peer)
        self._entries[entry.peer.name].pair.network(now, *self._network)
        self._entries[entry.peer.name].due = now + _AFTER_FAULT
        self._views_told = None

    def _wake(self, now: float, entry: _Entry) -> None:
        """Something has happened: do what comes of it."""
        self._perform(now, entry)
        entry.due = self._due = now

    def received(self, now: float, datagram: Datagram) -> None:
        """Handle a datagram that came from outside the tunnel."""
        opened = self._keyring.unseal(datagram.payload)
        if opened is None:
            return
        name, probe = opened
        if not self._limits.may_answer(now, name):
            self._refusals.note(now, "too_many_probes", name)
            return
        entry = self._entries[name]
        entry.pair.probed(now, probe, datagram.source, datagram.local)
        self._wake(now, entry)

    def heard(self, now: float, payload: bytes, source: Address) -> None:
        """Handle a datagram that came through the tunnel."""
        entry = self._by_address.get(source)
        if entry is None:
            self._refusals.note(now, "unknown_sender", source)
            return
        counted_bytes = overlay_socket.counted_bytes(payload, source)
        entry.received += counted_bytes
        if not self._limits.may_read(now, entry.peer.name, counted_bytes):
            self._refusals.note(now, "too_many_messages", entry.peer.name)
            return
        try:
            message = control.decode(payload)
        except control.MessageError as error:
            self._refusals.note(now, "malformed_message", entry.peer.name, str(error))
            return
        entry.pair.control(now, message)
        self._wake(now, entry)

    def replace_peers(self, now: float, peers: Iterable[settings.Peer]) -> None:
        """The other devices are these from now on. Those that stay notice nothing."""
        wanted = {peer.name: peer for peer in peers}
        for name, entry in list(self._entries.items()):
            if wanted.get(name) == entry.peer:
                del wanted[name]
            else:
                self._remove(now, entry)
        for peer in wanted.values():
            self._add(now, peer)
            if peer.name in self._entries:
                self._entries[peer.name].pair.network(now, *self._network)
        self._views_told = None
        self._due = now
        self.changes += 1

    def sample(self, now: float, running: Interface) -> None:
        """Read the counters and endpoints of the [Peer]s."""
        for entry in self._entries.values():
            peer = running.peers.get(entry.peer.public_key)
            if peer:
                sent, came = Bytes(peer.tx, entry.sent), Bytes(peer.rx, entry.received)
                sample = sent, came, peer.endpoint, peer.handshake
                entry.pair.traffic(now, *sample)
                if sample != entry.sample:
                    entry.sample = sample
                    self._wake(now, entry)

    def relays(self, now: float) -> None:
        """Tell each pair what is new about the relays."""
        stamp = self._relays.stamp()
        if stamp == self._views_told:
            return
        self._views_told = stamp
        for view in self._relays.views():
            for entry in self._entries.values():
                fresh = view._replace(other_seen=self._relays.seen(view.name, entry.peer.addresses[0]))
                if entry.views.get(view.name) != fresh:
                    entry.views[view.name] = fresh
                    entry.pair.relay(now, fresh)
                    self._wake(now, entry)

    def network(self, now: float, endpoints: list[Endpoint], networks: list[Network]) -> None:
        """Tell each pair where this device is."""
        self._network = endpoints, networks
        for entry in self._entries.values():
            entry.pair.network(now, endpoints, networks)
            self._wake(now, entry)

    def wake(self, now: float) -> None:
        """The host has slept."""
        for entry in self._entries.values():
            entry.pair.wake(now)
            self._wake(now, entry)

    def stop(self, now: float) -> None:
        """Tell all other agents that this one ends."""
        for entry in self._entries.values():
            entry.pair.stop(now)
            self._perform(now, entry)

    # --- what the core wants ------------------------------------------------------------------------------------------

    def _perform(self, now: float, entry: _Entry) -> None:
        while entry.pair.outbox:
            self._do(now, entry, entry.pair.outbox.pop(0))

    def _do(self, now: float, entry: _Entry, action: PairAction) -> None:
        if isinstance(action, SendProbe):
            self._send(now, entry, action)
        elif isinstance(action, SendMessage):
            self._say(entry, action.message)
        elif isinstance(action, SetEndpoint):
            entry.hold = (action.endpoint, now + action.hold) if action.hold else None
            if action.hold:
                self._holding.add(entry.peer.name)
            self._set(entry, action.endpoint)
        elif isinstance(action, Rekey):
            entry.hold = None
            self._renew(entry, action.endpoint)
        elif isinstance(action, SetKey):
            entry.key = action.key
            self._keyring.put(entry.peer.name, action.key)
        elif isinstance(action, SuspectRelay):
            self._relays.suspect(now, action.relay)
        elif isinstance(action, Log):
            log.log(action.level, "%s: %s", entry.peer.name, action.text)

    def _say(self, entry: _Entry, message: control.Message) -> None:
        payload = control.encode(message)
        if self._sockets.overlay.send(payload, entry.address, self._config.control_port) and not message.answer:
            entry.sent += overlay_socket.counted_bytes(payload, entry.address)

    def _set(self, entry: _Entry, endpoint: Endpoint) -> None:
        try:
            self._wireguard.set_endpoint(entry.peer.public_key, endpoint)
        except WireGuardError as error:
            log.warning("%s: %s", entry.peer.name, error)

    def _hold(self, now: float) -> bool:
        """Set again what is to be held; return whether there is anything."""
        for name in list(self._holding):
            entry = self._entries[name]
            if entry.hold is None or now >= entry.hold[1]:
                entry.hold = None
                self._holding.discard(name)
            else:
                self._set(entry, entry.hold[0])
        return bool(self._holding)

    def _send(self, now: float, entry: _Entry, action: SendProbe) -> None:
        if not entry.key:
            return
        large = action.probe.full and action.probe.kind == PING
        if not self._limits.may_send(now, entry.peer.name, action.target, action.heard, large):
            self._refusals.note(now, "probe_limit", entry.peer.name)
            return
        try:
            self._sockets.probe.send(entry.key.seal(action.probe, self._sockets.full_size), action.target)
        except OSError as error:  # no way there: the probe is as good as lost, and the core knows what that means
            log.debug("%s: %s: %s", entry.peer.name, action.target, error)

    def _renew(self, entry: _Entry, endpoint: Endpoint) -> None:
        try:
            self._wireguard.renew(entry.peer.public_key, endpoint)
        except WireGuardError as error:
            log.warning("%s: %s", entry.peer.name, error)


def _common(own: tuple[Address, ...], other: tuple[Address, ...]) -> tuple[Address, Address] | None:
    """Return the addresses that both sides take for the pair's: the smallest of the first IP version that both have."""
    for version in (4, 6):
        sides = [[address for address in side if address.version == version] for side in (own, other)]
        if all(sides):
            return min(sides[0]), min(sides[1])
    return None
