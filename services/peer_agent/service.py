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
from peer_agent.attached import Attached, Opened
from peer_agent.core.reasons import UNCHANGEABLE
from peer_agent.core.refusals import Refusals
from peer_agent.endpoints import Address, Endpoint
from peer_agent.host.addresses import Changes, LinkKind
from peer_agent.host.clock import Sleep, clock
from peer_agent.host.names import Resolver, StatedEndpoints
from peer_agent.host.probe_socket import Datagram
from peer_agent.host.sockets import Read, Sockets
from peer_agent.path_driver import PathDriver
from peer_agent.relay_driver import RelayDriver
from peer_agent.wireguard.client import Counters, WireGuard
from peer_agent.wireguard.helper import Remote
from peer_agent.wireguard.interface import Client, Interface, Unchangeable, WireGuardError

log = logging.getLogger("peer_agent")

_LOOK = 0.2  # seconds between two looks at the interface's counters, which cost next to nothing
_SAMPLE = 5.0  # seconds between two looks at all of WireGuard while nothing flows
_MIN_SAMPLE = 0.1  # while something is under way and packets move
_CALM_SAMPLE = 0.5  # while something is under way and none do
_INTERFACE_AGAIN = 1.0  # seconds between two attempts to find the interface
_DEBOUNCE = 0.1  # seconds that a change of the network may take: it is made of many
_ADDRESSES_AGAIN = 1.0  # seconds
_SHOWN = 8  # addresses in a line of the journal
_STATUS = 10.0  # seconds; readers take it for gone after 60


