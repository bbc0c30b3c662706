# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relays: what the core decides about them is done here, and what they answer goes back to it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from peer_agent import settings
from peer_agent.core.actions import Ask, Connect, Disconnect, Note, Reach, RelayAction
from peer_agent.core.directory_client import Asker
from peer_agent.core.paths import View
from peer_agent.core.reasons import Failure
from peer_agent.core.relay_liveness import Relay, Relays
from peer_agent.endpoints import Address, Endpoint
from peer_agent.host import names, nat64
from peer_agent.host.names import Places, Resolver
from peer_agent.host.sockets import Sockets
from peer_agent.wireguard.interface import Client, Interface, WireGuardError

if TYPE_CHECKING:
    from peer_agent.host.fallback import Fallback

log = logging.getLogger("peer_agent")

_NAMES_SOON = 5.0  # seconds between two looks at the names of a relay that is silent
_FAIR_TRY = 1.5  # seconds in which an endpoint may answer
_ANYWHERE = {4: Endpoint("192.0.2.1", 9), 6: Endpoint("2001:db8::1", 9)}  # documentation addresses
_SESSION = 180.0  # seconds that a session lasts


class _Link:
    """One relay."""

    def __init__(self, relay: settings.Relay, places: Places):
        self.settings = relay
        self.places = places
        self.names_due = 0.0
        self.try_until: float | None = None  # when to go on to the next endpoint
        self.handshake = 0  # as WireGuard tells it
        self.session_until = float("-inf")
        self.fallback: tuple[bytes, Fallback] | None = None  # with what tells its reports from those of one before
        self.problem = ""


