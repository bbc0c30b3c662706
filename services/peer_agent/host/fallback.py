# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a relay when UDP is blocked: a UDP port on loopback for WireGuard, a WebSocket over TLS for the world.

Runs in a thread with a loop of its own, so that load on it does not keep the agent from choosing paths.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from peer_common.websocket_pipe import MAX_DATAGRAM, ClientProtocol, Pipe, forget_where, printable
from websockets.uri import parse_uri

from peer_agent.core.reasons import Failure
from peer_agent.endpoints import Endpoint
from peer_agent.host.resolver import look_up

_LOOPBACK = "127.0.0.1"
_IDLE = 15.0  # seconds: proxies close what is idle for 30 or more
_CONNECT_SECONDS = 4.5  # for all of it: the core waits for 5
_ADDRESS_SECONDS = 3.0  # for one address of several
_CANCEL_AGAIN = 2.5  # more than an end in good order takes
_ANSWER = 8192  # bytes of a proxy's answer
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")

Report = Callable[[Endpoint | None, Failure | None], None]


class Refused(Exception):
    """The other side is there, but not what it has to be; the message says why, and what to do."""

    reason = "fallback_failed"


class CertificateRefused(Refused):
    """It has another certificate."""

    reason = "certificate_refused"


class Fallback:
    """One attempt to reach a relay, and the connection that it leads to.

    `report` is called from another thread: with the endpoint for WireGuard when the connection stands, and with None
    and the failure when it has ended or could not be made.
    """

    def __init__(self, url: str, fingerprint: str, mark: int, port: int, report: Report):
        """`fingerprint` is the certificate's SHA-256 in hex or ""; `mark` and `port` are WireGuard's."""
        self._url, self._fingerprint, self._mark, self._port = url, fingerprint, mark, port
        self._report = report
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="fallback", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the connection. Nothing is reported any more."""
        self._report = _nobody
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task and not self._task.done():
            self._task.cancel()
            # Before Python 3.12, asyncio.wait_for may swallow that when what it waits for comes at the same moment.
            self._loop.call_later(_CANCEL_AGAIN, self._cancel)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._carry())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            self._loop.run_until_complete(_leave_nothing())
            self._loop.close()

    async def _carry(self) -> None:
        pipe = None
        try:
            pipe = await asyncio.wait_for(self._connect(), _CONNECT_SECONDS)
            self._report(pipe.endpoint, None)
            failure = Failure(Refused.reason, await pipe.ended)
        except asyncio.TimeoutError:
            failure = Failure(Refused.reason, f"no connection to {self._url} within {_CONNECT_SECONDS:.0f} s")
        except ssl.SSLCertVerificationError as error:
            text = (
                f"the certificate of {self._url} is refused: {error.verify_message.rstrip('.')}. It has to be valid "
                "for that name and of an authority that this device trusts, or else pinned: relay_fallback_fingerprint"
            )
            failure = Failure(CertificateRefused.reason, text)
        except Exception as error:  # whatever the library raises: a device without this path is told why
            reason = error.reason if isinstance(error, Refused) else Refused.reason
            failure = Failure(reason, f"{self._url}: {printable(str(error))}")
        finally:
            if pipe:
                pipe.end("the device has a better path")
                await asyncio.wait({pipe.ended}, timeout=2)
        self._report(None, failure)

    async def _connect(self) -> _Pipe:
        url = urlsplit(self._url)
        host, port = _server(url, 443 if url.scheme == "wss" else 80, "fallback_url")
        proxy = _proxy(url)
        sock = await _dial(*(_server(proxy, 80, "the environment's proxy") if proxy else (host, port)), self._mark)
        try:
            if proxy:
                await _tunnel(sock, proxy, host, port)
            pipe = _Pipe(self._url, self._port)
            tls = self._tls() if url.scheme == "wss" else None
            await asyncio.get_running_loop().create_connection(
                lambda: pipe, sock=sock, ssl=tls, server_hostname=host if tls else None
            )
        except BaseException:
            sock.close()
            raise
        try:
            self._check(pipe)
            pipe.request()
            either: set[asyncio.Future[Any]] = {pipe.opened, pipe.ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if pipe.ended.done():
                raise Refused(pipe.ended.result())
        except BaseException:
            pipe.end("given up")
            raise
        return pipe

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        if self._fingerprint:  # this very certificate, whoever signed it: checked before anything is said
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _check(self, pipe: _Pipe) -> None:
        certificate = pipe.certificate()
        if not self._fingerprint or certificate is None:
            return
        found = hashlib.sha256(certificate).hexdigest()
        if found != self._fingerprint:
            raise CertificateRefused(
                f"the certificate is not the pinned one: its SHA-256 is {found} instead of {self._fingerprint}. "
                "If the relay has a new one, run the playbook; if not, somebody stands in between"
            )


async def _leave_nothing() -> None:
    """End what a cancellation has left behind: a wait that was cancelled twice leaves what it waited for."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=_CANCEL_AGAIN)


