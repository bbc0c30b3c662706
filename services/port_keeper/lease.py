# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One mapping: what is wanted, what the router granted, and when to ask again."""

from __future__ import annotations

from typing import NamedTuple

from port_mapping.mapping import Conflict, Granted, MappingError, Refused, Wanted

_MIN_INTERVAL = 0.5  # seconds between two renewals, however short a lease the router grants
_BACKOFF = 5.0  # seconds after the first refusal, doubled with each
_MAX_BACKOFF = 300.0


class Key(NamedTuple):
    """What tells one mapping from another on the router."""

    family: int
    protocol: str
    internal_port: int
    external_port: int


def key(wanted: Wanted) -> Key:
    return Key(wanted.family, wanted.protocol, wanted.internal_port, wanted.external_port)


class Mapping(NamedTuple):
    """A mapping that the settings ask for."""

    name: str
    wanted: Wanted


class Lease:
    """A mapping and what became of it."""

    def __init__(self, mapping: Mapping, now: float):
        self.mapping = mapping
        self.granted: Granted | None = None
        self.expires: float | None = None  # None: not before it is deleted
        self.due = now  # when the router is asked for it
        self.problem: str | None = None
        self.was_granted = False
        self.listed = False  # the router has shown it since it granted it
        self.renewals = 0
        self.restores = 0
        self._backoff = 0.0
        self._refusal = ""  # "refused" or "conflict"

    def live(self, now: float) -> bool:
        """Whether the router keeps the mapping, as far as it has told."""
        return self.granted is not None and (self.expires is None or now < self.expires)

    def state(self, now: float) -> str:
        """Return mapped, pending, refused or conflict."""
        return "mapped" if self.live(now) else self._refusal or "pending"

    def ask_now(self, now: float) -> None:
        """Have the router asked at once, whatever it said before."""
        self.due = now
        self._backoff = 0.0

    def forget(self, now: float) -> None:
        """The router has lost it."""
        self.granted = None
        self.ask_now(now)

    def grant(self, now: float, granted: Granted) -> str:
        """Note what the router granted; return what is new about it: "" for a renewal."""
        news = "" if self.live(now) else "again" if self.was_granted else "open"
        self.renewals += news == ""
        self.restores += news == "again"
        self.listed = self.listed and news == ""
        self.granted, self.was_granted = granted, True
        self.expires = now + granted.lease if granted.lease else None
        # A router may grant more than was asked for, but half of what was asked for is when to look after it.
        asked = self.mapping.wanted.lease
        self.due = now + max(min(granted.lease or asked, asked) / 2, _MIN_INTERVAL)
        self._backoff = 0.0
        self._refusal, self.problem = "", None
        return news

    def refuse(self, now: float, error: MappingError) -> bool:
        """Note the router's refusal; return whether it says something new. What it granted before lasts its time."""
        news = str(error) != self.problem
        self.problem = str(error)
        self._refusal = "refused" if isinstance(error, Refused) else ""
        if isinstance(error, Conflict):
            self._refusal, self.granted = "conflict", None
        self._backoff = min(self._backoff * 2 or _BACKOFF, _MAX_BACKOFF)
        self.due = now + self._backoff
        return news
