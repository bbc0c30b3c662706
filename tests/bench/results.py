# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, the table of it, and the goals."""

from __future__ import annotations

import itertools
import statistics
from typing import NamedTuple

from costs import Costs
from load import Result

FORWARDING, KERNEL, USERSPACE, ASYNCIO, COTURN = (
    "plain forwarding", "ours, kernel", "ours, userspace", "asyncio protocol", "coturn"
)  # fmt: skip
SIZES = (1452, 64)


class Case(NamedTuple):
    """Datagrams of which size, whether trains of them form, how many pairs, and whether all use one interface."""

    size: int
    trains: bool = False
    pairs: int = 1
    hairpin: bool = False

    def __str__(self) -> str:
        parts = [f"{self.size} B", *["trains"] * self.trains]
        parts += [f"{self.pairs:,} pairs"] * (self.pairs > 1) + ["1 interface"] * self.hairpin
        return ", ".join(parts)


class Trips(NamedTuple):
    """Round trips of single datagrams: seconds."""

    median: float
    p99: float


class Figures(NamedTuple):
    """What all rounds measured. Contestants took turns: what is compared was measured in the same round."""

    loads: dict[str, dict[Case, list[Result]]]  # by contestant and case, one for each round
    trips: dict[str, dict[Case, list[list[float]]]]  # seconds, for each round
    costs: Costs
    absent: dict[str, str]  # contestants that could not run, and why
    others: float  # the share of the cores that other programs used meanwhile

    def result(self, name: str, case: Case) -> Result | None:
        """Medians of all rounds; None when it did not run."""
        runs = self.loads[name].get(case)
        return Result(*map(statistics.median, zip(*runs, strict=True))) if runs else None

    def ratio(self, name: str, case: Case, other: str = FORWARDING) -> float | None:
        """How many times the packets of `other` does `name` carry? None when one of them did not run."""
        runs, yardstick = (self.loads.get(each, {}).get(case) for each in (name, other))
        if not runs or not yardstick:
            return None
        return statistics.median(one.rate / two.rate for one, two in zip(runs, yardstick, strict=True))

    def trip(self, name: str, case: Case) -> Trips | None:
        times = sorted(itertools.chain(*self.trips[name].get(case, [])))
        return Trips(statistics.median(times), times[len(times) * 99 // 100]) if times else None

    def added(self, name: str, case: Case) -> float | None:
        """Seconds that a round trip takes longer than by plain forwarding."""
        rounds, yardstick = (self.trips.get(each, {}).get(case) for each in (name, FORWARDING))
        if not rounds or not yardstick:
            return None
        median = statistics.median
        return median(median(one) - median(two) for one, two in zip(rounds, yardstick, strict=True))

    def cases(self, several: bool) -> list[Case]:
        """The cases of load with one pair, or with several."""
        return sorted(
            {case for runs in self.loads.values() for case in runs if (case.pairs > 1) == several}, key=_order
        )

    def ways(self) -> list[Case]:
        """The cases of round trips."""
        return sorted({case for runs in self.trips.values() for case in runs}, key=_order)


def _order(case: Case) -> tuple:
    return case.hairpin, case.pairs, case.trains, -case.size


class Goal(NamedTuple):
    """What the project promises."""

    text: str
    measured: str
    met: bool | None  # None: it could not be measured


def _at_least(text: str, value: float | None, least: float) -> Goal:
    if value is None:
        return Goal(f"{text} >= {least:.2f}", "not measured", None)
    return Goal(f"{text} >= {least:.2f}", f"{value:.2f}", value >= least)


def _below(text: str, seconds: float | None, most: float) -> Goal:
    text = f"{text} < {most * 1e6:.0f} us"
    return (
        Goal(text, "not measured", None) if seconds is None else Goal(text, f"{seconds * 1e6:.0f} us", seconds < most)
    )


def goals(figures: Figures) -> list[Goal]:
    """Judge."""
    large, small = SIZES
    crowd = Case(small, pairs=5000)
    return [
        _at_least(f"{KERNEL}: {Case(large)}: share of {FORWARDING}", figures.ratio(KERNEL, Case(large)), 0.9),
        _at_least(
            f"{KERNEL}: {crowd}: share of {FORWARDING}",
            figures.ratio(KERNEL, crowd),
            0.9,
        ),
        _at_least(
            f"{USERSPACE}: {Case(large, True)}: share of {FORWARDING}", figures.ratio(USERSPACE, Case(large, True)), 0.5
        ),
        *(
            _at_least(f"{USERSPACE}: {Case(size)}: times {COTURN}", figures.ratio(USERSPACE, Case(size), COTURN), 1.0)
            for size in SIZES
        ),
        *(
            _below(f"{name}: added round trip", figures.added(name, Case(large)), most)
            for name, most in ((USERSPACE, 75e-6), (KERNEL, 20e-6))
        ),
    ]
