# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to ask the router next, and what its answers mean: the whole decision, without any I/O.

One keeper serves one address family. Whoever runs it takes an action from `next`, does it, and brings the outcome to
`done`; there is at most one action at a time. `now` is a clock that goes on while the host sleeps (CLOCK_BOOTTIME), so
that a lease that ran out meanwhile is known to have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from port_mapping.lifetime import restarted
from port_mapping.mapping import Found, Granted, Holder, Life, Malformed, MappingError, NoAddress, Unreachable, Wanted

from port_keeper.lease import Lease, Mapping, key

_GRACE = 10.0  # seconds of silence before it is a problem: a lost packet is none, nor a router's quick restart
_SAME_METHOD = 3  # searches by the method that worked, before any other is tried
_LONG_SILENCE = 600.0  # seconds after which a router that is gone is asked for less often
_SELDOM = 30.0
_BURST, _INTERVAL = 4, 60.0  # how often what a router says of itself is acted on at once, and seconds between others
_STILL = "has an epoch that stands still, and so tells of no restart"
_RESTLESS = "tells of one restart after the other"
_WANDERING = "tells of one external address after the other"


@dataclass(frozen=True)
class Find:
    """Search the router, by this method, or "" for what the settings say."""

    method: str


@dataclass(frozen=True)
class Look:
    """Ask the router for a sign of life."""


@dataclass(frozen=True)
class AskHolder:
    """Ask the router whose this mapping is."""

    wanted: Wanted


@dataclass(frozen=True)
class Map:
    """Have the router make the mapping, or renew it."""

    wanted: Wanted


@dataclass(frozen=True)
class Unmap:
    """Have the router delete the mapping."""

    wanted: Wanted


Action = Find | Look | AskHolder | Map | Unmap
# Of Find, Look, AskHolder and Map; of Unmap, or of an AskHolder that finds nobody; of whatever fails.
Outcome = Found | Life | Holder | Granted | None | MappingError


class Event(NamedTuple):
    """Something for the journal."""

    level: int
    text: str


