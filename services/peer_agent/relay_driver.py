# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the relays: does what the core decides about them, and gives it what they answer."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from peer_agent import settings
from peer_agent.core.actions import AskDirectory, CloseFallback, Log, OpenFallback, RelayAction, SetRelayEndpoint
from peer_agent.core.directory_client import DirectoryClient
from peer_agent.core.paths import RelayView
from peer_agent.core.reasons import Failure
from peer_agent.core.relay_liveness import Relay, RelayLiveness
from peer_agent.endpoints import Address, Endpoint
from peer_agent.host import names, nat64
from peer_agent.host.names import RelayEndpoints, Resolver
from peer_agent.host.sockets import Sockets
from peer_agent.wireguard.interface import Client, Interface, WireGuardError

if TYPE_CHECKING:
    from peer_agent.host.fallback import Fallback

log = logging.getLogger("peer_agent")

_NAMES_SOON = 5.0  # seconds between two looks at the names of a relay that is silent
_FAIR_TRY = 1.5  # seconds in which an endpoint may answer
_ANYWHERE = {4: Endpoint("192.0.2.1", 9), 6: Endpoint("2001:db8::1", 9)}  # documentation addresses
_SESSION = 180.0  # seconds that a session lasts


class _Entry:
    """One relay."""

    def __init__(self, relay: settings.Relay, endpoints: RelayEndpoints):
        self.settings = relay
        self.endpoints = endpoints
        self.names_due = 0.0
        self.try_until: float | None = None  # when to go on to the next endpoint
        self.handshake = 0  # as WireGuard tells it
        self.session_until = float("-inf")
        self.fallback: tuple[bytes, Fallback] | None = None  # with what tells its reports from those of one before
        self.problem = ""


