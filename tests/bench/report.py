# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table."""

from __future__ import annotations

from collections.abc import Callable

import machine
from costs import Costs
from results import FORWARDING, Case, Figures, Goal

_MARKS = {True: "met", False: "MISSED", None: "-"}


def _grid(title: str, rows: list[str], columns: list[Case], cell: Callable[[str, Case], str | None]) -> list[str]:
    """Rows of which at least one cell is known; columns are wide enough for what is in them."""
    cells = [[row, *(cell(row, column) or "" for column in columns)] for row in rows]
    cells = [line for line in cells if any(line[1:])]
    if not cells:
        return []
    head = ["", *map(str, columns)]
    widths = [max(len(line[number]) for line in [head, *cells]) for number in range(len(head))]
    lines = ["", title]
    for line in [head, *cells]:
        first, *others = (
            text.ljust(width) if not n else text.rjust(width)
            for n, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("   ".join([first, *others]).rstrip())
    return lines


def table(figures: Figures, goals: list[Goal]) -> str:
    """Everything as text."""
    names = list(figures.loads)
    lines = [machine.describe(figures.others)]
    lines += [f"{name} is left out: {reason}" for name, reason in figures.absent.items()]

    def load(name: str, case: Case) -> str | None:
        result = figures.result(name, case)
        lost = f" ({result.lost:.1%} lost)" if result and result.lost > 0.0005 else ""
        return result and f"{result.rate / 1e3:,.0f}k  {figures.ratio(name, case):.2f}{lost}"

    def core(name: str, case: Case) -> str | None:
        result = figures.result(name, case)
        return result and f"{result.core * 1e6:.2f}  {result.busy:4.0%}"

    def trips(name: str, case: Case) -> str | None:
        of_one = figures.trip(name, case)
        return of_one and f"{of_one.median * 1e6:.0f} / {of_one.p99 * 1e6:.0f}  {figures.added(name, case) * 1e6:+.0f}"

    for several in (False, True):
        part = figures.cases(several)
        lines += _grid(f"Packets a second without loss, and the share of {FORWARDING}", names, part, load)
        lines += _grid("Relay's core: us per packet, and the share of it in use", names, part, core)
    title = f"Round trip, idle: median / p99 in us, and what is added to {FORWARDING}"
    lines += _grid(title, names, figures.ways(), trips)
    lines += ["", "The service", *_service(figures.costs), "", "Goals"]
    width = max(len(goal.text) for goal in goals)
    lines += [f"  {goal.text.ljust(width)}  {goal.measured:>12}  {_MARKS[goal.met]}" for goal in goals]
    return "\n".join(lines).strip("\n")


def _service(costs: Costs) -> list[str]:
    fewest, most = min(costs.memory), max(costs.memory)
    each = (costs.memory[most] - costs.memory[fewest]) * 1024 / max(most - fewest, 1)
    return [
        *(
            f"  {count:,} devices, known from before: {mib:.1f} MiB, ready after {costs.start[count]:.2f} s"
            for count, mib in costs.memory.items()
        ),
        f"  memory for one device more: {each:.1f} KiB",
        f"  handshakes: {costs.handshakes:,.0f} a second in a burst,"
        f" {costs.handshake * 1e6:.0f} us of processor for one",
        *(
            f"  {plane} plane forwards {first.of_device * 1e3:.1f} ms after a device's first packet to the relay,"
            f" {first.of_pair * 1e3:.1f} ms after the first one of a pair"
            for plane, first in costs.first.items()
        ),
    ]
