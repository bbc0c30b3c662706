# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does what a keeper decided: everything here may block for seconds."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from port_mapping import discovery, routes, stun
from port_mapping.deadline import within
from port_mapping.mapping import Client, MappingError, Unreachable

from port_keeper.inbox import Inbox
from port_keeper.keeper import Action, AskHolder, Find, Look, Map, Outcome
from port_keeper.settings import Settings

_PATIENCE = 90.0  # seconds for one action, whatever the router and those who answer in its place are up to
_MAX_ABANDONED = 4


def clock() -> float:
    """Return seconds of a clock that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _gateway(settings: Settings, family: int) -> str:
    return settings.gateway if (":" in settings.gateway) == (family == 6) else ""


def next_hop(settings: Settings, family: int) -> tuple[str, str]:
    """Return the router's address and this host's own towards it; "" where there is none."""
    try:
        return routes.next_hop(family, _gateway(settings, family))[:2]
    except Unreachable:
        return "", ""


def seen_address(settings: Settings) -> str:
    """Return this host's IPv4 address as the STUN server sees it."""
    return stun.ask(settings.stun_server)


class Router:
    """The router of one address family, as far as talking to it goes."""

    def __init__(self, family: int):
        self._family = family
        self._client: Client | None = None

    def perform(self, action: Action, settings: Settings) -> Outcome:
        """Do one action; return what it brought, or raise MappingError."""
        with within(_PATIENCE):
            return self._perform(action, settings)

    def _perform(self, action: Action, settings: Settings) -> Outcome:
        if isinstance(action, Find):
            method = action.method or settings.method
            self._client = discovery.find(method, _gateway(settings, self._family), self._family)
            return self._client
        client = self._client
        if client is None:
            raise Unreachable("no router has been searched for")
        if isinstance(action, Look):
            return client.look()
        if isinstance(action, AskHolder):
            return client.holder(action.wanted)
        if isinstance(action, Map):
            return client.map(action.wanted)
        client.unmap(action.wanted)
        return None


class Worker:
    """One thread for what may block, one job at a time. The outcome goes to the inbox with the time it was there."""

    def __init__(self, name: str, inbox: Inbox):
        self.name = name
        self._inbox = inbox
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[object, Callable[[], object]]]
        self._owner: object = None
        self._abandoned = 0
        self.busy_since: float | None = None
        self._start()

    def _start(self) -> None:
        self._jobs = queue.SimpleQueue()
        # A daemon: a router that does not answer must not delay the end of the service.
        threading.Thread(target=self._work, args=(self._jobs,), name=self.name, daemon=True).start()

    def submit(self, owner: object, job: Callable[[], object]) -> None:
        """Have a job done for an owner, who gets (owner, time, outcome)."""
        self.busy_since, self._owner = time.monotonic(), owner
        self._jobs.put((owner, job))

    def overdue(self, seconds: float) -> bool:
        """Tell whether a job has taken longer. It is given up, and the next has another thread: a few times."""
        with self._lock:
            if self.busy_since is None or time.monotonic() - self.busy_since < seconds:
                return False
            if self._abandoned < _MAX_ABANDONED:
                self._abandoned += 1
                self.busy_since = None
                self._start()
                self._inbox.put(self._owner, clock(), Unreachable(f"{self.name}: no outcome within {seconds:.0f} s"))
            return True

    def _work(self, jobs: queue.SimpleQueue) -> None:
        while True:
            owner, job = jobs.get()
            try:
                outcome = job()
            except MappingError as error:
                outcome = error
            except Exception as error:
                # A defect here must not end the thread, and with it all watching over the mappings, unnoticed.
                outcome = MappingError(f"{type(error).__name__}: {error}: please report this as a defect of the keeper")
            with self._lock:
                if jobs is not self._jobs:
                    return  # was given up
                self.busy_since = None
                self._inbox.put(owner, clock(), outcome)
