# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running service: what the keepers decide is done in threads beside this loop, which never waits for a router."""

from __future__ import annotations

import functools
import json
import logging
import signal
import socket
import threading
import time
from typing import Any

from peer_common import files, systemd
from peer_common.toml_table import SettingsError
from port_mapping.mapping import MappingError

from port_keeper import settings, state, status
from port_keeper.inbox import Inbox
from port_keeper.keeper import Find, Keeper, Outcome, Unmap
from port_keeper.lease import Mapping, key
from port_keeper.router import Router, Worker, clock, next_hop, seen_address
from port_keeper.settings import Settings

log = logging.getLogger("port_keeper")

FAMILIES = (4, 6)
_STATUS_INTERVAL = 10.0  # seconds; readers take it for gone after 60
_SEEN_INTERVAL = 600.0  # seconds between two questions to the STUN server
_STUCK = 180.0  # seconds after which a question that should have ended by itself is given up
_PAUSE = 0.5  # seconds for which nothing else is heard: anybody at home could send them without end
_ANNOUNCEMENTS = ("224.0.0.1", 5350)  # of PCP (RFC 6887, 14.1.1) and NAT-PMP (RFC 6886, 3.2.1)


class Line:
    """A keeper, and the thread that talks to its router."""

    def __init__(self, family: int, config: Settings, saved: state.State, now: float, inbox: Inbox):
        self.family = family
        mappings = self._own(config)
        kept = {key(mapping.wanted) for mapping in mappings}
        leftover = [wanted for wanted in saved.mappings if wanted.family == family and key(wanted) not in kept]
        self.keeper = Keeper(mappings, config.poll_seconds, now, leftover)
        if address := saved.addresses.get(family):
            self.keeper.address, self.keeper.address_changes = address.text, address.changes
            self.keeper.address_since = now - max(0.0, time.time() - address.since)
        self._router = Router(family)
        self.worker = Worker(f"router-{family}", inbox)

    def _own(self, config: Settings) -> list[Mapping]:
        return [mapping for mapping in config.mappings if mapping.wanted.family == self.family]

    def apply(self, now: float, config: Settings) -> None:
        self.keeper.apply(now, self._own(config), config.poll_seconds)

    def advance(self, now: float, config: Settings) -> None:
        """Have done what is to be done."""
        if self.keeper.leases:
            self.keeper.update_next_hop(now, *next_hop(config, self.family))
        action = self.keeper.next(now)
        if action is not None:
            self.worker.submit(self, functools.partial(self._router.perform, action, config))