def _nobody(_endpoint: Endpoint | None, _failure: Failure | None) -> None:
    pass


class _Pipe(Pipe):
    """The device's end."""

    def __init__(self, url: str, port: int):
        super().__init__(_protocol(url), _IDLE)
        self._port = port
        self.endpoint: Endpoint | None = None

    def certificate(self) -> bytes | None:
        tls = self._transport and self._transport.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) if tls else None

    def request(self) -> None:
        self.websocket.send_request(self.websocket.connect())
        self._flush()

    def greeted(self, header: bytes) -> None:
        """Let nothing but the beginning of a WebSocket pass: of any other answer the library would read the body."""
        status = _STATUS.match(header)
        if not status:
            self.end("no WebSocket: the answer is not HTTP")
        elif status[1] != b"101":
            self.end(f"HTTP {status[1].decode()} instead of a WebSocket")

    def handshake(self, event: Any) -> None:
        # Version 9 puts it into the response.
        error = self.websocket.handshake_exc if hasattr(self.websocket, "handshake_exc") else event.exception
        if error:
            forget_where(error)
            self.end(f"no WebSocket: {error}")
            return
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            udp.bind((_LOOPBACK, 0))
            udp.connect((_LOOPBACK, self._port))  # other programs of this host are not heard
        except OSError:
            udp.close()
            raise
        self.endpoint = Endpoint.of(*udp.getsockname())
        self.open(udp)


def _protocol(url: str) -> Any:
    try:
        return ClientProtocol(parse_uri(url), max_size=MAX_DATAGRAM)
    except AttributeError:
        text: Any = url  # version 9 parses it itself
        return ClientProtocol(text, max_size=MAX_DATAGRAM)


# --- the way there ----------------------------------------------------------------------------------------------------


def _server(url: SplitResult, port: int, what: str) -> tuple[str, int]:
    """Return the host and the port of a URL, this port where it names none; raise Refused for one without a host."""
    if not url.hostname:
        raise Refused(f"{what} names no host: write one before the port")
    return url.hostname, url.port or port


async def _dial(host: str, port: int, mark: int) -> socket.socket:
    """Connect to the first address of the host that answers; raise OSError."""
    loop = asyncio.get_running_loop()
    problem: Exception = OSError(f"no address of {host} is known")
    for endpoint in await _endpoints(host, port, mark):
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if mark:  # an exit node's route must not lead this into the tunnel
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait_for(loop.sock_connect(sock, tuple(endpoint)), _ADDRESS_SECONDS)
            return sock
        except (OSError, asyncio.TimeoutError) as error:
            sock.close()
            problem = error if str(error) else OSError(f"{endpoint.host} port {port} does not answer")
        except BaseException:
            sock.close()
            raise
    raise problem


async def _endpoints(host: str, port: int, mark: int) -> list[Endpoint]:
    with contextlib.suppress(ValueError):
        return [Endpoint.of(host, port)]
    return await asyncio.get_running_loop().run_in_executor(None, look_up, host, port, mark)


def _proxy(url: SplitResult) -> SplitResult | None:
    """Return the HTTP proxy that the environment names for the URL."""
    given = getproxies().get("https" if url.scheme == "wss" else "http")
    if not given or proxy_bypass(url.hostname or ""):
        return None
    return urlsplit(given if "://" in given else f"http://{given}")


async def _tunnel(sock: socket.socket, proxy: SplitResult, host: str, port: int) -> None:
    """Have the proxy connect on to the host (RFC 9110, 9.3.6)."""
    loop = asyncio.get_running_loop()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer = b""
    # The host says nothing before it is spoken to: all of this is the proxy's.
    while b"\r\n\r\n" not in answer:
        part = await loop.sock_recv(sock, _ANSWER)
        answer += part
        if not part or len(answer) > _ANSWER:
            raise Refused(f"the proxy {proxy.hostname} does not answer as one")
    status = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    if status.split(" ")[1:2] != ["200"]:
        raise Refused(f"the proxy {proxy.hostname} says {printable(status[:80])}")
