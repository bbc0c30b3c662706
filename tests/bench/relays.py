# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the relay with plain forwarding, an asyncio protocol, coturn, and others. Run as root.

    python tests/bench/relays.py [--rounds N] [--seconds S] [--other NAME=COMMAND]...

Rounds are interleaved and medians shown: absolute figures belong to the machine, the ratios are the point.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder) for folder in ("tests/integration", "tests/bench", "roles/relay/files")
]

from contestants import Asyncio, Contestant, Coturn, Forwarding, Other, Ours, service_with
from harness.netns import sweep
from load import Hosts, Result, round_trips, throughput

_ROOT = Path(__file__).parents[2]
_SIZES = (1452, 64)
_WARM_UP = 0.1  # seconds


class Case(NamedTuple):
    """A size of datagram, and whether trains of them form."""

    size: int
    trains: bool

    def __str__(self) -> str:
        return f"{self.size} B, {'trains' if self.trains else 'singles'}"


class Figures(NamedTuple):
    """Medians by contestant and case; all round trips by contestant and size; service by number of devices."""

    load: dict[str, dict[Case, Result]]
    trips: dict[str, dict[int, list[float]]]
    service: dict[int, tuple[float, float]]

    def ratio(self, name: str, other: str, case: Case) -> float:
        """How many times the packets of `other` does `name` carry?"""
        return self.load[name][case].rate / self.load[other][case].rate


@contextlib.contextmanager
def _started(hosts: Hosts, others: dict[str, str]) -> Iterator[list[Contestant]]:
    with contextlib.ExitStack() as stack:
        started: list[Contestant] = []

        def add(contestant: Contestant) -> None:
            started.append(contestant)
            stack.callback(contestant.stop)

        add(Forwarding("plain forwarding", hosts))
        add(Ours("peer-relay", hosts))
        add(Asyncio("asyncio protocol", hosts))
        if Coturn.installed():
            add(Coturn("coturn", hosts))
        else:
            print("coturn is not installed and left out", file=sys.stderr)
        for name, command in others.items():
            add(Other(name, hosts, command))
        yield started


def measure(rounds: int, seconds: float, trips: int, others: dict[str, str], devices: tuple[int, ...]) -> Figures:
    """Run everything and return the figures."""
    sweep()
    runs: dict[str, dict[Case, list[Result]]] = defaultdict(lambda: defaultdict(list))
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        hosts = Hosts(Path(folder))
        try:
            service = {number: service_with(hosts, Path(folder), number) for number in devices}
            with _started(hosts, others) as contestants:
                for _ in range(rounds):
                    for trains in (True, False):
                        hosts.merging(trains)
                        for size in _SIZES:
                            for contestant in contestants:
                                throughput(contestant.route, size, _WARM_UP)
                                result = throughput(contestant.route, size, seconds)
                                runs[contestant.name][Case(size, trains)].append(result)
                    for size in _SIZES:
                        for contestant in contestants:
                            times[contestant.name][size] += round_trips(contestant.route, size, trips // rounds)
        finally:
            hosts.remove()
    load = {
        name: {case: Result(*map(statistics.median, zip(*results, strict=True))) for case, results in cases.items()}
        for name, cases in runs.items()
    }
    return Figures(load, {name: dict(sizes) for name, sizes in times.items()}, service)


def _line(cells: list[str], first: int = 20) -> str:
    return cells[0].ljust(first) + "".join(cell.rjust(18) for cell in cells[1:])


def report(figures: Figures) -> str:
    """The table."""
    names = list(figures.load)
    yardstick = names[0]
    cases = list(figures.load[yardstick])
    lines = ["packets a second, ratio to plain forwarding", _line(["", *map(str, cases)])]
    for name in names:
        cells = [f"{figures.load[name][c].rate / 1e3:,.0f} k  {figures.ratio(name, yardstick, c):.2f}" for c in cases]
        lines.append(_line([name, *cells]))
    lines += ["", "us of the relay's core per packet, share of the core in use", _line(["", *map(str, cases)])]
    for name in names:
        runs = figures.load[name]
        lines.append(_line([name, *(f"{runs[c].core * 1e6:.1f}  {runs[c].busy:.0%}" for c in cases)]))
    lines += ["", "lost under load", _line(["", *map(str, cases)])]
    lines += [_line([name, *(f"{figures.load[name][c].lost:.2%}" for c in cases)]) for name in names]
    lines += ["", "round trip on an idle relay: median and p99, added to plain forwarding's median (us)"]
    lines.append(_line(["", *(f"{size} B" for size in _SIZES)]))
    for name in names:
        cells = []
        for size in _SIZES:
            trips = sorted(figures.trips[name][size])
            base = statistics.median(figures.trips[yardstick][size])
            median = statistics.median(trips)
            cells.append(f"{median * 1e6:.0f}/{trips[len(trips) * 99 // 100] * 1e6:.0f} +{(median - base) * 1e6:.0f}")
        lines.append(_line([name, *cells]))
    lines += ["", "the service by registered devices: resident memory, time to ready"]
    lines += [
        _line([f"{number:,}", f"{mib:.1f} MiB", f"{took:.2f} s"]) for number, (mib, took) in figures.service.items()
    ]
    return "\n".join(lines)


def plot(figures: Figures, path: Path) -> bool:
    """Draw the ratios, where matplotlib is to be had."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(figures.load)
    cases = list(figures.load[names[0]])
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place + number * width for place in range(len(cases))]
        axes.bar(places, [figures.ratio(name, names[0], case) for case in cases], width, label=name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(cases))], [str(case) for case in cases])
    axes.set_ylabel("packets a second, plain forwarding = 1")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of load for each figure of a round")
    parser.add_argument("--trips", type=int, default=2000, help="round trips for each figure")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND", help=Other.__doc__)
    arguments = parser.parse_args()
    others = dict(other.split("=", 1) for other in arguments.other)
    figures = measure(arguments.rounds, arguments.seconds, arguments.trips, others, (100, 5000))
    print(report(figures))
    picture = _ROOT / "build" / "bench" / "relays.png"
    if plot(figures, picture):
        print(f"\npicture: {picture.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
