# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which relays are alive, and whether any is reached over UDP at all: for the whole device, without any I/O.

The directory of each relay is asked in the tunnel: its answer proves that the relay lives and that packets go both
ways, tells the round trip, and renews what the relay knows of this device's address. While no relay answers over UDP,
one is reached over the fallback, and UDP is tried again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from peer_agent.core.actions import AskDirectory, CloseFallback, Log, OpenFallback, RelayAction, SetRelayEndpoint
from peer_agent.core.paths import RelayView
from peer_agent.core.relay_health import RelayHealth
from peer_agent.endpoints import Endpoint

_TRY_UDP = 5.0  # seconds between attempts while the fallback is in use
_ATTEMPT = 0.6  # seconds that one lasts
_CONNECT = 5.0  # seconds for the fallback to come up, before another relay's is tried
_AGAIN = 2.0  # seconds after one that failed
_FLAPPING = 3  # deaths of a relay that are no accident


class Relay(NamedTuple):
    """A relay in the settings."""

    name: str
    endpoint: Endpoint
    fallback: bool  # it can be reached over TLS as well


class RelayLiveness:
    """All relays, in their stated order. `outbox` holds what is to be done."""

    def __init__(self, relays: Iterable[Relay], now: float, in_fallback: str = ""):
        """`in_fallback` is the relay whose fallback an earlier run has left in use: none has answered over UDP then."""
        self.outbox: list[RelayAction] = []
        self._relays = {relay.name: relay for relay in relays}
        self._udp_health = {name: RelayHealth(now, alive=not in_fallback) for name in self._relays}
        self._seen: dict[str, Endpoint | None] = {}
        self._failures: dict[str, str] = {}
        self._nonce = 0
        self._fallback_relay = ""  # the relay whose fallback is open, or is being opened
        self._last_fallback = ""  # the one before
        self._stood_fallback = in_fallback  # the one before, if it stood for a while: what has cut it off may be over
        self._fallback_endpoint: Endpoint | None = None  # this device's end of it, once it is up
        self._fallback_health = RelayHealth(now)  # over it
        self._begun_at = float("-inf")
        self._connect_at = now
        self._attempt_at = now
        self._attempt_ends: float | None = None  # while its relay's own [Peer] is on UDP for an attempt

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        for name, health in self._udp_health.items():
            if health.judge(now):
                self._note(f"relay {name} does not answer over UDP", logging.WARNING)
            if name != self._fallback_relay and health.should_ask(now):
                self._ask(now, name, health)
        if any(health.alive for health in self._udp_health.values()):
            if self._fallback_relay:
                self._end_fallback(now)
        elif self._fallback_relay:
            self._tick_fallback(now)
        elif now >= self._connect_at:
            self._begin_fallback(now)
        due = [health.due() for name, health in self._udp_health.items() if name != self._fallback_relay]
        if self._fallback_relay:
            due.append(self._fallback_due())
        elif not any(health.alive for health in self._udp_health.values()):
            due.append(self._connect_at)
        return min(max(min(due, default=now + _TRY_UDP) - now, 0.01), _TRY_UDP)

    def _ask(self, now: float, name: str, health: RelayHealth) -> None:
        self._nonce += 1
        nonce = self._nonce.to_bytes(8, "big")
        health.note_question(now, nonce)
        self.outbox.append(AskDirectory(name, nonce))

    # --- the fallback -------------------------------------------------------------------------------------------------

    def _begin_fallback(self, now: float) -> None:
        able = [relay.name for relay in self._relays.values() if relay.fallback]
        if not able:
            self._connect_at = now + _AGAIN
            return
        # Each in turn: which one works, nobody knows.
        turn = able.index(self._last_fallback) + 1 if self._last_fallback in able else 0
        self._fallback_relay = self._last_fallback = self._stood_fallback or able[turn % len(able)]
        self._stood_fallback = ""
        self._begun_at = now
        self._note(f"no relay answers over UDP: opening the fallback to {self._fallback_relay}", logging.WARNING)
        self.outbox.append(OpenFallback(self._fallback_relay))

    def _tick_fallback(self, now: float) -> None:
        local = self._fallback_endpoint
        if local is None:
            if now - self._begun_at >= _CONNECT:
                self._end_fallback(now)
            return
        udp = self._udp_health[self._fallback_relay]
        if self._attempt_ends is not None:
            if now >= self._attempt_ends:
                self._end_attempt(now, local)
            elif udp.hits and not udp.waiting:
                self._ask(now, self._fallback_relay, udp)  # once is not enough
        elif now >= self._attempt_at:
            self._attempt_ends = now + _ATTEMPT
            self.outbox.append(SetRelayEndpoint(self._fallback_relay, self._relays[self._fallback_relay].endpoint))
            self._ask(now, self._fallback_relay, udp)
        elif self._fallback_health.judge(now):
            self._note(f"the fallback to {self._fallback_relay} has gone silent", logging.WARNING)
            self._end_fallback(now)
        elif self._fallback_health.should_ask(now):
            self._ask(now, self._fallback_relay, self._fallback_health)

    def _end_attempt(self, now: float, local: Endpoint) -> None:
        self._attempt_ends = None
        self._attempt_at = now + _TRY_UDP
        self._udp_health[self._fallback_relay].hits = 0
        self.outbox.append(SetRelayEndpoint(self._fallback_relay, local))
        self._ask(now, self._fallback_relay, self._fallback_health)  # tells the relay the way back

    def _fallback_due(self) -> float:
        if self._fallback_endpoint is None:
            return self._begun_at + _CONNECT
        if self._attempt_ends is not None:
            return self._attempt_ends
        return min(self._attempt_at, self._fallback_health.due())

    def _end_fallback(self, now: float) -> None:
        name, self._fallback_relay = self._fallback_relay, ""
        self._stood_fallback = name if self._fallback_endpoint is not None and now - self._begun_at > _CONNECT else ""
        self._fallback_endpoint = self._attempt_ends = None
        self._connect_at = now if self._stood_fallback else now + _AGAIN
        self._udp_health[name].suspect(now)
        self.outbox += [SetRelayEndpoint(name, self._relays[name].endpoint), CloseFallback(name)]

    # --- what happened ------------------------------------------------------------------------------------------------

    def suspect(self, now: float, name: str) -> None:
        """A pair hears nothing over this relay: what has cut it off may have cut off all."""
        if name == self._fallback_relay and self._fallback_endpoint is not None:
            self._fallback_health.suspect(now)
        for health in self._udp_health.values():
            if health.alive:
                health.suspect(now)

    def answered(self, now: float, name: str, nonce: bytes, seen: Endpoint | None) -> bool:
        """The relay's directory has answered this nonce; return False for an answer to nothing that was asked."""
        if name not in self._relays:
            return False
        if name == self._fallback_relay and self._fallback_health.note_answer(now, nonce):
            return True
        health = self._udp_health[name]
        was_alive = health.alive
        if not health.note_answer(now, nonce):
            return False
        self._seen[name] = seen
        if health.alive and not was_alive:
            self._failures.pop(name, None)
            self._note(f"relay {name} answers over UDP again")
        return True

    def fallback(self, now: float, name: str, endpoint: Endpoint | None, failure: str = "") -> None:
        """The fallback to this relay is up, at this local endpoint, or has ended (None) for a reason of REASONS."""
        if name != self._fallback_relay:
            return
        self._failures[name] = failure
        if endpoint is None:
            self._end_fallback(now)
            return
        self._fallback_endpoint = endpoint
        self._fallback_health = RelayHealth(now)
        self._attempt_at = now + _TRY_UDP
        self.outbox.append(SetRelayEndpoint(name, endpoint))
        self._ask(now, name, self._fallback_health)

    def resolved(self, now: float, name: str, endpoint: Endpoint) -> None:
        """The relay has another address now, or another of its addresses is to be tried."""
        if self._relays[name].endpoint == endpoint:
            return
        self._relays[name] = self._relays[name]._replace(endpoint=endpoint)
        if name != self._fallback_relay or self._fallback_endpoint is None:
            self.outbox.append(SetRelayEndpoint(name, endpoint))
            self._udp_health[name].suspect(now)

    def network(self, now: float) -> None:
        """This device's addresses have changed: ask all relays at once."""
        self._attempt_at = self._connect_at = now
        self._fallback_health.suspect(now)
        for health in self._udp_health.values():
            health.suspect(now)

    def views(self) -> list[RelayView]:
        """How each relay is reached; give each that has changed to every pair, with what it says of the other."""
        return [self._view(relay) for relay in self._relays.values()]

    def problems(self) -> list[str]:
        """Return what somebody should look into, a sentence each."""
        return [
            f"{name}: has stopped answering {health.deaths} times within ten minutes: see its journal, and the network "
            "between here and there"
            for name, health in self._udp_health.items()
            if health.deaths >= _FLAPPING
        ]

    def _view(self, relay: Relay) -> RelayView:
        health = self._udp_health[relay.name]
        if relay.name == self._fallback_relay and self._fallback_endpoint is not None:
            return RelayView(relay.name, self._fallback_endpoint, True, True, self._fallback_health.rtt)
        seen, failure = self._seen.get(relay.name), self._failures.get(relay.name, "")
        return RelayView(
            relay.name, relay.endpoint, health.alive, False, health.rtt, seen, failure=failure, steady=health.steady
        )

    def _note(self, text: str, level: int = logging.INFO) -> None:
        self.outbox.append(Log(text, level))
