# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network in simulated time: sites behind NAT routers, with delay and loss. Nothing here opens a socket."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from peer_agent.endpoints import Endpoint

_MAPPING = 30.0  # seconds that a router remembers a packet that went out


class Packet(NamedTuple):
    """A datagram; `size` with its UDP and IP headers."""

    source: Endpoint
    target: Endpoint
    content: Any
    size: int


class Clock:
    """Does things when their time has come."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), do))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, do = heapq.heappop(self._events)
            self.now = max(self.now, when)
            do()
        self.now = end


class Router:
    """A NAT that drops what nobody inside has asked for."""

    def __init__(self, net: Net, public: str, symmetric: bool = False, delay: float = 0.02):
        self.net = net
        self.public = public
        self.symmetric = symmetric
        self.delay = delay
        self.blocked: Callable[[Packet], bool] = lambda packet: False
        self._ports: dict[Any, int] = {}  # inside endpoint (and target, when symmetric) -> port
        self._inside: dict[int, Endpoint] = {}
        self._spoken: dict[tuple[int, Endpoint], float] = {}
        self._next_port = 20000

    def out(self, packet: Packet) -> None:
        if self.blocked(packet):
            return
        key = (packet.source, packet.target) if self.symmetric else packet.source
        if key not in self._ports:
            self._next_port += 7
            self._ports[key] = self._next_port
            self._inside[self._next_port] = packet.source
        port = self._ports[key]
        self._spoken[port, packet.target] = self.net.clock.now
        self.net.wire(self.delay, packet._replace(source=Endpoint(self.public, port)))

    def into(self, packet: Packet) -> None:
        if self.blocked(packet):
            return
        spoken = self._spoken.get((packet.target.port, packet.source), float("-inf"))
        if self.net.clock.now - spoken <= _MAPPING:
            self._spoken[packet.target.port, packet.source] = self.net.clock.now
            self.net.arrive(packet._replace(target=self._inside[packet.target.port]), self)


class Net:
    """Hosts and routers. A host without a router has a public address."""

    def __init__(self, seed: int = 1):
        self.clock = Clock()
        self.random = random.Random(seed)
        self.loss = 0.0
        self.blocked: Callable[[Packet], bool] = lambda packet: False
        self.log: list[tuple[float, Packet]] = []
        self.keep_log = False
        self._hosts: dict[tuple[Router | None, str], Callable[[Packet], None]] = {}
        self._routers: dict[str, Router] = {}

    def router(self, public: str, **options: Any) -> Router:
        self._routers[public] = router = Router(self, public, **options)
        return router

    def attach(self, host: str, router: Router | None, receive: Callable[[Packet], None]) -> None:
        self._hosts[router, host] = receive

    def detach(self, host: str, router: Router | None) -> None:
        self._hosts.pop((router, host), None)

    def send(self, router: Router | None, packet: Packet) -> None:
        """A host behind this router, or behind none, sends."""
        if self.keep_log:
            self.log.append((self.clock.now, packet))
        if router is None:
            self.wire(0.01, packet)
        elif (router, packet.target.host) in self._hosts:
            if not self.blocked(packet):
                self.clock.at(self.clock.now + 0.001, lambda: self.arrive(packet, router))
        elif packet.target.host.startswith(("192.168.", "10.")):
            return  # nobody is there
        else:
            router.out(packet)

    def wire(self, delay: float, packet: Packet) -> None:
        """The public internet."""
        if self.blocked(packet) or self.random.random() < self.loss:
            return
        self.clock.at(self.clock.now + delay, lambda: self._deliver(packet))

    def _deliver(self, packet: Packet) -> None:
        router = self._routers.get(packet.target.host)
        if router is not None:
            self.clock.at(self.clock.now + router.delay, lambda: router.into(packet))
        else:
            self.arrive(packet, None)

    def arrive(self, packet: Packet, router: Router | None) -> None:
        receive = self._hosts.get((router, packet.target.host))
        if receive is not None:
            receive(packet)
