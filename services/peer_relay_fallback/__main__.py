# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command peer-relay-fallback: the unit's options in, a running bridge out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

from peer_common import endpoints, journal, systemd
from peer_common.journal import FINE, PROBLEM

from peer_relay_fallback.bridge import Bridge, Limits

log = logging.getLogger("peer_relay_fallback")

_BACKLOG = 128
_STATUS_SECONDS = 10.0


class StartError(Exception):
    """The bridge cannot start; the message says why, and what to do."""


def _endpoint(text: str) -> tuple[str, int]:
    address, port = endpoints.literal(text)
    return str(address), port


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peer-relay-fallback", description="Reach the relay by WebSocket.")
    parser.add_argument(
        "--listen", type=_endpoint, action="append", required=True, metavar="ADDRESS:PORT", help="may be repeated"
    )
    parser.add_argument(
        "--relay", type=_endpoint, required=True, metavar="ADDRESS:PORT", help="where the relay listens"
    )
    parser.add_argument("--certificate", type=Path, help="PEM, with its chain; none behind a reverse proxy")
    parser.add_argument("--key", type=Path, help="PEM")
    parser.add_argument(
        "--connections", type=_count, default=Limits().max_connections, help="in all (default %(default)s)"
    )
    parser.add_argument(
        "--connections-per-address", type=_count, default=Limits().max_per_address, help="(default %(default)s)"
    )
    parser.add_argument("--stranger-seconds", type=_count, default=Limits().stranger_seconds, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if bool(arguments.certificate) != bool(arguments.key):
        parser.error("--certificate and --key: give both, or none behind a reverse proxy")
    return arguments


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Use these for new connections; raise StartError."""
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise StartError(f"{certificate}, {key}: {error.reason}: give a PEM certificate and the key to it") from error
    except OSError as error:
        raise StartError(f"{certificate}, {key}: {error.strerror}") from error


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make the context, with the certificate of that moment and, from each SIGHUP on, that of then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Every device can do it, and with older versions strangers fill the library's cache of sessions.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody comes back to a session
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key)

    def again() -> None:
        try:
            _load(context, certificate, key)
        except StartError as error:
            log.error("the certificate stays as it was: %s", error)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again)
    return context


def _listener(place: tuple[str, int]) -> socket.socket | None:
    """Listen; return None for all of IPv6 on a host without it."""
    host, port = place
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise StartError(
            f"TCP {host} port {port}: {error.strerror}: choose another, or share it as docs/fallback.md shows"
        ) from error
    return sock


async def _report(bridge: Bridge) -> None:
    """Tell the service manager who is here, and that the loop turns."""
    said, interval = "", (systemd.watchdog_interval() or 2 * _STATUS_SECONDS) / 2
    while True:
        summary = bridge.summary()
        systemd.send("WATCHDOG=1", *([f"STATUS={summary}"] if summary != said else []))
        said = summary
        await asyncio.sleep(min(interval, _STATUS_SECONDS))


async def _run(arguments: argparse.Namespace) -> None:
    tls = _tls(arguments.certificate, arguments.key) if arguments.certificate else None
    limits = Limits(arguments.connections, arguments.connections_per_address, arguments.stranger_seconds)
    bridge = Bridge(arguments.relay, tls, limits)
    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(listener) for listener in map(_listener, arguments.listen) if listener]
        tasks = [asyncio.create_task(bridge.serve(listeners)), asyncio.create_task(_report(bridge))]
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        systemd.send("READY=1")
        done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        systemd.send("STOPPING=1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ended in done - {stopped}:
            ended.result()  # it ended by itself: an error


def main(words: list[str] | None = None) -> int:
    arguments = _arguments(words)
    journal.begin(os.environ.get("LOG_LEVEL", "INFO"))
    # Nor is what strangers send instead of TLS.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_run(arguments))
    except StartError as error:
        log.error("%s", error)
        return PROBLEM
    return FINE


if __name__ == "__main__":
    sys.exit(main())
