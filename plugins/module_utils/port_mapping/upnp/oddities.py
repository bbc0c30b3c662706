# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a router does against its protocol and is understood all the same: noted where seen, told by the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_noted: ContextVar[set[str] | None] = ContextVar("noted", default=None)


def note(what: str) -> None:
    """Note a fault of the router that is asked: a fixed sentence without a subject, and no word of the router's."""
    noted = _noted.get()
    if noted is not None:
        noted.add(what)


@contextlib.contextmanager
def noting() -> Iterator[set[str]]:
    """Collect what is noted within."""
    noted: set[str] = set()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
