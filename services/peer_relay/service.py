# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running service: one loop over sockets, signals and time; settings, state, status and journal around it."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
import signal
import sys
import time
from typing import Any

from peer_common import systemd
from peer_common.toml_table import SettingsError

from peer_relay import __version__, addresses, settings, state
from peer_relay.core.device_settings import DeviceSettings
from peer_relay.core.rate_limits import TokenBucket
from peer_relay.core.relay_peer import RelayPeer
from peer_relay.core.switchboard import Event, Switchboard
from peer_relay.dataplane.batch_socket import BatchSocket
from peer_relay.dataplane.kernel.plane import KernelPlane
from peer_relay.dataplane.userspace import BUFFER_SIZE, UserspacePlane
from peer_relay.faults import Faults
from peer_relay.settings import Settings
from peer_relay.slices import Slices, Steps
from peer_relay.state_writer import StateWriter
from peer_relay.status import document as status_document
from peer_relay.status import router as router_status
from peer_relay.status.server import StatusServer
from peer_relay.status.snapshots import Snapshots
from peer_relay.wireguard.noise import Identity, tai64n

log = logging.getLogger("peer_relay")

_BATCHES_BEFORE_TIME = 16  # batches of one socket before the loop looks at time and signals again
_SAVE_INTERVAL = 0.5  # seconds between two writes of the state; what a SIGKILL can cost
_SAVE_INTERVAL_PER_DEVICE = 0.001  # a large state is written less often
_SAVE_SHARE = 20  # of the time that passes, gathering the state takes one part in this many
_LAST_SAVE_WITHIN = 5.0  # seconds that a stop waits for the disk
_SWITCH_INTERVAL = 0.0005  # seconds after which a thread that answers lets the loop go on
_LINE_RATE, _LINE_BURST = 10.0, 1000.0  # lines of the journal about devices, a second and at once
_CLOCK_SLACK = 2.0
_EVENT_TEXT = {
    "bound": "{subject}: reached the relay from {address}",
    "moved": "{subject}: moved to {address}",
    "removed": "{subject}: removed from the settings, disconnected",
    "pair": "{subject}: first handshake through the relay",
}


class StartError(Exception):
    """The service cannot start or cannot take over settings; the message names the fix."""


def _bind_error(error: OSError) -> StartError:
    where = f"UDP {error.filename}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        port = str(error.filename).rpartition(" ")[2]
        return StartError(
            f"{where}: stop the program that `ss -ulpn sport = :{port}` names, or choose another listen_port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(f"{where}: a port below 1024 needs CAP_NET_BIND_SERVICE: choose listen_port 1024 or above")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{where}: choose listen_addresses that this host has, or the default 0.0.0.0 and ::")
    return StartError(where)


def _expired(guests: list[DeviceSettings], wall: float) -> frozenset[str]:
    return frozenset(guest.name for guest in guests if guest.expires <= wall)


def _next_expiry(guests: list[DeviceSettings], wall: float) -> float:
    """Seconds until the next one expires."""
    return min((guest.expires - wall for guest in guests if guest.expires > wall), default=math.inf)


