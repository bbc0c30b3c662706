# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router, a keeper and a clock that moves when told. Nothing here opens a socket."""

from __future__ import annotations

from types import SimpleNamespace

from port_keeper.keeper import Action, AskHolder, Find, Keeper, Look, Map, Outcome
from port_keeper.lease import Mapping
from port_mapping.mapping import Conflict, Granted, Holder, HolderUnknown, Life, MappingError, Unreachable, Wanted

METHODS = ["pcp", "nat-pmp", "upnp"]
POLL = 3
LATENCY = 0.05
# How soon the keeper does what it has heard of, and what it has to look for.
AT_ONCE = 5 * LATENCY
NEXT_LOOK = POLL + 6 * LATENCY
RELAY = Mapping("relay", Wanted(40000, 41000, lease=600))
WEB = Mapping("web", Wanted(80, 8080, "tcp", lease=600))


class Router:
    """What the keeper asks; tests change it under way."""

    def __init__(self, world: World, method: str = "pcp", gateway: str = "192.0.2.254"):
        self.world = world
        self.method = method
        self.gateway = gateway
        self.address = "203.0.113.1"
        self.alive = True
        self.found = False
        self.epoch_of = world.now  # since when it counts
        self.boot_id: int | None = None
        self.leases: bool = True
        self.lists = method == "upnp"
        self.shows = True  # what it granted
        self.refuses: type[MappingError] | None = None
        self.table: dict[tuple[str, int], tuple[str, int, float]] = {}  # (protocol, port) -> (host, port, end)

    @staticmethod
    def epoch_like(age: int) -> int:
        """Return what the router counts when it has run for so many seconds."""
        return age

    def restart(self, epoch: bool = True, boot: bool = False) -> None:
        """Lose all mappings."""
        self.table.clear()
        if epoch:
            self.epoch_of = self.world.now
        if boot:
            self.boot_id = (self.boot_id or 0) + 1

    def maps(self, wanted: Wanted, local: str = "192.0.2.7") -> bool:
        """Whether a packet from outside would arrive."""
        host, port, end = self.table.get((wanted.protocol, wanted.external_port), ("", 0, 0.0))
        return (host, port) == (local, wanted.internal_port) and end > self.world.now

    def answer(self, action: Action) -> Outcome:
        if not self.alive:
            raise Unreachable(f"{self.gateway} does not answer")
        if isinstance(action, Find):
            if action.method not in ("", self.method):
                raise Unreachable(f"{self.gateway} does not speak {action.method}")
            self.found = True
            return SimpleNamespace(
                method=self.method, gateway=self.gateway, local_address=self.world.local, model="", oddities=()
            )
        if not self.found:
            raise Unreachable(f"{self.gateway} is another router than the one that was found")
        if isinstance(action, Look):
            epoch = None if self.method == "upnp" else self.epoch_like(int(self.world.now - self.epoch_of))
            return Life("" if self.method == "pcp" else self.address, epoch, self.boot_id)
        entry = (action.wanted.protocol, action.wanted.external_port)
        held = self.table.get(entry)
        if isinstance(action, AskHolder):
            if not self.lists:
                raise HolderUnknown(f"{self.gateway} does not tell")
            return Holder(*held[:2], Granted(self.address, entry[1], 1)) if held and self.shows else None
        if isinstance(action, Map):
            return self._map(entry, held, action.wanted)
        self.table.pop(entry, None)
        return None

    def _map(self, entry: tuple[str, int], held: tuple[str, int, float] | None, wanted: Wanted) -> Granted:
        if self.refuses:
            raise self.refuses(f"{self.gateway} says no")
        mine = (self.world.local, wanted.internal_port)
        if held and held[:2] != mine and held[2] > self.world.now:
            raise Conflict(f"{self.gateway}: {held[0]} has port {wanted.external_port}")
        self.table[entry] = (*mine, self.world.now + wanted.lease if self.leases else float("inf"))
        return Granted(self.address, wanted.external_port, wanted.lease if self.leases else 0)


class World:
    """Runs the keeper's actions against the router, a little later each."""

    def __init__(self, *mappings: Mapping, method: str = "pcp", leftover: tuple[Wanted, ...] = ()):
        self.now = 1000.0
        self.local = "192.0.2.7"
        self.router = Router(self, method)
        self.keeper = Keeper(mappings or (RELAY,), POLL, self.now, leftover)
        self.keeper.update_next_hop(self.now, self.router.gateway, self.local)
        self.actions: list[tuple[float, Action]] = []

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            if not self.step():
                self.now = min(end, max(self.keeper.due(), self.now + 1e-6))

    def step(self) -> bool:
        """Do what is due; return whether there was anything."""
        action = self.keeper.next(self.now)
        if action is None:
            return False
        self.actions.append((self.now, action))
        self.now += LATENCY
        try:
            outcome = self.router.answer(action)
        except MappingError as error:
            outcome = error
        self.keeper.done(self.now, outcome)
        return True

    def until_mapped(self, limit: float) -> float:
        """Return how long it takes until a packet from outside would arrive."""
        start = self.now
        while not all(self.router.maps(lease.mapping.wanted, self.local) for lease in self.keeper.leases):
            assert self.now < start + limit, f"not mapped within {limit} s"
            self.run(0.1)
        return self.now - start

    @property
    def state(self) -> str:
        return self.keeper.leases[0].state(self.now)

    @property
    def lease(self):
        return self.keeper.leases[0]

    def maps_asked(self) -> list[float]:
        return [when for when, action in self.actions if isinstance(action, Map)]

    def texts(self) -> str:
        return "\n".join(event.text for event in self.keeper.events)
