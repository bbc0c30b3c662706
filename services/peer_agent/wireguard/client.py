# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's interface: what it says, and setting endpoints.

What is done often starts no process: it goes straight to wireguard-go or to the kernel. What is rare is left to `wg`,
and so is everything else should neither answer as it ought to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from peer_agent.endpoints import Endpoint
from peer_agent.wireguard.interface import Interface, Malformed, Peer, WireGuardError, make_interface, read_endpoint
from peer_agent.wireguard.netlink import Kernel
from peer_agent.wireguard.uapi import Userspace

log = logging.getLogger("peer_agent")

_Result = TypeVar("_Result")
_TIMEOUT = 5.0
_NONE = "(none)"
_NO_TOOL = "wg is missing, so a session cannot be renewed: install wireguard-tools"


def parse(dump: str) -> Interface:
    """Read `wg show INTERFACE dump`; raise Malformed, without its text: keys."""
    lines = dump.splitlines()
    try:
        _private, _public, port, mark = lines[0].split("\t")
        peers = (_peer(*line.split("\t")) for line in lines[1:])
        number = 0 if mark == "off" else int(mark, 0)
        return make_interface(int(port), number, {peer.public_key: peer for peer in peers})
    except (ValueError, TypeError, IndexError):
        raise Malformed("the answer of wg show dump") from None


def _peer(key: str, preshared: str, place: str, allowed: str, handshake: str, rx: str, tx: str, keepalive: str) -> Peer:
    return Peer(
        key,
        preshared != _NONE,
        None if place == _NONE else read_endpoint(place),
        "" if allowed == _NONE else allowed,
        int(handshake),
        int(rx),
        int(tx),
        0 if keepalive == "off" else int(keepalive),
    )


class Counters:
    """How many packets an interface has moved: read from files that stay open."""

    def __init__(self, name: str):
        self._files = [Path("/sys/class/net", name, "statistics", f"{way}_packets") for way in ("rx", "tx")]
        self._open: list[int] = []

    def read(self) -> int | None:
        """Return their number, or None without interface."""
        for _ in range(2):  # the open files may be those of an interface that has gone and come
            try:
                for file in self._files[len(self._open) :]:
                    self._open.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
                return sum(int(os.pread(file, 32, 0)) for file in self._open)
            except (OSError, ValueError):
                self.close()
        return None

    def close(self) -> None:
        for file in self._open:
            os.close(file)
        self._open = []


class WireGuard:
    """One interface."""

    def __init__(self, name: str):
        self.name = name
        self._direct: Userspace | Kernel | None = None
        self._unreadable = False  # what is said there could not be read

    def close(self) -> None:
        if self._direct:
            self._direct.close()
        self._direct = None

    @staticmethod
    def problem() -> str:
        """Return what is missing, and the fix, or ""."""
        return "" if shutil.which("wg") else _NO_TOOL

    def _directly(self, do: Callable[[Userspace | Kernel], _Result]) -> _Result | None:
        """Do something without `wg`; return None when that cannot be done."""
        for _ in range(2):  # the connection may be one to an interface that has gone and come
            self._direct = self._direct or _connect(self.name)
            if self._direct is None:
                break
            try:
                return do(self._direct)
            except OSError:
                self.close()
        return None

    def _run(self, *words: str, stdin: str = "") -> str:
        try:
            done = subprocess.run(  # noqa: S603
                ["wg", *words],  # noqa: S607
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise WireGuardError(_NO_TOOL) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WireGuardError(f"wg {words[0]}: {error}") from None
        if done.returncode:
            raise WireGuardError(f"wg {' '.join(words[:2])}: {done.stderr.strip() or 'failed'}")
        return done.stdout

    def show(self) -> Interface:
        """Return the interface; raise WireGuardError when it is not there."""
        try:
            found = None if self._unreadable else self._directly(lambda direct: direct.show())
        except Malformed as error:
            log.warning("%s: %s is not in the form that is known: asking wg from now on", self.name, error)
            self._unreadable, found = True, None
        try:
            return found or parse(self._run("show", self.name, "dump"))
        except Malformed as error:
            raise WireGuardError(f"{error} is not in the form that is known") from None

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        """Set the endpoint of a peer."""

        def do(direct: Userspace | Kernel) -> bool:
            direct.set_endpoint(public_key, endpoint)
            return True

        # `wg` would add a [Peer] that is there no more.
        if not self._directly(do) and public_key in self.show().peers:
            self._run("set", self.name, "peer", public_key, "endpoint", str(endpoint))

    def renew(self, public_key: str, endpoint: Endpoint) -> None:
        """Remove the peer and add it again as it was: its session ends, and its next packet asks for another."""
        peer = self.show().peers.get(public_key)
        if not peer:
            return
        # In one call, so that no packet finds the peer gone. Routes are not the peer's: they stay.
        words = ["peer", public_key, "remove", "peer", public_key, "endpoint", str(endpoint)]
        words += ["persistent-keepalive", str(peer.keepalive), "allowed-ips", peer.allowed]
        secret = self._preshared(public_key) if peer.preshared else ""
        if secret:
            words += ["preshared-key", "/dev/stdin"]
        self._run("set", self.name, *words, stdin=secret)

    def _preshared(self, public_key: str) -> str:
        pairs = (line.split("\t") for line in self._run("show", self.name, "preshared-keys").splitlines())
        return next((secret for key, secret in pairs if key == public_key), "")

    def bind_again(self, port: int) -> None:
        """Have wireguard-go forget the address that it sends from: it would keep one that the host has lost.

        The kernel's own WireGuard needs no such thing, and to it the same port again is no change.
        """
        self._run("set", self.name, "listen-port", str(port))


def _connect(name: str) -> Userspace | Kernel | None:
    for kind in (Userspace, Kernel):
        with contextlib.suppress(OSError):
            return kind(name)
    return None
