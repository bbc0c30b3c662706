# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's interface, by its own tool: what it says, and setting endpoints. Keys of the interface are not kept."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from peer_agent import quick
from peer_agent.endpoints import Endpoint

_TIMEOUT = 5.0
_NONE = "(none)"


class WireGuardError(Exception):
    """wg did not do what was asked; the message says why."""


class Peer(NamedTuple):
    """A [Peer] as it runs."""

    public_key: str
    preshared: bool
    endpoint: Endpoint | None
    allowed: str  # as `wg set` takes it
    handshake: int  # Unix time as WireGuard says it; 0: never
    rx: int
    tx: int
    keepalive: str


class Interface(NamedTuple):
    """An interface as it runs."""

    port: int
    mark: int
    peers: dict[str, Peer]  # by public key


def parse(dump: str) -> Interface:
    """Read `wg show INTERFACE dump`; raise WireGuardError, without its text: keys."""
    lines = dump.splitlines()
    try:
        _private, _public, port, mark = lines[0].split("\t")
        peers = (_peer(*line.split("\t")) for line in lines[1:])
        number = 0 if mark == "off" else int(mark, 0)
        return Interface(int(port), number, {peer.public_key: peer for peer in peers})
    except (ValueError, TypeError, IndexError):
        raise WireGuardError("wg show dump: this is not the form that is known") from None


def _peer(
    key: str, preshared: str, endpoint: str, allowed: str, handshake: str, rx: str, tx: str, keepalive: str
) -> Peer:
    return Peer(
        key,
        preshared != _NONE,
        _endpoint(endpoint),
        "" if allowed == _NONE else allowed,
        int(handshake),
        int(rx),
        int(tx),
        keepalive,
    )


def _endpoint(text: str) -> Endpoint | None:
    # A link-local address is nothing that the agent would choose.
    return None if text == _NONE or "%" in text else Endpoint.parse(text)


class WireGuard:
    """One interface."""

    def __init__(self, name: str):
        self.name = name
        self._device = Path("/sys/class/net", name)
        self._quick: quick.Userspace | quick.Kernel | None = None

    def _run(self, *words: str, stdin: str = "") -> str:
        try:
            done = subprocess.run(  # noqa: S603
                ["wg", *words],  # noqa: S607
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise WireGuardError("wg is missing: install wireguard-tools") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WireGuardError(f"wg {words[0]}: {error}") from None
        if done.returncode:
            raise WireGuardError(f"wg {' '.join(words[:2])}: {done.stderr.strip() or 'failed'}")
        return done.stdout

    def show(self) -> Interface:
        """Return the interface; raise WireGuardError when it is not there."""
        return parse(self._run("show", self.name, "dump"))

    def packets(self) -> int | None:
        """Return how many packets the interface has moved, at the cost of no process; None without interface."""
        try:
            return sum(int((self._device / "statistics" / name).read_text()) for name in ("rx_packets", "tx_packets"))
        except (OSError, ValueError):
            return None

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        """Set the endpoint of a peer."""
        for _ in range(2):  # the connection may be one to an interface that has gone and come
            self._quick = self._quick or quick.connect(self.name)
            if self._quick is None:
                break
            try:
                self._quick.set_endpoint(public_key, endpoint)
                return
            except OSError:
                self._quick.close()
                self._quick = None
        self._run("set", self.name, "peer", public_key, "endpoint", str(endpoint))

    def renew(self, peer: Peer, endpoint: Endpoint) -> None:
        """Remove the peer and add it again as it was: its session ends, and its next packet asks for another."""
        # In one call, so that no packet finds the peer gone. Routes are not the peer's: they stay.
        words = ["peer", peer.public_key, "remove", "peer", peer.public_key, "endpoint", str(endpoint)]
        words += ["persistent-keepalive", peer.keepalive, "allowed-ips", peer.allowed]
        secret = self._preshared(peer.public_key) if peer.preshared else ""
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