class RelayDriver:
    """All relays."""

    def __init__(
        self,
        config: settings.Settings,
        running: Interface,
        sockets: Sockets,
        wireguard: Client,
        resolver: Resolver,
        post: Callable[..., None],
        now: float,
    ):
        """`post(function, *arguments)` has the loop call something; any thread may use it."""
        self._sockets, self._wireguard, self._resolver, self._post = sockets, wireguard, resolver, post
        self._port = config.directory_port
        self._nat64 = nat64.prefixes(resolver.known.get(nat64.NAME, ()))
        self._entries: dict[str, _Entry] = {}
        in_fallback = ""
        for relay in config.relays:
            peer = running.peers.get(relay.public_key)
            current = peer.endpoint if peer else None
            left = current is not None and current.address.is_loopback  # the end of a fallback of an earlier run
            entry = _Entry(relay, RelayEndpoints(relay.endpoints, None if left else current, resolver.known))
            self._entries[relay.name] = entry
            if entry.endpoints.current and (left or current is None):
                self._reach(now, entry, entry.endpoints.current)
            if entry.endpoints.current and left:
                in_fallback = relay.name if relay.fallback_url else in_fallback
        self._by_address = {address: relay.name for relay in config.relays for address in relay.addresses}
        self._directory = DirectoryClient(peer.addresses[0] for peer in config.peers)
        self._mark, self._listen_port = running.mark, running.port
        ready = [
            Relay(name, entry.endpoints.current, bool(entry.settings.fallback_url))
            for name, entry in self._entries.items()
            if entry.endpoints.current
        ]
        self._core = RelayLiveness(ready, now, in_fallback)
        self._due = now
        self._reached = False  # any relay
        self._views = self._core.views()
        self.changes = 0  # of what is known of relays
        self.waiting = self._entries.keys() - {relay.name for relay in ready}  # for an address of their name
        self.sample(now, running)

    def views(self) -> list[RelayView]:
        return self._views

    def seen(self, relay: str, other: Address) -> Endpoint | None:
        """Return where a relay sees another device."""
        return self._directory.seen(relay, other)

    def stamp(self) -> object:
        """Return something that is another one when a pair has to be told of something."""
        return self.changes, self._directory.changes

    def sources(self) -> dict[str, str]:
        """Return the addresses that packets to the relays leave from."""
        return {
            name: self._sockets.source(entry.endpoints.current)
            for name, entry in self._entries.items()
            if entry.endpoints.current
        }

    def problems(self) -> list[str]:
        own = [f"{name}: {entry.problem}" for name, entry in self._entries.items() if entry.problem]
        own += [f"{name}: {problem}" for name, entry in self._entries.items() if (problem := self._no_way(entry))]
        return own + self._core.problems()

    def close(self) -> None:
        for entry in self._entries.values():
            self._disconnect(entry)

    # --- what happens -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        if now >= self._due:
            self._due = now + self._tick(now)
            views = self._core.views()
            if views != self._views:
                self._views = views
                self.changes += 1
        return self._due - now

    def _tick(self, now: float) -> float:
        views = {view.name: view for view in self._core.views()}
        for name, entry in self._entries.items():
            view = views.get(name)
            well = view is not None and view.alive and not view.fallback
            if well:
                entry.problem = ""  # its fallback's, which is not needed any more
            else:
                entry.names_due = min(entry.names_due, now + _NAMES_SOON)
            if now >= entry.names_due:
                entry.names_due = now + names.AGAIN
                for host_port in entry.endpoints.names:
                    self._resolver.ask(host_port)
                if self._is_cut_off(entry, 4):
                    self._resolver.ask(nat64.NAME)
            self._try(now, entry, well or view is None)
        reached = any(view.alive for view in views.values())
        if self._reached and not reached:
            self.bind_again()
        self._reached = reached
        delay = self._core.tick(now)
        self._perform(now)
        dues = [entry.names_due for entry in self._entries.values()]
        dues += [entry.try_until for entry in self._entries.values() if entry.try_until is not None]
        return max(0.01, min(delay, *(due - now for due in dues)))

    def _try(self, now: float, entry: _Entry, well: bool) -> None:
        """Go on to the next endpoint of a relay that is silent."""
        if well:
            entry.try_until = None
            return
        if entry.try_until is not None and now >= entry.try_until:
            if endpoint := self._next(entry):
                self._core.resolved(now, entry.settings.name, endpoint)
            entry.try_until = None
        if entry.try_until is None:
            entry.try_until = now + _FAIR_TRY

    def _next(self, entry: _Entry) -> Endpoint | None:
        return entry.endpoints.next(lambda endpoint: bool(self._sockets.source(endpoint)), self._nat64)

    def _is_cut_off(self, entry: _Entry, version: int) -> bool:
        """Whether this network has no way to where a relay is reached, for want of that IP version."""
        current = entry.endpoints.current
        return bool(
            current
            and current.address.version == version
            and not self._sockets.source(current)
            and self._sockets.source(_ANYWHERE[10 - version])
        )

    def _no_way(self, entry: _Entry) -> str:
        for version, nowhere in ((4, ", nor a NAT64 that its resolver tells (RFC 7050)"), (6, "")):
            if self._is_cut_off(entry, version):
                return (
                    f"there is no IPv{version} here for {entry.endpoints.current}{nowhere}: give relay_endpoint as a "
                    "name with addresses of both IP versions"
                )
        return ""

    def suspect(self, now: float, name: str) -> None:
        self._due = now
        self._core.suspect(now, name)

    def replace_peers(self, peers: Iterable[settings.Peer]) -> None:
        """The other devices are these from now on."""
        self._directory.replace_targets(peer.addresses[0] for peer in peers)

    def sample(self, now: float, running: Interface) -> None:
        """Read what WireGuard says of the relays' own [Peer]s."""
        for entry in self._entries.values():
            peer = running.peers.get(entry.settings.public_key)
            handshake = peer.handshake if peer else 0
            if handshake != entry.handshake:
                # Its age by the time of day may be anything, should that have been set since.
                age = max(0.0, time.time() - handshake)
                entry.handshake, entry.session_until = handshake, now + _SESSION - age

    def network(self, now: float) -> None:
        """This device is somewhere else: what could not be reached may be now, and names may have other addresses."""
        self._due = now
        for entry in self._entries.values():
            entry.try_until = None
            entry.names_due = now
            if entry.fallback:  # its TCP connection belongs to the place of before
                self._disconnect(entry)
                self._core.fallback(now, entry.settings.name, None)
            current = entry.endpoints.current
            if current and not self._sockets.source(current) and (other := self._next(entry)):
                self._core.resolved(now, entry.settings.name, other)
            elif current and now >= entry.session_until:  # wireguard-go does not know for how long the host has slept
                self._reach(now, entry, current)
        self._core.network(now)

    def resolved(self, now: float, answers: list[tuple[settings.HostPort, list[Endpoint]]]) -> bool:
        """Use what the DNS has answered; return whether a relay could be reached now that the core does not know of."""
        self._due = now
        news = False
        found = nat64.prefixes(dict(answers).get(nat64.NAME, ()))
        if found and found != self._nat64:
            self._nat64 = found
            for name, entry in self._entries.items():
                if self._is_cut_off(entry, 4) and (other := self._next(entry)):
                    log.info("%s: there is no IPv4 here, but a NAT64: %s", name, other)
                    self._core.resolved(now, name, other)
        for host_port, endpoints in answers:
            for name, entry in self._entries.items():
                if name in self.waiting and host_port in entry.endpoints.names and not endpoints:
                    entry.problem = f"{host_port.host} has no address: check the name, and that the DNS is reached"
                fresh = entry.endpoints.resolved(host_port, endpoints)
                if fresh and name in self.waiting:
                    news = True
                elif fresh:
                    log.info("%s: %s has another address: %s", name, host_port.host, fresh)
                    self._core.resolved(now, name, fresh)
        return news

    def answered(self, now: float, datagram: bytes, source: Address) -> bool:
        """Read a datagram that came from a relay's directory; return False when it is no answer."""
        self._due = now
        relay = self._by_address.get(source)
        answer = self._directory.read_answer(relay, datagram) if relay else None
        if not relay or not answer:
            return False
        nonce, seen = answer
        return self._core.answered(now, relay, nonce, seen)

    # --- what the core wants ------------------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        actions, self._core.outbox[:] = list(self._core.outbox), []
        for action in actions:
            self._do(now, action)

    def _do(self, now: float, action: RelayAction) -> None:
        if isinstance(action, Log):
            log.log(action.level, "%s", action.text)
            return
        entry = self._entries[action.relay]
        if isinstance(action, AskDirectory):
            question = self._directory.make_request(action.relay, action.nonce)
            self._sockets.overlay.send(question, entry.settings.addresses[0], self._port)
        elif isinstance(action, SetRelayEndpoint):
            self._reach(now, entry, action.endpoint)
        elif isinstance(action, OpenFallback):
            self._connect(entry)
        elif isinstance(action, CloseFallback):
            self._disconnect(entry)

    def _reach(self, now: float, entry: _Entry, endpoint: Endpoint) -> None:
        try:
            self._wireguard.set_endpoint(entry.settings.public_key, endpoint)
            if now >= entry.session_until:  # WireGuard asks for one every 5 s, but as a new [Peer] at once
                self._wireguard.renew(entry.settings.public_key, endpoint)
        except WireGuardError as error:
            log.warning("%s: %s", entry.settings.name, error)

    def bind_again(self) -> None:
        """Have WireGuard find out anew which address it sends from."""
        try:
            self._wireguard.bind_again(self._listen_port)
        except WireGuardError as error:
            log.warning("%s: %s", self._wireguard.name, error)

    def _connect(self, entry: _Entry) -> None:
        from peer_agent.host.fallback import Fallback  # needs a library that nothing else does

        self._disconnect(entry)
        token = secrets.token_bytes(8)

        def report(endpoint: Endpoint | None, failure: Failure | None) -> None:
            self._post(self._fallback_reported, entry, token, endpoint, failure)

        relay = entry.settings
        end = Fallback(relay.fallback_url, relay.fallback_fingerprint, self._mark, self._listen_port, report)
        entry.fallback = token, end

    def _disconnect(self, entry: _Entry) -> None:
        if entry.fallback:
            entry.fallback[1].close()
            entry.fallback = None

    def _fallback_reported(
        self, now: float, entry: _Entry, token: bytes, endpoint: Endpoint | None, failure: Failure | None
    ) -> None:
        if not entry.fallback or entry.fallback[0] != token:
            return
        self._due = now
        if endpoint is None:
            self._disconnect(entry)
        problem = f"fallback: {failure}" if failure else ""
        if problem and problem != entry.problem:
            log.warning("%s: %s", entry.settings.name, problem)
        entry.problem = problem
        self._core.fallback(now, entry.settings.name, endpoint, failure.reason if failure else "")