class Service:
    """Everything that runs while `peer-relay agent run` does."""

    def __init__(self, config: settings.Settings, helper: str = ""):
        """`helper` is the socket of the helper that has the rights over WireGuard; "": this process has them itself."""
        self._settings = config
        self._helper = helper
        self._selector = selectors.DefaultSelector()
        self._wireguard = self._find_wireguard()
        self._counters = Counters(config.interface)
        self._changes = Changes()
        self._resolver = Resolver()
        self._stated = StatedEndpoints(config.endpoints, self._resolver)
        self._posted: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (self._wake, self._bell):
            sock.setblocking(False)
        self._register(self._changes.socket, self._network_changed)
        self._register(self._resolver.wake, self._resolved)
        self._register(self._wake, self._run_posted)
        self._state: Opened | None = None  # None: the interface cannot be used
        self._problems: dict[str, str] = {}
        self._why_not = ""  # the reason that no pair is looked after
        self._refusals = Refusals()
        now = clock()
        self._interface_due = self._look_due = self._sample_due = now
        self._network_due: float | None = None
        self._foreign = 0  # packets that are not the agent's own
        self._sleep = Sleep()
        self._sampled_at = 0.0
        self._sampled_packets: int | None = None
        self._status = status.Writer(config.status_file, _STATUS)
        self._stop = self._reload = False

    @property
    def _attached(self) -> Attached | None:
        return self._state if isinstance(self._state, Attached) else None

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
                event.data(clock())
        systemd.send("STOPPING=1")
        self._end(clock())
        self._status.remove()
        log.info("stopped; the paths stay as they are")

    def _register(self, sock: socket.socket, read: Read) -> None:
        self._selector.register(sock, selectors.EVENT_READ, read)

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

    def _run_posted(self, now: float) -> None:
        """Somebody has rung the bell: do what was posted."""
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(16):
                pass
        with contextlib.suppress(queue.Empty):
            while True:
                function, arguments = self._posted.get_nowait()
                function(now, *arguments)

    def _network_changed(self, now: float) -> None:
        """Links, addresses or routes have changed, and others may be about to."""
        self._changes.drain()
        if self._state:
            self._state.sockets.probe.forget_sources()
        if self._network_due is None:
            self._network_due = now + _DEBOUNCE

    def _resolved(self, now: float) -> None:
        """The DNS has answered."""
        answers = self._resolver.answers()
        stated = self._stated.resolved(answers)
        if self._state and self._state.relays.resolved(now, answers):
            self._begin(now, self._state.interface, self._state.sockets)
        elif stated:
            self._look_around(now)

    def _probed(self, now: float, datagram: Datagram) -> None:
        if attached := self._attached:
            self._refusals.guard(now, datagram.source, attached.paths.received, now, datagram)

    def _told(self, now: float, payload: bytes, source: Address, port: int) -> None:
        self._refusals.guard(now, source, self._heard, now, payload, source, port)

    def _heard(self, now: float, payload: bytes, source: Address, port: int) -> None:
        attached = self._attached
        if not attached:
            return
        if port == self._settings.directory_port:
            if not attached.relays.answered(now, payload, source):
                self._refusals.note(now, "malformed_answer", source)
        elif port == self._settings.control_port:
            attached.paths.heard(now, payload, source)

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
            self._stated.look_up_if_due(now)
            self._write_status(now)
        attached = self._attached
        if attached and (now >= self._sample_due or (attached.paths.watching and self._worth_a_sample(now))):
            self._sample(now)
            attached = self._attached  # the interface may have gone meanwhile
        if not attached:
            return self._look_due - now
        delay = attached.tick(now)
        dues = [self._look_due, self._network_due or self._look_due]
        return min(delay, *(due - now for due in dues))

    def _find_wireguard(self) -> Client:
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
        elif not (attached := self._attached):
            self._sample_due = now
            if now >= self._interface_due:
                self._interface_due = now + _INTERFACE_AGAIN
                self._sample(now)
        else:
            foreign = packets - attached.sockets.overlay.moved
            if foreign > self._foreign:
                self._sample_due = now
            self._foreign = foreign

    def _worth_a_sample(self, now: float) -> bool:
        age = now - self._sampled_at
        moved = self._counters.read() != self._sampled_packets
        return age >= _CALM_SAMPLE or (moved and age >= _MIN_SAMPLE)

    def _sample(self, now: float) -> None:
        """Look at all of WireGuard."""
        self._sampled_packets = self._counters.read()
        self._sampled_at, self._sample_due = now, now + _SAMPLE
        try:
            interface = self._wireguard.show()
            self._resolver.mark = interface.mark
            state = self._state
            fresh = not state or state.sockets.fit(interface)
            sockets = state.sockets if state else self._open_sockets(interface)
        except (WireGuardError, OSError) as error:
            self._leave(f"{self._settings.interface}: {error}", UNCHANGEABLE if isinstance(error, Unchangeable) else "")
            return
        self._note("interface", "")
        self._why_not = ""
        if fresh or not self._attached:
            self._begin(now, interface, sockets)
        if attached := self._attached:
            attached.interface = interface
            attached.sample(now)

    def _open_sockets(self, interface: Interface) -> Sockets:
        return Sockets(self._settings, self._selector, self._probed, self._told, interface)

    def _begin(self, now: float, interface: Interface, sockets: Sockets) -> None:
        """Begin anew with the interface as it runs."""
        self._end(now)
        relays = RelayDriver(self._settings, interface, sockets, self._wireguard, self._resolver, self._post, now)
        if not relays.views():
            relays.tick(now)  # looks the names up
            self._state = Opened(interface, sockets, relays)
            self._note("names", "no relay's name has an address: is the DNS reached?")
            return
        self._note("names", "")
        paths = PathDriver(self._settings, relays, sockets, self._wireguard, self._refusals, now)
        self._state = Attached(interface, sockets, relays, paths)
        self._look_around(now)

    def _end(self, now: float) -> None:
        """End what was begun; the paths stay as they are."""
        if self._state:
            self._state.end(now)
        self._state = None

    def _leave(self, problem: str, why_not: str = "") -> None:
        """The interface cannot be used: wait for it."""
        self._note("interface", problem)
        self._why_not = why_not
        state = self._state
        self._end(clock())
        if state:
            state.sockets.close()

    # --- the network --------------------------------------------------------------------------------------------------

    def _look_around(self, now: float, awake: bool = False) -> None:
        """See where this device is; when that has changed, everything may be reached in other ways. Awake: after a
        sleep, in which the others may have moved, and connections may have been forgotten."""
        attached = self._attached
        if not attached:
            return
        try:
            addresses = attached.sockets.addresses()
        except OSError as error:
            self._note("network", f"the kernel does not tell this device's addresses: {error}")
            self._network_due = now + _ADDRESSES_AGAIN
            return
        self._note("network", "")
        endpoints = [Endpoint.of(str(found.interface.ip), attached.interface.port) for found in addresses]
        outside = [found for found in addresses if found.kind is LinkKind.OUTSIDE]
        networks = list(dict.fromkeys(found.interface.network for found in outside))
        stated = self._stated.endpoints
        location = (endpoints, (stated, networks, attached.relays.sources()))
        moved = location != attached.location
        if moved and attached.location and not set(endpoints) >= set(attached.location[0]):
            attached.relays.bind_again()
        if moved:
            log.info("this device is at %s", _few([*stated, *endpoints]) or "no network")
            attached.location = location
            attached.paths.network(now, [*stated, *endpoints], networks)
        if moved or awake:
            attached.relays.network(now)
            self._stated.network()
        if awake:
            attached.paths.wake(now)

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
        attached = self._attached
        if attached and replace(before, peers=()) == replace(fresh, peers=()):
            attached.relays.replace_peers(fresh.peers)
            attached.paths.replace_peers(clock(), fresh.peers)
        else:
            self._leave("")
            self._wireguard.close()
            self._wireguard = self._find_wireguard()
            self._counters.close()
            self._counters = Counters(fresh.interface)
            self._stated = StatedEndpoints(fresh.endpoints, self._resolver)
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
        problems = [*self._problems.values(), *(self._state.relays.problems() if self._state else [])]
        stamp = self._stamp(problems)
        self._status.write(
            now,
            lambda: status.document(
                self._settings,
                self._attached,
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
        attached = self._attached
        if not attached:
            return told
        relays = [(view.name, view.alive, view.fallback) for view in attached.relays.views()]
        return told, relays, attached.paths, attached.paths.changes


def _few(endpoints: list[Endpoint]) -> str:
    """Return the first ones, for a line of the journal: a host may have hundreds."""
    more = f" and {len(endpoints) - _SHOWN} more" if len(endpoints) > _SHOWN else ""
    return ", ".join(map(str, endpoints[:_SHOWN])) + more
