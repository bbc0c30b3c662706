# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's side: lets connections in, joins each to a UDP socket of its own, and sends strangers away."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple

from peer_relay_fallback.gate import Address, Gate, Sources, forwarded, parse
from peer_relay_fallback.pipe import LARGEST, POLICY, Pipe, ServerProtocol

log = logging.getLogger("peer_relay_fallback")

_TLS_SECONDS = 5.0
_OPEN_SECONDS = 10.0  # for TLS and the WebSocket's handshake together
_IDLE = 20.0
_BREATH = 1.0  # seconds without new connections when the process has no descriptor left for them


class Limits(NamedTuple):
    """Bounds of the bridge."""

    most: int = 256
    most_per_address: int = 16
    stranger_seconds: float = 15.0  # a device's first handshake with the relay is answered long before
    silent_seconds: float = 180.0  # a device that the relay knows makes a new handshake at least this often


class _Connection(Pipe):
    """A device's connection, or a stranger's. `admit` gives it a UDP socket, if there is room for it."""

    def __init__(self, who: Address | None, admit: Callable[[_Connection, Any], socket.socket | None]):
        super().__init__(ServerProtocol(max_size=LARGEST), _IDLE)
        self.who = who
        self._admit = admit

    def handshake(self, event: Any) -> None:
        response, udp = self.websocket.accept(event), None
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


class Bridge:
    """All connections. `relay` is where the relay listens; without `tls` a reverse proxy stands in front."""

    def __init__(self, relay: tuple[str, int], tls: ssl.SSLContext | None, limits: Limits):
        self._relay, self._tls, self._limits = relay, tls, limits
        self._gate = Gate(limits.most, limits.most_per_address)
        self._sources = Sources()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pipes: set[_Connection] = set()
        self.devices = 0  # connections to which the relay has answered
        self.strangers = 0  # connections that were closed because it has not

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
                log.warning("no new connections for a moment: %s", error.strerror)
                await asyncio.sleep(_BREATH)
                continue
            who = parse(host) if self._tls else None  # a proxy tells for whom it speaks
            if self._gate.enter(who):
                task = asyncio.create_task(self._carry(sock, who))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                sock.close()

    async def _carry(self, sock: socket.socket, who: Address | None) -> None:
        pipe = _Connection(who, self._admit)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _OPEN_SECONDS
        tls = {"ssl": self._tls, "ssl_handshake_timeout": _TLS_SECONDS} if self._tls else {}
        try:
            await loop.connect_accepted_socket(lambda: pipe, sock, **tls)
            self._pipes.add(pipe)
            await _first(deadline - loop.time(), pipe.opened, pipe.ended)
            if pipe.opened.done():
                await self._watch(pipe)
            pipe.end("no WebSocket handshake")
            log.debug("%s: %s", who, await pipe.ended)
        except (OSError, asyncio.TimeoutError) as error:  # strangers speak all sorts of things on this port
            log.debug("%s: %s", who, error)
        finally:
            sock.close()
            self._pipes.discard(pipe)
            self._gate.leave(pipe.who)

    def _admit(self, pipe: _Connection, headers: Any) -> socket.socket | None:
        """Make the UDP socket of a connection whose handshake is done; return None when there is no room for it."""
        if self._tls is None:
            who = forwarded(",".join(headers.get_all("X-Forwarded-For")))
            if who and not self._gate.name(who):
                return None
            pipe.who = who
        family = socket.AF_INET6 if ip_address(self._relay[0]).version == 6 else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET:  # IPv6 has one loopback address only
            udp.bind((self._sources.source(pipe.who), 0))
        udp.connect(self._relay)
        return udp

    async def _watch(self, pipe: _Connection) -> None:
        """Close the connection when the relay has nothing to say to it."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await _first(self._limits.stranger_seconds, pipe.answered, pipe.ended)
        if not pipe.answered.done():
            self.strangers += not pipe.ended.done()
            pipe.end("the relay does not know you", POLICY)
            return
        self.devices += 1
        log.info("%s: a device has come", pipe.who)
        while not pipe.ended.done():
            left = pipe.last_datagram + self._limits.silent_seconds - loop.time()
            if left <= 0:
                pipe.end("the relay has gone silent", POLICY)
            await _first(left, pipe.ended)
        self.devices -= 1
        log.info("%s: the device has gone after %.0f s: %s", pipe.who, loop.time() - begun, pipe.ended.result())


async def _first(seconds: float, *futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
