# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's side: lets connections in, joins each to a UDP socket of its own, and sends strangers away."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import ssl
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple

from peer_common import packets
from peer_common.websocket_pipe import MAX_DATAGRAM, POLICY, Pipe, ServerProtocol, forget_where

from peer_relay_fallback.gate import Address, Gate, Sources, forwarded, parse

log = logging.getLogger("peer_relay_fallback")

_TLS_SECONDS = 5.0
_OPEN_SECONDS = 10.0  # for TLS and the WebSocket's handshake together
_IDLE = 20.0
_STRANGERS_READ = 2048  # bytes that are read of a stranger's before others get their turn
_STRANGERS_PAUSE = 0.001  # seconds until its next, for each frame: a device's first handshakes are some dozens
_BREATH = 1.0  # seconds without new connections when the host has nothing left for them
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Limits(NamedTuple):
    """Bounds of the bridge."""

    max_connections: int = 256
    max_per_address: int = 16
    stranger_seconds: float = 15.0  # a device's first handshake with the relay is answered long before
    silent_seconds: float = 180.0  # a device that the relay knows makes a new handshake at least this often


class _Connection(Pipe):
    """A device's connection, or a stranger's. `admit` gives it a UDP socket, if there is room for it."""

    def __init__(self, who: Address | None, admit: Callable[[_Connection, Any], socket.socket | None]):
        super().__init__(ServerProtocol(max_size=MAX_DATAGRAM), _IDLE)
        self.who = who
        self.proven: asyncio.Future[None] = self.loop.create_future()
        self.proven_at = 0.0  # last
        self._admit = admit
        self._frames = 0  # of the last turn

    def handshake(self, event: Any) -> None:
        response, udp = self.websocket.accept(event), None
        if not hasattr(self.websocket, "handshake_exc"):  # version 9 puts it into the response
            forget_where(response.exception)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            udp = self._admit(self, event.headers)
            if udp is None:
                response = self.websocket.reject(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections.\n")
        if udp:
            self.open(udp)
        self.websocket.send_response(response)
        self._flush()
        if not udp:
            self.end("refused")

    def get_buffer(self, _hint: int) -> memoryview:
        return self._room if self.proven.done() else self._room[:_STRANGERS_READ]

    def buffer_updated(self, count: int) -> None:
        """Take what has come; a stranger has to wait for its next turn, lest it take those of the devices."""
        self._frames = 0
        super().buffer_updated(count)
        transport = self._transport
        if self._frames and not self.proven.done() and transport and not transport.is_closing():
            transport.pause_reading()
            self.loop.call_later(self._frames * _STRANGERS_PAUSE, self._go_on)

    def _frame(self, frame: Any, udp: socket.socket) -> None:
        self._frames += 1
        super()._frame(frame, udp)

    def _go_on(self) -> None:
        transport = self._transport
        if transport and not transport.is_closing():
            transport.resume_reading()

    def passed(self, datagram: bytes) -> None:
        """Take a transport message of the relay's for the proof that a device is here.

        The relay sends one only where a device is bound or has just opened a session, both of which take the device's
        key and its presence. Anybody can have it ask (a cookie reply, a challenge), and whoever records a device's
        initiation and is faster can have it answer.
        """
        if packets.message_type(datagram) == packets.TRANSPORT:
            self.proven_at = self.loop.time()
            if not self.proven.done():
                self.proven.set_result(None)


class Bridge:
    """All connections. `relay` is where the relay listens; without `tls` a reverse proxy stands in front."""

    def __init__(self, relay: tuple[str, int], tls: ssl.SSLContext | None, limits: Limits):
        self._relay, self._tls, self._limits = relay, tls, limits
        self._gate = Gate(limits.max_connections, limits.max_per_address)
        self._sources = Sources()
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: dict[_Connection, asyncio.Task[None]] = {}  # the oldest first
        self._pipes: set[_Connection] = set()
        self.devices = 0  # connections that have proven to be one's
        self.strangers = 0  # connections that were closed because they have not

    async def serve(self, listeners: Iterable[socket.socket]) -> None:
        """Let connections in until cancelled; then close them all."""
        accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]
        try:
            await asyncio.gather(*accepting)
        finally:
            for task in accepting:
                task.cancel()
            for pipe in self._pipes:
                pipe.end("the relay's fallback stops")
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=2)

    def summary(self) -> str:
        """Say in one line who is here, and who was not let in."""
        parts = [f"{len(self._gate)} connections, {self.devices} of devices", f"{self.strangers} strangers sent away"]
        parts += [f"{count} refused: {reason}" for reason, count in sorted(self._gate.refused.items())]
        return "; ".join(parts)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, (host, *_) = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _SCARCE:
                    log.warning("no new connections for a moment: %s", error.strerror)
                await asyncio.sleep(_BREATH if error.errno in _SCARCE else 0)  # or it was the client's own
                continue
            who = parse(host) if self._tls else None  # a proxy tells for whom it speaks
            if self._gate.full and self._strangers and not self._gate.crowded(who):
                # Strangers must not keep devices out. Who proves itself does so long before it is the oldest.
                await _cancelled(next(iter(self._strangers.values())))
                self.strangers += 1
            if self._gate.enter(who):
                pipe = _Connection(who, self._admit)
                task = asyncio.create_task(self._carry(sock, pipe))
                self._tasks.add(task)
                self._strangers[pipe] = task
                # Not the task's own work: one that is cancelled before its first turn does nothing.
                task.add_done_callback(functools.partial(self._gone, sock, pipe))
            else:
                sock.close()

    def _gone(self, sock: socket.socket, pipe: _Connection, task: asyncio.Task[None]) -> None:
        pipe.abort()
        sock.close()
        self._gate.leave(pipe.who)
        self._pipes.discard(pipe)
        self._tasks.discard(task)
        self._strangers.pop(pipe, None)

    async def _carry(self, sock: socket.socket, pipe: _Connection) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _OPEN_SECONDS
        tls_seconds = _TLS_SECONDS if self._tls else None
        try:
            await loop.connect_accepted_socket(lambda: pipe, sock, ssl=self._tls, ssl_handshake_timeout=tls_seconds)
            self._pipes.add(pipe)
            await _first(deadline - loop.time(), pipe.opened, pipe.ended)
            if pipe.opened.done():
                await self._watch(pipe)
            pipe.end("no WebSocket handshake")
            log.debug("%s: %s", pipe.who, await pipe.ended)
        except (OSError, asyncio.TimeoutError) as error:  # strangers speak all sorts of things on this port
            log.debug("%s: %s", pipe.who, error)
            # The frames that it was raised in hold a quarter of a megabyte of TLS, and what holds itself.
            traceback.clear_frames(error.__traceback__)
        except Exception as error:  # nor does what nobody thought of concern the others
            log.warning("%s: the connection is closed: %r", pipe.who, error)

    def _admit(self, pipe: _Connection, headers: Any) -> socket.socket | None:
        """Make the UDP socket of a connection whose handshake is done; return None when there is no room for it."""
        if self._tls is None:
            who = forwarded(",".join(headers.get_all("X-Forwarded-For")))
            if who and not self._gate.identify(who):
                return None
            pipe.who = who
        family = socket.AF_INET6 if ip_address(self._relay[0]).version == 6 else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET:  # IPv6 has one loopback address only
                udp.bind((self._sources.source(pipe.who), 0))
            udp.connect(self._relay)
        except OSError:
            udp.close()
            raise
        return udp

    async def _watch(self, pipe: _Connection) -> None:
        """Close the connection when the relay has nothing to say to it that only a device gets to hear."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await _first(self._limits.stranger_seconds, pipe.proven, pipe.ended)
        if not pipe.proven.done():
            self.strangers += not pipe.ended.done()
            pipe.end("the relay does not know you", POLICY)
            return
        self._strangers.pop(pipe, None)
        self.devices += 1
        try:
            log.info("%s: a device has come", pipe.who)
            while not pipe.ended.done():
                left = pipe.proven_at + self._limits.silent_seconds - loop.time()
                if left <= 0:
                    pipe.end("the relay has gone silent", POLICY)
                await _first(left, pipe.ended)
        finally:
            self.devices -= 1
        log.info("%s: the device has gone after %.0f s: %s", pipe.who, loop.time() - begun, pipe.ended.result())


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _first(seconds: float, *futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
