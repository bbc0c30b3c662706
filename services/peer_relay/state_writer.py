# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the state beside the loop. A disk that hangs holds up nobody, and costs the memory of one state."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from peer_relay import state

_HANGS_AFTER = 10.0  # seconds


class StateWriter:
    """One write at a time; whoever has a newer state waits until `busy` ends, and then writes the newest."""

    def __init__(self, start_problem: str | None):
        """`start_problem` is what was wrong with the file that was found: told until somebody has looked after it."""
        self._start_problem = start_problem
        self._problem: str | None = None
        self._file = Path()
        self._since: float | None = None  # since when a write is under way
        self._done = threading.Event()
        self._done.set()

    @property
    def busy(self) -> bool:
        """Tell whether a write is under way."""
        return not self._done.is_set()

    def write(self, file: Path, content: dict[str, Any], now: float) -> None:
        """Begin a write; only when not busy."""
        self._file, self._since = file, now
        self._done.clear()
        # A daemon: a disk that never answers must not keep the service from ending.
        try:
            threading.Thread(target=self._run, args=(file, content), name="state", daemon=True).start()
        except RuntimeError as error:
            self._problem = f"{file}: not written: {error}: see systemctl status peer-relay"
            self._done.set()

    def _run(self, file: Path, content: dict[str, Any]) -> None:
        problem: str | None = f"{file}: could not be written: see the journal: a restart will cost handshakes"
        try:
            state.write(file, content)
            problem = None
            if self._start_problem and not state.broken_name(file).exists():
                self._start_problem = None
        except OSError as error:
            problem = f"{file}: {error.strerror}: a restart will cost handshakes: make its directory writable"
        finally:
            self._problem = problem
            self._done.set()

    def problems(self, now: float) -> list[str]:
        """Return what is wrong with the file, and with the disk."""
        problem = self._problem
        if self.busy and self._since is not None and now - self._since > _HANGS_AFTER:
            waited = f"{self._file}: not written for {now - self._since:.0f} s, the disk does not answer"
            problem = f"{waited}: a restart will cost handshakes: see dmesg and the disk's health"
        return [text for text in (self._start_problem, problem) if text]

    def wait(self, seconds: float) -> bool:
        """Wait for the write that is under way; tell whether it is done."""
        return self._done.wait(seconds)
