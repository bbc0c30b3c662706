# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's interface as it runs. Its keys are in whatever tells of it, and are not kept."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from peer_agent.endpoints import Endpoint


class Malformed(ValueError):
    """This is not the form that is known."""


class WireGuardError(Exception):
    """WireGuard did not do what was asked; the message says why."""


class Unchangeable(WireGuardError):
    """This WireGuard would not survive that an endpoint is set."""


class Peer(NamedTuple):
    """A [Peer]."""

    public_key: str
    preshared: bool
    endpoint: Endpoint | None
    allowed: str  # as `wg set` takes it
    handshake: int  # Unix time as WireGuard says it; 0: never
    rx: int
    tx: int
    keepalive: int  # seconds; 0: off


class Interface(NamedTuple):
    """An interface."""

    port: int
    mark: int
    peers: dict[str, Peer]  # by public key


class Client(Protocol):
    """Whoever can show an interface and set its endpoints: this process itself, or by way of the helper.

    All but `problem` and `close` raise WireGuardError.
    """

    @property
    def name(self) -> str: ...

    def problem(self) -> str: ...

    def show(self) -> Interface: ...

    def set_endpoint(self, public_key: str, endpoint: Endpoint, /) -> None: ...

    def renew(self, public_key: str, endpoint: Endpoint, /) -> None: ...

    def bind_again(self, port: int, /) -> None: ...

    def close(self) -> None: ...


def read_endpoint(text: str) -> Endpoint | None:
    """Read an endpoint; None for one that the agent would not choose: a link-local one, or port 0.

    WireGuard goes wherever the other's packets come from, so that is for the other to say.
    """
    return None if "%" in text or text.endswith(":0") else Endpoint.parse(text)


def make_interface(port: int, mark: int, peers: dict[str, Peer]) -> Interface:
    """Return the interface; raise ValueError for numbers that it cannot have."""
    if not 0 <= port < 1 << 16 or not 0 <= mark < 1 << 32:
        raise ValueError("a port or a mark out of range")
    return Interface(port, mark, peers)
