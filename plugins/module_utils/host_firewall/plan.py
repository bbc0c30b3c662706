# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firewall backends share: a port to open, and a plan of changes.

Standard library only: the roles firewall and port_forward also install this package on the target, for start-up.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

TAG = "homelab.peer_relay: "
# A rule that was added to keep SSH reachable. It has no tag of ours: from then on it is the administrator's.
SSH_COMMENT = "SSH, allowed by homelab.peer_relay"

Run = Callable[..., str]  # run(argv, stdin="") -> stdout; raises CommandError


class CommandError(Exception):
    """A command is missing or failed."""


class FirewallError(Exception):
    """A request that is refused, with the fix."""


class Port(NamedTuple):
    protocol: str
    port: int
    comment: str
    destination: str = ""  # the address behind this host that has the port; empty: this host

    def __str__(self) -> str:
        where = f" of {self.destination}" if self.destination else ""
        return f"{self.port}/{self.protocol}{where}"

    @property
    def version(self) -> int:
        """The one version of IP that the port is for, 0 for both."""
        return (6 if ":" in self.destination else 4) if self.destination else 0

    @property
    def tag(self) -> str:
        return TAG + self.comment


class Plan(NamedTuple):
    statements: tuple[str, ...] = ()  # for nft -f, one transaction
    commands: tuple[list[str], ...] = ()
    before: tuple[str, ...] = ()  # our rules, for the diff
    after: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    closed_ports: tuple[Port, ...] = ()  # ports of ours that nothing would admit any more

    @property
    def lines(self) -> list[str]:
        """The commands as a person would type them."""
        return [f"nft {statement}" for statement in self.statements] + [
            shlex.join(command) for command in self.commands
        ]

    @property
    def changed(self) -> bool:
        return bool(self.statements or self.commands)


def apply_plan(run: Run, plan: Plan) -> None:
    if plan.statements:
        run(["nft", "-f", "-"], stdin="\n".join(plan.statements) + "\n")
    for command in plan.commands:
        run(command)


def covers(spec: str, port: int) -> bool:
    """Whether a list of ports and ranges ("22", "80,443", "6000:6010", "6000-6010") holds the port."""
    for part in spec.split(","):
        bounds = re.fullmatch(r"(\d+)(?:[:-](\d+))?", part)
        if bounds and int(bounds[1]) <= port <= int(bounds[2] or bounds[1]):
            return True
    return False


def valid_comment(text: str) -> bool:
    """Whether nft, ufw and iptables all take the text as it is."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,59}", text))
