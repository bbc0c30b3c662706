# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program tells whoever runs it: lines for the journal, and its exit code."""

from __future__ import annotations

import logging
import os

# Exit codes: all is well; something is to be looked at; usage or settings; the service does not run.
FINE, PROBLEM, BAD_SETTINGS, NOT_RUNNING = 0, 1, 2, 3
# Levels as journald reads them at the start of a line (sd-daemon(3)).
_PRIORITIES = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}


class Formatter(logging.Formatter):
    """A message is one line, whatever words of others are in it; an exception follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = _PRIORITIES.get(record.levelno, "") if "JOURNAL_STREAM" in os.environ else ""
        lines = [record.getMessage()]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return "\n".join(prefix + _printable(line) for line in lines)


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def begin(level: int | str = logging.INFO) -> None:
    """Log to standard error, which systemd hands to the journal."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level, handlers=[handler])
