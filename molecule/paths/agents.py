"""What the path agents say, what stands in their way, and pings that go on through all of it."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any

from lab import agent_status, background, overlay, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = {"laptop": "home", "home": "laptop"}
# Rules of a router's own table, before those of its firewall. It sees the other site at its router's address.
CUT = "ip daddr 198.51.100.22 drop; ip saddr 198.51.100.22 drop"
NO_UDP = "meta l4proto udp drop"


def told(name: str) -> list[dict[str, Any]]:
    """What a device's agent says of the others."""
    return agent_status(name).get("peers", [])


def path(name: str) -> dict[str, Any]:
    """What a device's agent says of the other device; empty while it says nothing."""
    return next(iter(told(name)), {})


def wait_path(kind: str, seconds: float = 30) -> None:
    for name in OTHER:
        wait_for(f"{name}'s path is {kind}", lambda name=name: path(name).get("path") == kind, seconds)


@contextlib.contextmanager
def in_the_way(rules: str) -> Iterator[None]:
    """Let router-a drop what these rules say, until the block ends."""
    run("router-a", f"nft 'table inet lab {{ chain forward {{ type filter hook forward priority -10; {rules}; }}; }}'")
    try:
        yield
    finally:
        run("router-a", "nft delete table inet lab")


class Pings:
    """Pings from the laptop to the device at home, ten a second."""

    def __init__(self) -> None:
        self.longest_gap = 0.0  # seconds without an answer
        self.lost = 0


@contextlib.contextmanager
def pings() -> Iterator[Pings]:
    found = Pings()
    with background("laptop", f"sh -c 'exec ping -n -D -i 0.1 {overlay('home', 4)} >/run/lab-pings'"):
        wait_for("the first answer", lambda: "bytes from" in run("laptop", "cat /run/lab-pings || true"))
        yield found
    lines = re.findall(r"\[([0-9.]+)\] .*icmp_seq=(\d+)", run("laptop", "cat /run/lab-pings"))
    at, numbers = [float(time) for time, _ in lines], [int(number) for _, number in lines]
    found.longest_gap = max(after - before for before, after in itertools.pairwise(at))
    found.lost = max(numbers) - min(numbers) + 1 - len(set(numbers))
