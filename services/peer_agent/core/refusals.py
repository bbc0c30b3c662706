# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others sent and the agent refused: counted under a name, and told to the journal now and then."""

from __future__ import annotations

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

log = logging.getLogger("peer_agent")

NAMES = {
    "malformed_message": "a message that is none of an agent's",
    "too_many_messages": "more messages than are read",
    "too_many_probes": "more probes than are answered",
    "probe_limit": "probes that were not sent, as their targets do not answer or too many were named",
    "malformed_answer": "a datagram that answers nothing which a relay was asked",
    "unknown_sender": "a datagram from nobody in the settings",
    "fault": "a fault in the agent",
}
_QUIET = 60.0  # seconds from one line about the same to the next
STRICT = "PEER_AGENT_STRICT"  # in the environment of tests: a fault ends the service


class Refusals:
    """The counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.strict = bool(os.environ.get(STRICT))
        self._quiet_until: dict[str, float] = {}

    def note(self, now: float, name: str, who: object, detail: str = "", level: int = logging.INFO) -> None:
        """Count one of NAMES. `detail` may be in the words of whoever sent it."""
        self.counts[name] += 1
        if now >= self._quiet_until.get(name, now):
            self._quiet_until[name] = now + _QUIET
            log.log(level, "%s: %s%s", who, NAMES[name], f": {detail!a:.200}" if detail else "")

    def guard(self, now: float, who: object, do: Callable[..., Any], *arguments: Any) -> bool:
        """Call something about one datagram or one device; return False when it failed as it must not: a bug, which
        costs that datagram and not the service."""
        try:
            do(*arguments)
        except Exception as error:
            if self.strict:
                raise
            *_, (frame, line) = traceback.walk_tb(error.__traceback__)
            where = f"{type(error).__name__} in {frame.f_code.co_name}, line {line} of {frame.f_code.co_filename}"
            self.note(now, "fault", who, f"{where}: {error}", logging.ERROR)
            return False
        return True
