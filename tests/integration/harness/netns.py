# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces of this test run, and sockets that live in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from harness.processes import Process, run

_PREFIX = "prtest"
_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Enter a namespace with the calling thread; a socket made there stays there."""
    with Path("/proc/thread-self/ns/net").open() as home, (_FOLDER / namespace).open() as target:
        _setns(target.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def sweep() -> None:
    """Remove what a test run that was killed left behind."""
    for path in _FOLDER.glob(f"{_PREFIX}*-*"):
        owner = path.name.removeprefix(_PREFIX).split("-")[0]
        if not Path(f"/proc/{owner}").exists():
            for pid in run("ip", "netns", "pids", path.name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", path.name)


class Namespace:
    """One network namespace; its name carries the id of the process that owns it."""

    def __init__(self, label: str, logs: Path):
        self.label = label
        self.name = f"{_PREFIX}{os.getpid()}-{label}"
        self.logs = logs
        run("ip", "netns", "add", self.name)
        # No duplicates here, and looking for them keeps an address unusable for a second.
        self.sysctl(net__ipv6__conf__default__accept_dad=0, net__ipv6__conf__all__accept_dad=0)
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Run `ip` commands, in one process."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands))

    def run(self, *command: str, stdin: str | None = None, timeout: float = 20) -> str:
        return run("ip", "netns", "exec", self.name, *command, stdin=stdin, timeout=timeout)

    def spawn(self, *command: str, log: str, environment: dict[str, str] | None = None) -> Process:
        path = self.logs / f"{self.label}-{log}.log"
        return Process(["ip", "netns", "exec", self.name, *command], path, environment)

    def sysctl(self, **values: int) -> None:
        """Set sysctls; a double underscore stands for the dot."""
        self.run("sysctl", "-q", "-w", *(f"{key.replace('__', '.')}={value}" for key, value in values.items()))

    def nft(self, ruleset: str) -> None:
        self.run("nft", "-f", "-", stdin=ruleset)

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return inside(self.name)

    def remove(self) -> None:
        run("ip", "netns", "del", self.name)


def link(one: Namespace, one_name: str, other: Namespace, other_name: str) -> None:
    """Join two namespaces by a veth pair."""
    run(
        "ip",
        "link",
        "add",
        one_name,
        "netns",
        one.name,
        "type",
        "veth",
        "peer",
        "name",
        other_name,
        "netns",
        other.name,
    )
    one.ip(f"link set {one_name} up")
    other.ip(f"link set {other_name} up")
