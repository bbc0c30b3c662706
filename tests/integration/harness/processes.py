# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes: started with a log of their own, never outliving the test run, ended by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def run(*command: str, stdin: str | None = None, timeout: float = 20) -> str:
    """Run a command to its end and return what it prints; fail with its output and its words."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{stdin or ''}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], object], seconds: float, interval: float = 0.01) -> float:
    """Wait until `condition` holds and return how long that took; fail when it does not in time."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(interval)
    return time.monotonic() - start


class Process:
    """A running program whose output goes to a log file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.command = command
        self.log = log
        with log.open("ab") as output:
            # The kernel ends the program should the test run die without its finalizers.
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait_until(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Wait until `condition` holds; fail at once, with what the program has said, when it ends instead."""

        def held() -> object:
            if not self.running:
                raise AssertionError(f"ended before {what}:\n{self.text()}")
            return condition()

        wait_until(what, held, seconds)

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        return self._popen.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the program and return its exit code; a program that will not end is killed."""
        if self.running:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.send_signal(number)
        try:
            return self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait(5)

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def busy_seconds(self) -> float:
        """What it has used of a processor, with the commands that it ran."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def text(self) -> str:
        return self.log.read_text(errors="replace")
