# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the relay with plain forwarding, an asyncio protocol, coturn, and others. Run as root.

    python tests/bench/relays.py [--rounds N] [--seconds S] [--other NAME=COMMAND]...

Contestants take turns and medians are shown: absolute figures belong to the machine, the ratios are the point.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "build" / "bench" / "relays.png"
sys.path[:0] = [str(ROOT / folder) for folder in ("tests/integration", "tests/bench", "services")]

import costs
import machine
import report
import results
from contestants import Asyncio, Contestant, Coturn, Forwarding, NotHere, Other, Ours, OursInTheKernel
from harness.netns import sweep
from hosts import LOAD_CORE
from load import Result
from picture import plot
from results import SIZES, Case, Figures

_KNOWN = {
    results.FORWARDING: Forwarding,
    results.KERNEL: OursInTheKernel,
    results.USERSPACE: Ours,
    results.ASYNCIO: Asyncio,
    results.COTURN: Coturn,
}


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int = 9
    seconds: float = 0.3  # of load for each figure of a round
    trips: int = 300  # round trips for each figure of a round
    pairs: tuple[int, ...] = (100, 5000)  # besides one
    hairpin: bool = True
    windows: tuple[int, ...] = (64, 256)  # datagrams under way: the best of these that loses nothing is taken
    devices: tuple[int, ...] = (100, 5000)  # registered, for what the service itself costs

    def cases(self, pairs: int) -> list[Case]:
        """The cases of load for a number of pairs."""
        if pairs > 1:
            return [Case(size, pairs=pairs) for size in SIZES]
        hairpins = (False, True) if self.hairpin else (False,)
        return [Case(size, trains, 1, hairpin) for hairpin in hairpins for trains in (False, True) for size in SIZES]


@contextlib.contextmanager
def _started(plan: Plan, logs: Path, others: Mapping[str, str], absent: dict[str, str]) -> Iterator[list[Contestant]]:
    with contextlib.ExitStack() as stack:
        started: list[Contestant] = []
        for (name, kind), pairs in itertools.product(_KNOWN.items(), (1, *plan.pairs)):
            if name not in absent and (kind.several or pairs == 1):
                try:
                    started.append(stack.enter_context(contextlib.closing(kind(name, logs, pairs))))
                except NotHere as reason:
                    absent[name] = str(reason)
        for name, command in others.items():
            started.append(stack.enter_context(contextlib.closing(Other(name, logs, command))))
        yield started


def measure(plan: Plan, others: Mapping[str, str] = MappingProxyType({})) -> Figures:
    """Run everything and return the figures."""
    sweep()
    os.sched_setaffinity(0, {LOAD_CORE})
    loads: dict[str, dict[Case, list[Result]]] = defaultdict(lambda: defaultdict(list))
    times: dict[str, dict[Case, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    others_use: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        own = costs.measure(logs, plan.devices)
        with _started(plan, logs, others, absent) as contestants:
            for _ in range(plan.rounds):
                others_use.append(machine.in_use())
                for contestant in contestants:
                    contestant.renew()
                for pairs in (1, *plan.pairs):
                    part = [contestant for contestant in contestants if contestant.pairs == pairs]
                    for case in plan.cases(pairs):
                        for contestant in part:
                            contestant.hosts.hairpin(case.hairpin)
                            contestant.hosts.merging(case.trains)
                        for contestant in part:
                            load = contestant.load(case.size, case.trains, case.hairpin)
                            result = load.run(plan.seconds, plan.windows)
                            loads[contestant.name][case].append(result)
                        if case.pairs == 1 and not case.trains:
                            for contestant in part:
                                trips = contestant.round_trips(case.size, plan.trips)
                                times[contestant.name][case].append(trips)
    return Figures(dict(loads), dict(times), own, absent, statistics.median(others_use))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = Plan()
    parser.add_argument("--rounds", type=int, default=plan.rounds)
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="of load for each figure of a round")
    parser.add_argument("--pairs", type=int, nargs="*", default=plan.pairs, help="besides one; the goals want 5000")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND", help=Other.__doc__)
    arguments = parser.parse_args()
    plan = plan._replace(rounds=arguments.rounds, seconds=arguments.seconds, pairs=tuple(arguments.pairs))
    figures = measure(plan, dict(other.split("=", 1) for other in arguments.other))
    show(figures)


def show(figures: Figures) -> bool:
    """Print the table, draw the plot; tell whether no goal is missed."""
    goals = results.goals(figures)
    print(report.table(figures, goals))
    plot(figures, PICTURE)
    print(f"\nPlot: {PICTURE.relative_to(ROOT)}")
    return all(goal.met is not False for goal in goals)


if __name__ == "__main__":
    main()
