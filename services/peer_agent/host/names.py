# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names as endpoints: looked up beside the loop, and which of several endpoints to try next."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

from peer_agent.endpoints import Endpoint
from peer_agent.host.nat64 import synthesize
from peer_agent.host.resolver import look_up
from peer_agent.settings import HostPort

AGAIN = 180.0  # seconds between two looks at names that work


class Resolver:
    """A thread that asks the DNS, which may take its time. `wake` is readable when there are answers."""

    def __init__(self) -> None:
        self.wake, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wake.setblocking(False)
        self._questions: queue.SimpleQueue[HostPort] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[HostPort, list[Endpoint]]] = queue.SimpleQueue()
        self._asked: set[HostPort] = set()
        self.known: dict[HostPort, list[Endpoint]] = {}  # what names had for addresses last
        self.mark = 0  # of WireGuard's packets
        threading.Thread(target=self._run, name="resolver", daemon=True).start()

    def ask(self, host_port: HostPort) -> None:
        """Have a name looked up, unless it is being looked up."""
        if host_port not in self._asked:
            self._asked.add(host_port)
            self._questions.put(host_port)

    def answers(self) -> list[tuple[HostPort, list[Endpoint]]]:
        """Return what was found; an empty list for a name that has no address now."""
        with contextlib.suppress(BlockingIOError):
            while self.wake.recv(1):
                pass
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                host_port, endpoints = self._answers.get_nowait()
                self._asked.discard(host_port)
                if endpoints:
                    self.known[host_port] = endpoints
                found.append((host_port, endpoints))
        return found

    def _run(self) -> None:
        while True:
            host_port = self._questions.get()
            self._answers.put((host_port, look_up(host_port.host, host_port.port, self.mark)))
            self._bell.send(b"!")


class StatedEndpoints:
    """The endpoints that the settings state for this device: all of them, with names looked up now and then."""

    def __init__(self, host_ports: Iterable[HostPort], resolver: Resolver):
        self._resolver = resolver
        self._found: dict[HostPort, list[Endpoint]] = {}
        self._names: list[HostPort] = []
        self._due = 0.0
        for host_port in host_ports:
            try:
                self._found[host_port] = [Endpoint.of(*host_port)]
            except ValueError:
                self._found[host_port] = resolver.known.get(host_port, [])
                self._names.append(host_port)

    @property
    def endpoints(self) -> list[Endpoint]:
        return list(dict.fromkeys(endpoint for endpoints in self._found.values() for endpoint in endpoints))

    def look_up_if_due(self, now: float) -> None:
        if now >= self._due:
            self._due = now + AGAIN
            for host_port in self._names:
                self._resolver.ask(host_port)

    def network(self) -> None:
        """This device is somewhere else, and its names may be."""
        self._due = 0.0

    def resolved(self, answers: Iterable[tuple[HostPort, list[Endpoint]]]) -> bool:
        """Use what the DNS has answered; return whether anything is new."""
        before = self.endpoints
        # A name without an address now is worth less than the addresses that it had.
        self._found |= {name: endpoints for name, endpoints in answers if name in self._names and endpoints}
        return self.endpoints != before


class RelayEndpoints:
    """The endpoints of one relay, and the one in use. It stays with one IP version as long as that works.

    To a relay, a device that comes by both would be at two addresses by turns.
    """

    def __init__(self, host_ports: Iterable[HostPort], current: Endpoint | None, known: dict[HostPort, list[Endpoint]]):
        """`current` is where WireGuard reaches it already, `known` are addresses that names had last."""
        self.current = current
        self.names: list[HostPort] = []
        self._found: dict[HostPort, list[Endpoint]] = {}
        for host_port in host_ports:
            try:
                self._found[host_port] = [Endpoint.of(*host_port)]
            except ValueError:
                self._found[host_port] = known.get(host_port, [])
                self.names.append(host_port)
        self._choose()

    def _options(self) -> list[Endpoint]:
        options = [endpoint for endpoints in self._found.values() for endpoint in endpoints]
        if self.current:
            version = self.current.address.version
            options.sort(key=lambda endpoint: endpoint.address.version != version)
        return options

    def _choose(self) -> None:
        if self.current is None:
            self.current = next(iter(self._options()), None)

    def resolved(self, host_port: HostPort, endpoints: list[Endpoint]) -> Endpoint | None:
        """Use the addresses of a name; return the endpoint in use if it is another now."""
        before = self._found.get(host_port)
        # A name without an address now is worth less than the addresses that it had.
        if not endpoints or before is None or endpoints == before:
            return None
        self._found[host_port] = endpoints
        was = self.current
        if was and was in before and was not in endpoints:
            same = [endpoint for endpoint in endpoints if endpoint.address.version == was.address.version]
            self.current = (same or endpoints)[0]
        self._choose()
        return self.current if self.current != was else None

    def next(self, usable: Callable[[Endpoint], bool], nat64: Iterable[IPv6Network] = ()) -> Endpoint | None:
        """Go on to the next endpoint that can be used, and return it; None when there is no other.

        Where IPv4 addresses cannot be used, those of the network's NAT64 with them inside may be.
        """
        options = self._options()
        for endpoint in [each for each in options if each.address.version == 4 and not usable(each)]:
            options += [synthesize(endpoint, prefix) for prefix in nat64]
        start = options.index(self.current) + 1 if self.current in options else 0
        for endpoint in options[start:] + options[:start]:
            if endpoint != self.current and usable(endpoint):
                self.current = endpoint
                return endpoint
        return None