class Service:
    """Everything that runs while `peer-relay run` does."""

    def __init__(self, config: Settings):
        self._settings = config
        self._settings_error: str | None = None
        self._faults = Faults()
        self._clock_error: str | None = None
        self._started = time.monotonic()
        private = settings.read_private_key(config.private_key_file)
        self._switchboard = Switchboard(RelayPeer(Identity(private), config.addresses), config.relay_ports)
        self._expired: frozenset[str] = frozenset()
        self._apply_devices(config, time.time())
        self._switchboard.own.probes.since = tai64n(time.time())  # which of them a run before answered is not known
        self._plane = UserspacePlane(self._switchboard, self._faults)
        self._plane.adopt(systemd.kept())
        self._listen(config)
        self._restore(config)
        self._kernel = KernelPlane(self._switchboard)
        self._told_plane = ""
        self._faults.guard("kernel", self._use_kernel, config)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop = self._reload = False
        self._slices = Slices()
        self._snapshots = Snapshots(self._document_steps, self._with_router, self._wake)
        self._health = Snapshots(self._head_steps, lambda document: document, self._wake)
        self._lines, self._lines_left_out = TokenBucket(_LINE_RATE, _LINE_BURST), 0
        self._saved_changes = self._switchboard.changes
        self._saving = False
        self._save_due = float("inf")
        self._last_save = self._save_not_before = float("-inf")
        self._status = self._status_server(config)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _listen(self, config: Settings) -> None:
        try:
            for host, port in self._plane.listen(config.listen):
                log.warning("UDP [%s]:%d: this host has no IPv6: going on without it", host, port)
        except OSError as error:
            raise _bind_error(error) from error
        systemd.keep(sock.socket for sock in self._plane.sockets)
        if not self._plane.sockets:
            raise StartError("UDP: no address to listen on: this host has no IPv6: add 0.0.0.0 to listen_addresses")

    def _restore(self, config: Settings) -> None:
        saved, problem = state.read(config.state_file)
        if saved is not None:
            now, wall = time.monotonic(), time.time()
            try:
                state.restore(self._switchboard, saved, now)
                behind = float(saved["wall"]) - wall
                if behind > _CLOCK_SLACK:
                    self._clock_error = (
                        f"clock: {behind:.0f} s behind the last run: it went backwards, handshake timestamps go on "
                        "from the last one: set the clock by NTP (fake-hwclock on a board without a clock)"
                    )
                    log.warning("%s", self._clock_error)
            except state.StateError as error:
                problem = state.set_aside(config.state_file, str(error))
        if problem:
            log.warning("%s", problem)
        self._writer = StateWriter(problem)

    def _status_server(self, config: Settings) -> StatusServer:
        try:
            return StatusServer(config.status_socket, config.metrics_listen, self._snapshots.ask, self._health.ask)
        except OSError as error:
            raise StartError(f"{error.filename}: {error.strerror}") from error

    def _use_kernel(self, config: Settings) -> None:
        """Let the kernel forward what it can, or no longer; what the settings forbid is gone from it then."""
        now = time.monotonic()
        self._kernel.configure(config.data_plane, config.bpf_directory, config.listen[0][1], now)
        self._kernel.turn(now)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Forward until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signal)
        # Signals come from the same pipe as status requests: one thing to wait for.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        log.info(
            "relay %s (%s) on %s, %d devices",
            self._settings.name,
            __version__,
            ", ".join(self._listening()),
            len(self._settings.devices),
        )
        self._tell_plane()
        systemd.send("READY=1", f"STATUS={len(self._settings.devices)} devices registered")
        try:
            self._loop()
        finally:
            self._shut_down()

    def _signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop = True

    def _loop(self) -> None:
        keep_alive_due = float("-inf")
        watchdog = systemd.watchdog_interval()
        self._tick_due = self._kernel_due = float("-inf")
        poller, news, guard = self._poller(), self._kernel.fileno(), self._faults.guard
        while not self._stop:
            now = time.monotonic()
            if now >= self._tick_due:
                guard("tick", self._tick, now)
            guard("save", self._save_if_due, now)
            if watchdog and now >= keep_alive_due:
                systemd.send("WATCHDOG=1")
                keep_alive_due = now + watchdog / 3
            due = 0.0 if self._slices else min(self._tick_due, self._save_due, self._kernel_due) - time.monotonic()
            ready = poller.poll(max(0.0, due))
            for descriptor, _ in ready:
                if descriptor == self._wake_read:
                    self._drain_wake()
                elif descriptor == news:
                    guard("network", self._kernel.network_changed, time.monotonic())
            for sock in self._plane.sockets:
                # Polling tells who is ready, but a look costs less than finding out which one it was.
                guard("receive", self._drain, sock)
            guard("kernel", self._turn_kernel)
            if self._switchboard.events:
                guard("events", self._log_events, self._switchboard.events)
            reloaded = self._reload
            if reloaded:
                self._reload = False
                self._reload_settings()
            if reloaded or news != self._kernel.fileno():
                poller, news = self._poller(), self._kernel.fileno()
            self._tell_plane()
            self._snapshots.turn(self._slices)
            self._health.turn(self._slices)
            if self._slices:
                guard("report", self._slices.turn)

    def _tick(self, now: float) -> None:
        self._tick_due = now + 1.0  # whatever happens
        wall = time.time()
        if self._expired != _expired(self._guests, wall):
            self._apply_devices(self._settings, wall)
        self._tick_due = now + min(self._switchboard.tick(now, wall), _next_expiry(self._guests, wall))
        self._plane.flush()

    def _drain(self, sock: BatchSocket) -> None:
        for _ in range(_BATCHES_BEFORE_TIME):
            if not self._plane.drain(sock, time.monotonic()):
                break

    def _turn_kernel(self) -> None:
        self._kernel_due = time.monotonic() + 1.0
        self._kernel_due = self._kernel.turn(time.monotonic())

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # enough wake-ups are on their way
            os.write(self._wake_write, b"\0")

    def _poller(self) -> select.epoll:
        poller = select.epoll()
        for descriptor in (self._wake_read, self._kernel.fileno(), *(sock.fileno() for sock in self._plane.sockets)):
            if descriptor >= 0:
                poller.register(descriptor, select.EPOLLIN)
        return poller

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _log_events(self, events: list[Event]) -> None:
        taken, now = events.copy(), time.monotonic()
        events.clear()
        for event in taken:
            if not self._lines.consume(1, now):
                self._lines_left_out += 1
                continue
            if self._lines_left_out:
                log.info("%d lines about devices left out: see peer-relay status", self._lines_left_out)
                self._lines_left_out = 0
            address = addresses.text(event.binding.address) if event.binding else ""
            log.info(_EVENT_TEXT[event.kind].format(subject=event.subject, address=address))

    def _tell_plane(self) -> None:
        """Say once which plane forwards, and why not the kernel."""
        wanted, reason = self._kernel.mode, self._kernel.reason
        told = self._kernel.name if wanted == "userspace" or not reason else f"{self._kernel.name}: {reason}"
        if told != self._told_plane:
            self._told_plane = told
            log.log(logging.WARNING if wanted == "kernel" and reason else logging.INFO, "data plane: %s", told)

    def _shut_down(self) -> None:
        systemd.send("STOPPING=1")
        self._status.close()
        self._save_at_last()
        self._kernel.close()
        self._plane.close()
        log.info("stopped")

    # --- settings and state -------------------------------------------------------------------------------------------

    def _reload_settings(self) -> None:
        """Apply the settings file; on any error say so and keep what runs."""
        systemd.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = settings.load(self._settings.file)
            if settings.read_private_key(config.private_key_file) != self._switchboard.own.identity.private:
                raise SettingsError(f"{config.private_key_file}: another private key: restart the service to change it")
            self._listen(config)
            self._move_status(config)
        except (SettingsError, StartError) as error:
            self._settings_error = str(error)
            log.error("settings not taken over, the last good ones stay: %s", error)
        else:
            self._settings_error = None
            self._faults.guard("settings", self._apply, config)
        systemd.send("READY=1", f"STATUS={len(self._settings.devices)} devices registered")

    def _apply(self, config: Settings) -> None:
        self._switchboard.own.addresses = config.addresses
        self._switchboard.expect_relays(config.relay_ports)
        self._apply_devices(config, time.time())
        self._use_kernel(config)
        self._settings = config
        self._save_due = 0.0
        log.info("settings taken over: %d devices on %s", len(config.devices), ", ".join(self._listening()))

    def _apply_devices(self, config: Settings, wall: float) -> None:
        """Let in the devices that have not expired, also after the clock was set back, and say who has."""
        self._guests = [device for device in config.devices if device.expires != math.inf]
        expired = _expired(self._guests, wall)
        self._switchboard.apply(device for device in config.devices if device.name not in expired)
        for name in sorted(expired - self._expired):
            log.info("%s: has expired, and is let in no more", name)
        self._expired = expired

    def _move_status(self, config: Settings) -> None:
        current = self._settings
        if (config.status_socket, config.metrics_listen) == (current.status_socket, current.metrics_listen):
            return
        self._status.close()
        try:
            self._status = self._status_server(config)
        except StartError:
            self._status = self._status_server(current)
            self._listen(current)
            raise

    def _save_if_due(self, now: float) -> None:
        if self._switchboard.changes != self._saved_changes:
            interval = _SAVE_INTERVAL + _SAVE_INTERVAL_PER_DEVICE * len(self._switchboard.devices)
            self._save_due = max(self._last_save + interval, self._save_not_before)
        if now < self._save_due:
            return
        if self._saving or self._writer.busy:
            # The disk, or the gathering, takes its time: the newest state comes next.
            self._save_due = self._save_not_before = now + _SAVE_INTERVAL
            return
        self._saving = True
        self._slices.add(self._save(now))

    def _save(self, now: float) -> Steps[None]:
        """Gather the state between the packets; JSON and disk are a thread's."""
        self._save_due = float("inf")
        self._last_save = now
        self._saved_changes = self._switchboard.changes
        try:
            content = yield from state.export_steps(self._switchboard, now, time.time())
        finally:
            self._saving = False
        self._writer.write(self._settings.state_file, content, time.monotonic())
        took = time.monotonic() - now
        self._save_not_before = now + _SAVE_SHARE * took

    def _save_at_last(self) -> None:
        if self._writer.wait(_LAST_SAVE_WITHIN):
            now = time.monotonic()
            self._writer.write(self._settings.state_file, state.export(self._switchboard, now, time.time()), now)
            if self._writer.wait(_LAST_SAVE_WITHIN):
                return
        log.warning("%s: not written in time: the next start begins with an older state", self._settings.state_file)

    # --- status -------------------------------------------------------------------------------------------------------

    def _listening(self) -> list[str]:
        return [addresses.text(sock.local) for sock in self._plane.sockets]

    def _problems(self) -> list[str]:
        problems = [text for text in (self._settings_error, self._clock_error) if text]
        problems += [*self._writer.problems(time.monotonic()), *self._faults.problems()]
        if self._settings.data_plane == "kernel" and self._kernel.reason:
            problems.append(f"data_plane is kernel, but userspace forwards: {self._kernel.reason}")
        granted = min(sock.receive_buffer() for sock in self._plane.sockets)
        if granted < BUFFER_SIZE:
            problems.append(
                f"receive buffer: {granted} bytes instead of {BUFFER_SIZE}: bursts are lost: "
                f"sysctl net.core.rmem_max={BUFFER_SIZE} (role variable relay_socket_buffer)"
            )
        return problems

    def _head(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "name": self._settings.name,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "data_plane": self._kernel.name,
            "data_plane_wanted": self._settings.data_plane,
            "data_plane_reason": self._kernel.reason or None,
            "kernel": self._kernel.document(),
            "expiring": status_document.expiring(self._settings.devices, time.time()),
            "healthy": self._settings_error is None,
            "problems": self._problems(),
            "listen": self._listening(),
            "endpoint": self._settings.public_endpoint or None,
            "settings_file": str(self._settings.file),
            "settings_error": self._settings_error,
        }

    def _head_steps(self) -> Steps[dict[str, Any]]:
        yield
        return self._head()

    def _document_steps(self) -> Steps[dict[str, Any]]:
        now = time.monotonic()
        self._kernel.count(now)
        yield
        head = self._head()
        traffic = yield from status_document.traffic(self._switchboard, now, self._kernel.refusal)
        return head | traffic

    def _with_router(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add what the keeper's file tells: reading it is nothing that forwarding should wait for."""
        router, problem = router_status.read(self._settings.edge_status_file, time.time())
        return document | {"edge": router, "problems": document["problems"] + ([problem] if problem else [])}