class _Pace:
    """How often something may be: a few times in a row, then once per interval."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def wait(self, now: float) -> float:
        """Return how many seconds there are to wait."""
        return max(0.0, self._next - now - (_BURST - 1) * _INTERVAL)

    def reserve(self, now: float) -> float:
        """Have the next turn; return how many seconds it is away."""
        wait = self.wait(now)
        self._next = max(self._next, now) + _INTERVAL
        return wait


class Keeper:
    """The mappings of one address family."""

    def __init__(self, mappings: Iterable[Mapping], poll: float, now: float, leftover: Iterable[Wanted] = ()):
        self.leases = [Lease(mapping, now) for mapping in mappings]
        self.poll = poll
        self.router: Found | None = None
        self.address = ""  # the external one
        self.address_since: float | None = None
        self.address_changes = 0
        self.addressless = False  # the router says that it has none
        self.refused = 0  # answers that were none
        self.events: list[Event] = []
        self._leaving = list(leftover)
        self._running: Action | None = None
        self._outdated = False  # what runs is about a router that is not ours any more
        self._next_hop: tuple[str, str] | None = None
        self._told_by: Found | None = None  # the router that was found last, also when it is silent
        self._last: tuple[str, str, str] | None = None  # method, router and own address that were found last
        self._failures = 0
        self._silent_since: float | None = None
        self._silence = self._told = ""
        self._announced_at = float("-inf")
        self._life: Life | None = None
        self._life_at = 0.0
        self._find_at = self._look_at = now
        self._look_first = False
        self._listing = True  # the router can be asked whose a mapping is
        self._to_ask: list[Wanted] = []
        self._complaint = ""  # about signs of life that make no sense
        self._odd: set[str] = set()  # what the router does in the long run
        # What anybody at home can forge, and what a router can invent, sets a bounded number of requests off.
        self._announcements, self._restarts, self._moves = _Pace(), _Pace(), _Pace()
        self._again_at = float("-inf")  # until then, all mappings are to be made again already

    # --- what to do ---------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Action | None:
        """Return what to do now, if anything."""
        if self._running is None:
            self._running = self._choose(now)
            return self._running
        return None

    def _choose(self, now: float) -> Action | None:
        if self.router is None:
            if now < self._find_at or not (self.leases or self._leaving):
                return None
            return Find(self._last[0] if self._last and self._failures <= _SAME_METHOD else "")
        if self._look_first:
            return Look()
        if self._leaving:
            return Unmap(self._leaving[0])
        first = min(self.leases, key=lambda lease: lease.due, default=None)
        if first is not None and first.due <= now:
            return Map(first.mapping.wanted)
        if self._to_ask:
            return AskHolder(self._to_ask.pop())
        return Look() if self.leases and self._look_at <= now else None

    def due(self) -> float:
        """Return when `next` will have something to do, as far as it is known."""
        if self._running is not None or not (self.leases or self._leaving):
            return float("inf")
        if self.router is None:
            return self._find_at
        return float("-inf") if self._look_first or self._leaving or self._to_ask else self._next_due()

    def _next_due(self) -> float:
        return min(self._look_at, *(lease.due for lease in self.leases))

    # --- what happened ------------------------------------------------------------------------------------------------

    def done(self, now: float, outcome: Outcome) -> None:
        """Handle the outcome of the action that `next` returned last; raise TypeError for one that it cannot have."""
        action, self._running = self._running, None
        self.addressless |= isinstance(outcome, NoAddress)
        self.refused += isinstance(outcome, Malformed)
        if self._outdated:
            self._outdated = False
        elif isinstance(outcome, Unreachable):
            self._unanswered(now, str(outcome))
        elif isinstance(action, Find) and isinstance(outcome, Found | MappingError):
            self._found(now, outcome)
        elif isinstance(action, Look) and isinstance(outcome, Life | MappingError):
            self._looked(now, outcome)
        elif isinstance(action, AskHolder) and (outcome is None or isinstance(outcome, Holder | MappingError)):
            self._asked(now, action.wanted, outcome)
        elif isinstance(action, Map) and isinstance(outcome, Granted | MappingError):
            self._mapped(now, action.wanted, outcome)
        elif isinstance(action, Unmap) and (outcome is None or isinstance(outcome, MappingError)):
            self._unmapped(action.wanted, outcome)
        else:
            raise TypeError(f"{outcome!r} cannot come of {action!r}")

    def update_next_hop(self, now: float, gateway: str, local: str) -> None:
        """Note the default gateway and this host's address towards it: "" while there is none, which tells nothing."""
        if not gateway or not local or (gateway, local) == self._next_hop:
            return
        before, self._next_hop = self._next_hop, (gateway, local)
        if before is not None:
            self._say(f"the router is {gateway} and this host {local}, no longer {before[0]} and {before[1]}")
            self.search(now)

    def search(self, now: float) -> None:
        """Forget the router that was found: it is another one, or is to be found in another way."""
        self._outdated = self._running is not None
        self.router = self._last = None
        self._failures = 0
        self._find_at = now

    def announced(self, now: float, sender: str) -> None:
        """Heed that the router says that it, or its address, is new; anybody could, and it costs a renewal."""
        if self._last is None or sender != self._last[1] or now - self._announced_at < _GRACE:
            return
        if self._announcements.wait(now):
            return
        self._announcements.reserve(now)
        self._announced_at = self._find_at = now
        self._look_first = True
        for lease in self.leases:
            lease.ask_now(now)

    def apply(self, now: float, mappings: Iterable[Mapping], poll: float) -> None:
        """Apply other settings."""
        self.poll = poll
        before = {key(lease.mapping.wanted): lease for lease in self.leases}
        self.leases = []
        for mapping in mappings:
            lease = before.pop(key(mapping.wanted), None)
            if lease is None:
                lease = Lease(mapping, now)
            elif lease.mapping != mapping or lease.problem:
                lease.mapping = mapping
                lease.ask_now(now)
            self.leases.append(lease)
        kept = {key(lease.mapping.wanted) for lease in self.leases}
        self._leaving = [wanted for wanted in self._leaving if key(wanted) not in kept]
        self._leaving += [lease.mapping.wanted for lease in before.values()]
        self._to_ask = []

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _found(self, now: float, outcome: Found | MappingError) -> None:
        if isinstance(outcome, MappingError):
            self._unanswered(now, str(outcome))
            return
        self.router = self._told_by = outcome
        found = (outcome.method, outcome.gateway, outcome.local_address)
        if found != self._last:
            self._say(f"router {outcome.gateway} speaks {outcome.method}")
            self._life = None
            self._odd.clear()
            for lease in self.leases:
                lease.granted = None
        self._last = found
        self._failures = 0
        self._silent_since = None
        self._told = ""
        self._listing = True
        self._to_ask = []
        # Life first: a restart between it and the mapping would not be noticed the other way round. Then all mappings,
        # since nobody knows what a router did in its silence.
        self._look_first = True
        for lease in self.leases:
            lease.ask_now(now)

    def _looked(self, now: float, outcome: Life | MappingError) -> None:
        self._look_first = False
        self._look_at = now + self.poll
        if isinstance(outcome, MappingError):
            if not isinstance(outcome, NoAddress):
                self._complain(str(outcome))
            return
        self._complain("")
        before, life = self._life, outcome
        if before is not None:
            if life.boot_id is None:  # that question went unanswered, this time
                life = replace(life, boot_id=before.boot_id)
            if life.epoch is not None and life.epoch == before.epoch and _STILL in self._odd:
                before = replace(before, epoch=None)
            else:
                self._odd.discard(_STILL)
            if restarted(before, self._life_at, life, now):
                if life.epoch == before.epoch and life.boot_id == before.boot_id:
                    self._odd.add(_STILL)  # if it does so the next time as well
                self._restarted(now)
        self._life, self._life_at = life, now
        if life.external_address and self._set_address(now, life.external_address):
            for lease in self.leases:
                lease.ask_now(now)
        if self._listing and not self._to_ask:
            self._to_ask = [lease.mapping.wanted for lease in self.leases if lease.live(now)]

    def _asked(self, now: float, wanted: Wanted, outcome: Holder | MappingError | None) -> None:
        lease = self._find_lease(wanted)
        if isinstance(outcome, MappingError):
            self._listing = False
            self._to_ask = []
        elif lease is not None and lease.live(now) and self.router is not None:
            holder = outcome[:2] if outcome else None
            if holder == (self.router.local_address, wanted.internal_port):
                lease.listed = True
            elif holder is not None or lease.listed:  # some routers never list what they granted
                self._say(f"{lease.mapping.name}: the router has dropped the mapping", logging.WARNING)
                lease.forget(now)

    def _mapped(self, now: float, wanted: Wanted, outcome: Granted | MappingError) -> None:
        lease = self._find_lease(wanted)
        if lease is None:
            return  # taken off the settings meanwhile, and about to be deleted
        if isinstance(outcome, MappingError):
            if lease.refuse(now, outcome):
                self._say(f"{lease.mapping.name}: {outcome}", logging.WARNING)
            return
        news = lease.grant(now, outcome)
        if news:
            port = f"{wanted.protocol} {outcome.external_port}"
            self._say(f"{lease.mapping.name}: {port} is open{' again' if news == 'again' else ''}")
        if outcome.external_address and not (self._life and self._life.external_address):
            self._set_address(now, outcome.external_address)

    def _unmapped(self, wanted: Wanted, outcome: MappingError | None) -> None:
        if isinstance(outcome, MappingError):
            self._say(f"{wanted.protocol} {wanted.external_port} stays open in the router: {outcome}", logging.WARNING)
        self._leaving = [other for other in self._leaving if key(other) != key(wanted)]

    # --- the router ---------------------------------------------------------------------------------------------------

    def _unanswered(self, now: float, text: str) -> None:
        self.router = None
        self._failures += 1
        if self._silent_since is None:
            self._silent_since = now
        silent = now - self._silent_since
        # A first failure may be a lost packet, or an address of the router's that its restart has changed.
        wait = 0.0 if self._failures == 1 and self._last else self.poll if silent < _LONG_SILENCE else _SELDOM
        self._find_at = now + wait
        self._silence = text
        if silent >= _GRACE and text != self._told:
            self._say(text, logging.WARNING)
            self._told = text

    def _restarted(self, now: float) -> None:
        if now < self._again_at:
            return
        wait = self._restarts.reserve(now)
        self._again_at = now + wait
        if wait:
            self._odd.add(_RESTLESS)
            for lease in self.leases:
                lease.due = min(lease.due, now + wait)
            return
        self._say("the router has restarted: making the mappings again", logging.WARNING)
        for lease in self.leases:
            lease.forget(now)

    def _set_address(self, now: float, address: str) -> bool:
        """Note the external address; return whether it is another one than before."""
        self.addressless = False
        if address == self.address:
            return False
        if self._moves.wait(now):
            self._odd.add(_WANDERING)
            return False
        self._moves.reserve(now)
        before, self.address = self.address, address
        self.address_since = now
        if not before:
            return False
        self.address_changes += 1
        self._say(f"the external address is {address}, no longer {before}", logging.WARNING)
        return True

    def _complain(self, text: str) -> None:
        if text and text != self._complaint:
            self._say(text, logging.WARNING)
        self._complaint = text

    # --- for others to read -------------------------------------------------------------------------------------------

    def answering(self, now: float) -> tuple[str, str] | None:
        """Return the router's address and the method, unless it has been silent for too long."""
        if self._last is None or self._silent(now):
            return None
        method, gateway, _ = self._last
        return gateway, method

    def _silent(self, now: float) -> bool:
        return self._silent_since is not None and now - self._silent_since >= _GRACE

    def problems(self, now: float) -> list[str]:
        """Return what is wrong with the router itself."""
        missing = self._silent(now) or (self._silent_since is not None and self._last is None)
        return [text for text in (self._silence if missing else "", self._complaint) if text]

    def oddities(self) -> list[str]:
        """Return what the router does against its protocol, and is understood all the same."""
        return sorted({*self._odd, *(self._told_by.oddities if self._told_by else ())})

    @property
    def model(self) -> str:
        """What the router calls itself, as far as it does."""
        return self._told_by.model if self._told_by else ""

    def remembered(self) -> list[Wanted]:
        """Return the mappings that the router may have, to be deleted once nobody wants them any more."""
        return [lease.mapping.wanted for lease in self.leases if lease.was_granted] + self._leaving

    def _find_lease(self, wanted: Wanted) -> Lease | None:
        return next((lease for lease in self.leases if key(lease.mapping.wanted) == key(wanted)), None)

    def _say(self, text: str, level: int = logging.INFO) -> None:
        self.events.append(Event(level, text))
