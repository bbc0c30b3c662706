# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running agent: one loop that sleeps until something happens or is due."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peer_common import systemd
from peer_common.toml_table import SettingsError

from peer_agent import settings, status
from peer_agent.core.reasons import UNCHANGEABLE
from peer_agent.core.refusals import Refusals
from peer_agent.endpoints import Address, Endpoint
from peer_agent.host.addresses import Changes, Place
from peer_agent.host.clock import Sleep, clock
from peer_agent.host.names import Resolver, Stated
from peer_agent.host.overlay_socket import Tunnel
from peer_agent.host.probe_socket import Datagram, RawPort
from peer_agent.host.sockets import Ground
from peer_agent.path_driver import Pairs
from peer_agent.relay_driver import Links
from peer_agent.wireguard.client import Counters, WireGuard
from peer_agent.wireguard.helper import Remote
from peer_agent.wireguard.interface import Interface, Unchangeable, WireGuardError

log = logging.getLogger("peer_agent")

_LOOK = 0.2  # seconds between two looks at the interface's counters, which cost next to nothing
_SAMPLE = 5.0  # seconds between two looks at all of WireGuard while nothing flows
_LEAST_SAMPLE = 0.1  # while something is under way and packets move
_CALM_SAMPLE = 0.5  # while something is under way and none do
_INTERFACE_AGAIN = 1.0  # seconds between two attempts to find the interface
_SETTLE = 0.1  # seconds that a change of the network may take: it is made of many
_ADDRESSES_AGAIN = 1.0  # seconds
_SHOWN = 8  # addresses in a line of the journal
_STATUS = 10.0  # seconds; readers take it for gone after 60