class Service:
    """Everything that runs while `peer-relay-ports run` does."""

    def __init__(self, config: Settings):
        self._settings = config
        self._loaded = time.time()  # when the settings were
        self._problems: dict[str, str] = {}  # by what they are about
        self._inbox = Inbox()
        now = clock()
        saved = state.read(config.state_file)
        self._saved: object = None
        self._lines = [Line(family, config, saved, now, self._inbox) for family in FAMILIES]
        self._stun = Worker("stun", self._inbox)
        self._seen = ""
        self._seen_due = now
        self._seen_for = ""
        self._written: object = None
        self._write_due = now
        self._stop = self._reload = False

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Keep the ports open until SIGTERM or SIGINT; they stay open then, until their leases end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signal)
        threading.Thread(target=_listen, args=(self._inbox,), name="announcements", daemon=True).start()
        self._write_status(clock())
        systemd.send("READY=1", self._summary())
        watchdog = systemd.watchdog_interval()
        # The routes change without telling, so they are looked at this often.
        longest = min(self._settings.poll_seconds, (watchdog or 30.0) / 3)
        while not self._stop:
            if self._reload:
                self._reload = False
                self._reload_settings()
            now = clock()
            for line in self._lines:
                line.advance(now, self._settings)
                self._log(line.keeper)
            self._ask_seen(now)
            self._save()
            self._write_status(now)
            self._give_up()
            if watchdog:
                systemd.send("WATCHDOG=1")
            due = min(self._write_due, *(line.keeper.due() for line in self._lines))
            self._handle_items(max(0.0, min(due - now, longest)))
        self._inbox.close()
        systemd.send("STOPPING=1")
        log.info("stopped; the mappings stay until their leases end")

    def _signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop = True
        self._inbox.put(None, 0.0)

    def _handle_items(self, timeout: float) -> None:
        """Wait for an outcome, and pass all that are there on."""
        for owner, now, outcome in self._inbox.pop(timeout):
            if isinstance(owner, Line):
                self._done(owner.keeper, now, outcome)
            elif owner is self._stun:
                self._note_seen(outcome)
            elif owner is _listen:
                for line in self._lines:
                    line.keeper.announced(now, outcome)

    def _done(self, keeper: Keeper, now: float, outcome: Outcome) -> None:
        """Handle an outcome. One that nobody thought of must not end the service: the router is searched anew."""
        try:
            keeper.done(now, outcome)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:200]
            log.exception("%s: please report this as a defect of the keeper", text)
            keeper.search(now)

    def _give_up(self) -> None:
        """Go on without a thread that does not come back. It is no reason to end: what is open needs its renewals."""
        for worker in (self._stun, *(line.worker for line in self._lines)):
            problem = f"{worker.name}: no outcome within {_STUCK:.0f} s: please report this as a defect of the keeper"
            self._note(worker.name, problem if worker.overdue(_STUCK) else "")

    # --- the address as others see it ---------------------------------------------------------------------------------

    def _ask_seen(self, now: float) -> None:
        address = self._lines[0].keeper.address
        if not self._settings.stun_server or self._stun.busy_since is not None:
            return
        if now >= self._seen_due or address != self._seen_for:
            self._seen_due, self._seen_for = now + _SEEN_INTERVAL, address
            self._stun.submit(self._stun, functools.partial(seen_address, self._settings))

    def _note_seen(self, outcome: str | MappingError) -> None:
        if not self._settings.stun_server:
            return  # taken off the settings meanwhile
        if isinstance(outcome, MappingError):
            self._note("stun_server", str(outcome))
        else:
            self._note("stun_server", "")
            self._seen = outcome

    # --- settings, state and status -----------------------------------------------------------------------------------

    def _reload_settings(self) -> None:
        """Apply the settings file; on an error say so and keep what runs."""
        systemd.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = settings.load(self._settings.file)
        except SettingsError as error:
            self._note("settings", f"settings not taken over, the last good ones stay: {error}")
        else:
            self._note("settings", "")
            self._loaded = time.time()
            now = clock()
            if (config.method, config.gateway) != (self._settings.method, self._settings.gateway):
                for line in self._lines:
                    line.keeper.search(now)
            self._settings = config
            for line in self._lines:
                line.apply(now, config)
            self._seen_due = now
            if not config.stun_server:
                self._seen = ""
                self._note("stun_server", "")
            log.info("settings taken over: %d mappings", len(config.mappings))
        systemd.send("READY=1", self._summary())

    def _summary(self) -> str:
        return f"STATUS={len(self._settings.mappings)} mappings wanted"

    def _log(self, keeper: Keeper) -> None:
        for event in keeper.events:
            log.log(event.level, "%s", event.text)
        keeper.events.clear()

    def _save(self) -> None:
        boot = time.time() - clock()
        keepers = {line.family: line.keeper for line in self._lines}
        mappings = [wanted for keeper in keepers.values() for wanted in keeper.remembered()]
        addresses = {
            family: state.Address(keeper.address, boot + keeper.address_since, keeper.address_changes)
            for family, keeper in keepers.items()
            if keeper.address_since is not None
        }
        content = (mappings, {family: (address.text, address.changes) for family, address in addresses.items()})
        if content == self._saved:
            return
        try:
            state.write(self._settings.state_file, mappings, addresses)
        except OSError as error:
            self._note("state", f"{error.filename}: {error.strerror}: make its directory writable")
        else:
            self._note("state", "")
            self._saved = content

    def _write_status(self, now: float) -> None:
        keepers = [line.keeper for line in self._lines]
        document = status.document(keepers, self._seen, self._problems.values(), now, time.time())
        document["loaded"] = self._loaded
        # Times that move with the clock are no news.
        mappings = [mapping | {"expires": None} for mapping in document["mappings"]]
        news = document | {"updated": None, "address_since": None, "mappings": mappings}
        if now < self._write_due and news == self._written:
            return
        self._written, self._write_due = news, now + _STATUS_INTERVAL
        try:
            files.replace(self._settings.status_file, [json.dumps(document), "\n"], 0o644)
        except OSError as error:
            self._note("status", f"{error.filename}: {error.strerror}: make its directory writable")
        else:
            self._note("status", "")

    def _note(self, about: str, problem: str) -> None:
        """Note a problem, or that there is none any more."""
        if problem and problem != self._problems.get(about):
            log.error("%s", problem)
        if problem:
            self._problems[about] = problem
        else:
            self._problems.pop(about, None)


def _listen(inbox: Inbox) -> None:
    """Hear routers announce themselves. What they say is not read: the mappings are renewed, whatever it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
        try:
            sock.bind(_ANNOUNCEMENTS)
        except OSError as error:  # another program's: signs of life are asked for as well
            log.info("UDP %s:%d: %s: going on without the announcements of routers", *_ANNOUNCEMENTS, error.strerror)
            return
        while True:
            sender = sock.recvfrom(1)[1][0]
            inbox.put(_listen, clock(), sender)
            time.sleep(_PAUSE)


def release(config: Settings) -> list[str]:
    """Delete all mappings from the router; return what could not be deleted, and why."""
    problems = []
    remembered = [*state.read(config.state_file).mappings, *(mapping.wanted for mapping in config.mappings)]
    for family in FAMILIES:
        actions = {key(wanted): Unmap(wanted) for wanted in remembered if wanted.family == family}
        if not actions:
            continue
        router = Router(family)
        try:
            router.perform(Find(""), config)
        except MappingError as error:
            problems.append(str(error))
            continue
        for action in actions.values():
            try:
                router.perform(action, config)
            except MappingError as error:
                problems.append(str(error))
    return problems
