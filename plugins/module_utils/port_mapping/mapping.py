# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every protocol of port mapping has in common: the wish, what a router granted, and how it can fail.

A mapping is for this host only: a router in secure mode takes it from nobody else. For IPv6 there is no translation:
the mapping is a pinhole in the router's firewall, and its external address is the host's own.

Standard library only: the role port_forward also installs this package on the target, for the lease keeper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from .words import printable

_MAX_MESSAGE_LENGTH = 1500  # that of three protocols which all failed has some 600


class MappingError(Exception):
    """A mapping could not be had; the message names the router, its words and the fix.

    Whatever a router puts into its words, the message is one line that a terminal and a status file can take.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, _MAX_MESSAGE_LENGTH))


class Unreachable(MappingError):
    """No router answered, or none that speaks the protocol."""


class Malformed(MappingError):
    """What answered does not keep to the protocol."""


class Refused(MappingError):
    """The router said no; the message translates its answer."""


class NoAddress(Refused):
    """The router has no public address, and so refuses every mapping; the message is the verdict's explanation."""


class Conflict(MappingError):
    """The external port is somebody else's on the router."""


class HolderUnknown(MappingError):
    """Nobody tells whose the external port is: the protocol has no question for it, or the router no answer."""


@dataclass(frozen=True)
class Wanted:
    """A mapping that is to be."""

    internal_port: int
    external_port: int
    protocol: str = "udp"  # or "tcp"
    family: int = 4  # or 6: a pinhole
    lease: int = 3600  # seconds to ask for
    description: str = "homelab.peer_relay"  # shown by routers that keep one


@dataclass(frozen=True)
class Granted:
    """A mapping that is."""

    external_address: str  # "" when the router does not tell
    external_port: int
    lease: int  # seconds from now; 0: until it is deleted


class Holder(NamedTuple):
    """Who has an external port."""

    internal_address: str
    internal_port: int
    granted: Granted


@dataclass(frozen=True)
class Life:
    """A sign of life of the router, to tell from two of them whether it restarted in between.

    PCP and NAT-PMP count seconds since the mappings were lost (`epoch`); UPnP numbers its starts (`boot_id`).
    """

    external_address: str = ""  # "" when the router does not tell
    epoch: int | None = None
    boot_id: int | None = None


@runtime_checkable
class Found(Protocol):
    """A router that was found, and what is known of it."""

    @property
    def method(self) -> str:
        """Return "pcp", "nat-pmp" or "upnp"."""

    @property
    def gateway(self) -> str:
        """Return the router's address."""

    @property
    def local_address(self) -> str:
        """Return this host's address towards it."""

    @property
    def model(self) -> str:
        """Return what the router calls itself; "" when it does not."""

    @property
    def oddities(self) -> tuple[str, ...]:
        """Return what it does against the protocol and is understood all the same."""


class Client(Found, Protocol):
    """How to talk to a router that was found. Every call raises MappingError."""

    def look(self) -> Life:
        """Ask for a sign of life, which changes nothing."""

    def holder(self, wanted: Wanted) -> Holder | None:
        """Return who has the external port; None when it is free. Raises HolderUnknown where nobody tells."""

    def map(self, wanted: Wanted) -> Granted:
        """Make the mapping or renew its lease. Never takes the external port from anybody, nor takes another port."""

    def unmap(self, wanted: Wanted) -> None:
        """Delete the mapping; one that is not there is as good."""

    def remove(self, wanted: Wanted) -> None:
        """Delete the mapping of the external port, whoever's it is; raises HolderUnknown as `holder` does."""