class Service:
    """Everything that runs while `peer-relay agent run` does."""

    def __init__(self, config: settings.Settings, helper: str = ""):
        """Take also the socket of the helper that has the rights over WireGuard; "": this process has them itself."""
        self._settings = config
        self._helper = helper
        self._selector = selectors.DefaultSelector()
        self._wireguard = self._find_wireguard()
        self._counters = Counters(config.interface)
        self._ground = Ground(config, self._selector)
        self._changes = Changes()
        self._resolver = Resolver()
        self._stated = Stated(config.endpoints, self._resolver)
        self._posted: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (self._wake, self._bell):
            sock.setblocking(False)
        for sock in (self._changes.socket, self._resolver.wake, self._wake):
            self._selector.register(sock, selectors.EVENT_READ, sock)
        self._links: Links | None = None
        self._pairs: Pairs | None = None
        self._running: Interface | None = None
        self._problems: dict[str, str] = {}
        self._why_not = ""  # the reason that no pair is looked after
        self._refusals = Refusals()
        now = clock()
        self._interface_due = self._look_due = self._sample_due = now
        self._network_due: float | None = None
        self._foreign = 0  # packets that are not the agent's own
        self._place: tuple[list[Endpoint], object] | None = None  # where this device is, and its ways to relays
        self._sleep = Sleep()
        self._sampled_at = 0.0
        self._sampled_packets: int | None = None
        self._status = status.Writer(config.status_file, _STATUS)
        self._stop = self._reload = False

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Choose paths until SIGTERM or SIGINT; the paths stay then as they are."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signal)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        alive_due, alive_every = clock(), (systemd.watchdog_interval() or math.inf) / 3
        systemd.send("READY=1", f"STATUS={len(self._settings.peers)} devices, {len(self._settings.relays)} relays")
        while not self._stop:
            if self._reload:
                self._take_over_settings()
            now = clock()
            delay = self._advance(now)
            if now >= alive_due:
                alive_due = now + alive_every
                systemd.send("WATCHDOG=1")
            for event, _ in self._selector.select(max(0.0, delay)):
                self._receive(event.fileobj, event.data)
        systemd.send("STOPPING=1")
        self._end()
        self._status.remove()
        log.info("stopped; the paths stay as they are")

    def _signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop = True

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the loop call `function(now, *arguments)`; for other threads."""
        self._posted.put((function, arguments))
        with contextlib.suppress(BlockingIOError):  # it is awake
            self._bell.send(b"!")

    def _receive(self, sock: socket.socket, owner: object) -> None:
        now = clock()
        if isinstance(owner, RawPort):
            owner.receive(sock, lambda datagram: self._probed(now, datagram))
        elif isinstance(owner, Tunnel):
            owner.receive(sock, lambda *datagram: self._told(now, *datagram))
        elif sock is self._changes.socket:
            self._changes.drain()
            self._ground.forget_ways()
            if self._network_due is None:
                self._network_due = now + _SETTLE
        elif sock is self._resolver.wake:
            answers = self._resolver.answers()
            stated = self._stated.found(answers)
            if self._links and self._links.resolved(now, answers):
                self._begin(now)
            elif stated:
                self._look_around(now)
        else:
            with contextlib.suppress(BlockingIOError):
                while sock.recv(16):
                    pass
            with contextlib.suppress(queue.Empty):
                while True:
                    function, arguments = self._posted.get_nowait()
                    function(now, *arguments)

    def _probed(self, now: float, datagram: Datagram) -> None:
        if self._pairs:
            self._refusals.guard(now, datagram.source, self._pairs.received, now, datagram)

    def _told(self, now: float, payload: bytes, source: Address, port: int) -> None:
        self._refusals.guard(now, source, self._heard, now, payload, source, port)

    def _heard(self, now: float, payload: bytes, source: Address, port: int) -> None:
        if not self._pairs:
            return
        if port == self._settings.directory_port:
            if not self._links.answered(now, payload, source):
                self._refusals.note(now, "malformed_answer", source)
        elif port == self._settings.control_port:
            self._pairs.heard(now, payload, source)

    def _advance(self, now: float) -> float:
        """Do what is due; return in how many seconds to go on at the latest."""
        slept = self._sleep.passed()
        if slept:
            log.info("this host has slept for %.0f s", slept)
            self._network_due = None
            self._look_around(now, awake=True)
        if self._network_due is not None and now >= self._network_due:
            self._network_due = None
            self._look_around(now)
        if now >= self._look_due:
            self._look_due = now + _LOOK
            self._look(now)
            self._stated.tick(now)
            self._write_status(now)
        if not self._pairs:
            return self._look_due - now
        if now >= self._sample_due or (self._pairs.watching and self._worth_a_sample(now)):
            self._sample(now)
        if not self._pairs:  # the interface has gone meanwhile
            return self._look_due - now
        self._links.tick(now)
        self._pairs.relays(now)
        delay = self._pairs.tick(now)
        delay = min(delay, self._links.tick(now))  # a pair may have come to suspect a relay
        dues = [self._look_due, self._network_due or self._look_due]
        return min(delay, *(due - now for due in dues))

    def _find_wireguard(self) -> WireGuard | Remote:
        name = self._settings.interface
        return Remote(name, self._helper) if self._helper else WireGuard(name)

    # --- the interface ------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """See whether the interface is there, and whether it has moved packets of others."""
        self._note("tool", self._wireguard.problem())
        packets = self._counters.read()
        if packets is None:
            name = self._settings.interface
            self._leave(f"{name} is not there: start wg-quick@{name}")
        elif not self._pairs:
            self._sample_due = now
            if now >= self._interface_due:
                self._interface_due = now + _INTERFACE_AGAIN
                self._sample(now)
        else:
            foreign = packets - self._ground.tunnel.moved
            if foreign > self._foreign:
                self._sample_due = now
            self._foreign = foreign

    def _worth_a_sample(self, now: float) -> bool:
        age = now - self._sampled_at
        moved = self._counters.read() != self._sampled_packets
        return age >= _CALM_SAMPLE or (moved and age >= _LEAST_SAMPLE)

    def _sample(self, now: float) -> None:
        """Look at all of WireGuard."""
        self._sampled_packets = self._counters.read()
        self._sampled_at, self._sample_due = now, now + _SAMPLE
        try:
            self._running = self._wireguard.show()
            self._resolver.mark = self._running.mark
            fresh = self._ground.fit(self._running)
        except (WireGuardError, OSError) as error:
            self._leave(f"{self._settings.interface}: {error}", UNCHANGEABLE if isinstance(error, Unchangeable) else "")
            return
        self._note("interface", "")
        self._why_not = ""
        if fresh or not self._pairs:
            self._begin(now)
        if self._pairs:
            self._links.sample(now, self._running)
            self._pairs.sample(now, self._running)

    def _begin(self, now: float) -> None:
        """Begin anew with the interface as it runs."""
        self._end()
        self._links = Links(
            self._settings, self._running, self._ground, self._wireguard, self._resolver, self._post, now
        )
        if not self._links.views():
            self._links.tick(now)  # looks the names up
            self._note("names", "no relay's name has an address: is the DNS reached?")
            return
        self._note("names", "")
        self._place = None
        self._pairs = Pairs(self._settings, self._links, self._ground, self._wireguard, self._refusals, now)
        self._look_around(now)

    def _end(self) -> None:
        """End what was begun; the paths stay as they are."""
        if self._pairs:
            self._pairs.stop(clock())
        if self._links:
            self._links.close()
        self._pairs = self._links = None

    def _leave(self, problem: str, why_not: str = "") -> None:
        """The interface cannot be used: wait for it."""
        self._note("interface", problem)
        self._why_not = why_not
        self._end()
        self._running = None
        self._ground.leave()

    # --- the network --------------------------------------------------------------------------------------------------

    def _look_around(self, now: float, awake: bool = False) -> None:
        """See where this device is; when that has changed, everything may be reached in other ways. Awake: after a
        sleep, in which the others may have moved, and connections may have been forgotten."""
        if not self._pairs:
            return
        try:
            addresses = self._ground.addresses()
        except OSError as error:
            self._note("network", f"the kernel does not tell this device's addresses: {error}")
            self._network_due = now + _ADDRESSES_AGAIN
            return
        self._note("network", "")
        endpoints = [Endpoint.of(str(found.interface.ip), self._running.port) for found in addresses]
        networks = list(dict.fromkeys(found.interface.network for found in addresses if found.place is Place.OUTSIDE))
        stated = self._stated.endpoints
        place = (endpoints, (stated, networks, self._links.ways()))
        moved = place != self._place
        if moved and self._place and not set(endpoints) >= set(self._place[0]):
            self._links.bind_again()
        if moved:
            log.info("this device is at %s", _few([*stated, *endpoints]) or "no network")
            self._place = place
            self._pairs.network(now, [*stated, *endpoints], networks)
        if moved or awake:
            self._links.network(now)
            self._stated.network()
        if awake:
            self._pairs.wake(now)

    # --- settings and status ------------------------------------------------------------------------------------------

    def _take_over_settings(self) -> None:
        """Apply the settings file; on an error say so and keep what runs."""
        self._reload = False
        systemd.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            fresh = settings.load(self._settings.file)
        except SettingsError as error:
            self._note("settings", f"settings not taken over, the last good ones stay: {error}")
        else:
            self._note("settings", "")
            self._take_over(fresh)
        systemd.send("READY=1")

    def _take_over(self, fresh: settings.Settings) -> None:
        before, self._settings = self._settings, fresh
        if self._pairs and replace(before, peers=()) == replace(fresh, peers=()):
            self._links.take(fresh.peers)
            self._pairs.take(clock(), fresh.peers)
        else:
            self._leave("")
            self._ground = Ground(fresh, self._selector)
            self._wireguard.close()
            self._wireguard = self._find_wireguard()
            self._counters.close()
            self._counters = Counters(fresh.interface)
            self._stated = Stated(fresh.endpoints, self._resolver)
            self._status.remove()
            self._status = status.Writer(fresh.status_file, _STATUS)
            self._interface_due = clock()

    def _note(self, about: str, problem: str) -> None:
        """Note a problem, or that there is none any more."""
        if problem and problem != self._problems.get(about):
            log.error("%s", problem)
        if problem:
            self._problems[about] = problem
        else:
            self._problems.pop(about, None)

    def _write_status(self, now: float) -> None:
        problems = [*self._problems.values(), *(self._links.problems() if self._links else [])]
        stamp = self._stamp(problems)
        self._status.write(
            now,
            lambda: status.document(
                self._settings,
                self._running,
                self._links,
                self._pairs,
                self._why_not,
                problems,
                self._refusals.counts,
                now,
            ),
            stamp,
        )
        self._note("status", self._status.problem)

    def _stamp(self, problems: list[str]) -> object:
        """Return what readers want to know of at once."""
        told = self._settings.sha256, problems
        if not self._pairs:
            return told
        relays = [(view.name, view.alive, view.fallback) for view in self._links.views()]
        return told, relays, self._pairs, self._pairs.changes


def _few(endpoints: list[Endpoint]) -> str:
    """Return the first ones, for a line of the journal: a host may have hundreds."""
    more = f" and {len(endpoints) - _SHOWN} more" if len(endpoints) > _SHOWN else ""
    return ", ".join(map(str, endpoints[:_SHOWN])) + more
