# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the relay's own: told once each, and never the end of the service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

log = logging.getLogger("peer_relay")


class Faults:
    """What each part of the service has raised last that it must not raise."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}

    def guard(self, part: str, action: Callable[..., None], *arguments: Any) -> None:
        """Do something; whatever it raises, the caller goes on."""
        try:
            action(*arguments)
        except Exception as error:
            self.note(part, error)

    def note(self, part: str, error: Exception) -> None:
        """Remember an exception that is being handled; the journal has it with its origin, once."""
        fault = f"{type(error).__name__}: {error}"
        if self._latest.get(part) != fault:
            log.exception("%s: a fault of the relay's own: going on", part)
        self._latest[part] = fault

    def problems(self) -> Iterator[str]:
        """Return what is to be told in the status."""
        for part, fault in self._latest.items():
            yield f"{part}: a fault of the relay's own ({fault:.200}): restart it, and report what the journal says"