class Links:
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
        """Take also `post(function, *arguments)`, which has the loop call something, from any thread."""
        self._sockets, self._wireguard, self._resolver, self._post = sockets, wireguard, resolver, post
        self._port = config.directory_port
        self._nat64 = nat64.prefixes(resolver.known.get(nat64.NAME, ()))
        self._links: dict[str, _Link] = {}
        carrier = ""
        for relay in config.relays:
            peer = running.peers.get(relay.public_key)
            current = peer.endpoint if peer else None
            left = current is not None and current.address.is_loopback  # the end of a fallback of an earlier run
            link = _Link(relay, Places(relay.endpoints, None if left else current, resolver.known))
            self._links[relay.name] = link
            if link.places.current and (left or current is None):
                self._reach(now, link, link.places.current)
            if link.places.current and left:
                carrier = relay.name if relay.fallback_url else carrier
        self._by_address = {address: relay.name for relay in config.relays for address in relay.addresses}
        self._asker = Asker(peer.addresses[0] for peer in config.peers)
        self._mark, self._listen_port = running.mark, running.port
        ready = [
            Relay(name, link.places.current, bool(link.settings.fallback_url))
            for name, link in self._links.items()
            if link.places.current
        ]
        self._core = Relays(ready, now, carrier)
        self._due = now
        self._reached = False  # any relay
        self._views = self._core.views()
        self.changes = 0  # of what is known of relays
        self.waiting = self._links.keys() - {relay.name for relay in ready}  # for an address of their name
        self.sample(now, running)

    def views(self) -> list[View]:
        return self._views

    def seen(self, relay: str, other: Address) -> Endpoint | None:
        """Return where a relay sees another device."""
        return self._asker.seen(relay, other)

    def stamp(self) -> object:
        """Return something that is another one when a pair has to be told of something."""
        return self.changes, self._asker.changes

    def sources(self) -> dict[str, str]:
        """Return the addresses that packets to the relays leave from."""
        return {
            name: self._sockets.source(link.places.current) for name, link in self._links.items() if link.places.current
        }

    def problems(self) -> list[str]:
        own = [f"{name}: {link.problem}" for name, link in self._links.items() if link.problem]
        own += [f"{name}: {problem}" for name, link in self._links.items() if (problem := self._no_way(link))]
        return own + self._core.problems()

    def close(self) -> None:
        for link in self._links.values():
            self._disconnect(link)

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
        for name, link in self._links.items():
            view = views.get(name)
            well = view is not None and view.alive and not view.fallback
            if well:
                link.problem = ""  # its fallback's, which is not needed any more
            else:
                link.names_due = min(link.names_due, now + _NAMES_SOON)
            if now >= link.names_due:
                link.names_due = now + names.AGAIN
                for place in link.places.names:
                    self._resolver.ask(place)
                if self._is_cut_off(link, 4):
                    self._resolver.ask(nat64.NAME)
            self._try(now, link, well or view is None)
        reached = any(view.alive for view in views.values())
        if self._reached and not reached:
            self.bind_again()
        self._reached = reached
        delay = self._core.tick(now)
        self._perform(now)
        dues = [due for link in self._links.values() for due in (link.names_due, link.try_until) if due is not None]
        return max(0.01, min(delay, *(due - now for due in dues)))

    def _try(self, now: float, link: _Link, well: bool) -> None:
        """Go on to the next endpoint of a relay that is silent."""
        if well:
            link.try_until = None
            return
        if link.try_until is not None and now >= link.try_until:
            if endpoint := self._next(link):
                self._core.resolved(now, link.settings.name, endpoint)
            link.try_until = None
        if link.try_until is None:
            link.try_until = now + _FAIR_TRY

    def _next(self, link: _Link) -> Endpoint | None:
        return link.places.next(lambda endpoint: bool(self._sockets.source(endpoint)), self._nat64)

    def _is_cut_off(self, link: _Link, version: int) -> bool:
        """Whether this network has no way to where a relay is reached, for want of that IP version."""
        current = link.places.current
        return bool(
            current
            and current.address.version == version
            and not self._sockets.source(current)
            and self._sockets.source(_ANYWHERE[10 - version])
        )

    def _no_way(self, link: _Link) -> str:
        for version, nowhere in ((4, ", nor a NAT64 that its resolver tells (RFC 7050)"), (6, "")):
            if self._is_cut_off(link, version):
                return (
                    f"there is no IPv{version} here for {link.places.current}{nowhere}: give relay_endpoint as a name "
                    "with addresses of both IP versions"
                )
        return ""

    def suspect(self, now: float, name: str) -> None:
        self._due = now
        self._core.suspect(now, name)

    def take(self, peers: Iterable[settings.Peer]) -> None:
        """The other devices are these from now on."""
        self._asker.take(peer.addresses[0] for peer in peers)

    def sample(self, now: float, running: Interface) -> None:
        """Take what WireGuard says of the relays' own [Peer]s."""
        for link in self._links.values():
            peer = running.peers.get(link.settings.public_key)
            handshake = peer.handshake if peer else 0
            if handshake != link.handshake:
                # Its age by the time of day may be anything, should that have been set since.
                age = max(0.0, time.time() - handshake)
                link.handshake, link.session_until = handshake, now + _SESSION - age

    def network(self, now: float) -> None:
        """This device is somewhere else: what could not be reached may be now, and names may have other addresses."""
        self._due = now
        for link in self._links.values():
            link.try_until = None
            link.names_due = now
            if link.fallback:  # its TCP connection belongs to the place of before
                self._disconnect(link)
                self._core.fallback(now, link.settings.name, None)
            current = link.places.current
            if current and not self._sockets.source(current) and (other := self._next(link)):
                self._core.resolved(now, link.settings.name, other)
            elif current and now >= link.session_until:  # wireguard-go does not know for how long the host has slept
                self._reach(now, link, current)
        self._core.network(now)

    def resolved(self, now: float, answers: list[tuple[settings.Place, list[Endpoint]]]) -> bool:
        """Take what the DNS has said; return whether a relay could be reached now that the core does not know of."""
        self._due = now
        news = False
        found = nat64.prefixes(dict(answers).get(nat64.NAME, ()))
        if found and found != self._nat64:
            self._nat64 = found
            for name, link in self._links.items():
                if self._is_cut_off(link, 4) and (other := self._next(link)):
                    log.info("%s: there is no IPv4 here, but a NAT64: %s", name, other)
                    self._core.resolved(now, name, other)
        for place, endpoints in answers:
            for name, link in self._links.items():
                if name in self.waiting and place in link.places.names and not endpoints:
                    link.problem = f"{place.host} has no address: check the name, and that the DNS is reached"
                fresh = link.places.found(place, endpoints)
                if fresh and name in self.waiting:
                    news = True
                elif fresh:
                    log.info("%s: %s has another address: %s", name, place.host, fresh)
                    self._core.resolved(now, name, fresh)
        return news

    def answered(self, now: float, datagram: bytes, source: Address) -> bool:
        """Take a datagram that came from a relay's directory; return False when it is none."""
        self._due = now
        relay = self._by_address.get(source)
        answer = self._asker.answer(relay, datagram) if relay else None
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
        if isinstance(action, Note):
            log.log(action.level, "%s", action.text)
            return
        link = self._links[action.relay]
        if isinstance(action, Ask):
            question = self._asker.question(action.relay, action.nonce)
            self._sockets.overlay.send(question, link.settings.addresses[0], self._port)
        elif isinstance(action, Reach):
            self._reach(now, link, action.endpoint)
        elif isinstance(action, Connect):
            self._connect(link)
        elif isinstance(action, Disconnect):
            self._disconnect(link)

    def _reach(self, now: float, link: _Link, endpoint: Endpoint) -> None:
        try:
            self._wireguard.set_endpoint(link.settings.public_key, endpoint)
            if now >= link.session_until:  # WireGuard asks for one every 5 s, but as a new [Peer] at once
                self._wireguard.renew(link.settings.public_key, endpoint)
        except WireGuardError as error:
            log.warning("%s: %s", link.settings.name, error)

    def bind_again(self) -> None:
        """Have WireGuard find out anew which address it sends from."""
        try:
            self._wireguard.bind_again(self._listen_port)
        except WireGuardError as error:
            log.warning("%s: %s", self._wireguard.name, error)

    def _connect(self, link: _Link) -> None:
        from peer_agent.host.fallback import Fallback  # needs a library that nothing else does

        self._disconnect(link)
        token = secrets.token_bytes(8)

        def report(endpoint: Endpoint | None, failure: Failure | None) -> None:
            self._post(self._fallback_reported, link, token, endpoint, failure)

        relay = link.settings
        end = Fallback(relay.fallback_url, relay.fallback_fingerprint, self._mark, self._listen_port, report)
        link.fallback = token, end

    def _disconnect(self, link: _Link) -> None:
        if link.fallback:
            link.fallback[1].close()
            link.fallback = None

    def _fallback_reported(
        self, now: float, link: _Link, token: bytes, endpoint: Endpoint | None, failure: Failure | None
    ) -> None:
        if not link.fallback or link.fallback[0] != token:
            return
        self._due = now
        if endpoint is None:
            self._disconnect(link)
        problem = f"fallback: {failure}" if failure else ""
        if problem and problem != link.problem:
            log.warning("%s: %s", link.settings.name, problem)
        link.problem = problem
        self._core.fallback(now, link.settings.name, endpoint, failure.reason if failure else "")
