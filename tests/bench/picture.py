# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plot: what is carried, what it costs, how much later it arrives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import machine
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from results import FORWARDING, Case, Figures

_FILLED = 0.84  # of the room of a case, by its bars


def plot(figures: Figures, path: Path) -> None:
    """Draw the figures into a file."""
    names = list(figures.loads)
    others = [name for name in names if name != FORWARDING]
    one_pair = figures.cases(several=False)
    cases = [*one_pair, *figures.cases(several=True)]
    colours = dict(zip(names, pyplot.get_cmap("tab10").colors, strict=False))
    figure, axes = pyplot.subplot_mosaic(
        [["share", "share"], ["core", "trip"]], figsize=(13, 9), height_ratios=(1.2, 1), layout="constrained"
    )

    def core(name: str, case: Case) -> float | None:
        result = figures.result(name, case)
        return result and result.core * 1e6

    def added(name: str, case: Case) -> float | None:
        seconds = figures.added(name, case)
        return seconds and seconds * 1e6

    share = axes["share"]
    share.set_title(f"Packets a second without loss, {FORWARDING} = 1")
    _bars(share, names, cases, figures.ratio, ".2f", colours)
    share.axhline(1, color="grey", linewidth=0.6)
    axes["core"].set_title("us of the relay's core for each packet")
    axes["core"].set_yscale("log")
    _bars(axes["core"], names, [case for case in one_pair if not case.hairpin], core, ".1f", colours)
    axes["trip"].set_title(f"Round trip on an idle relay: us added to {FORWARDING}")
    _bars(axes["trip"], others, figures.ways(), added, ".0f", colours)
    figure.legend(*share.get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    figure.supxlabel(machine.describe(figures.others), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _bars(
    axes: Axes,
    names: list[str],
    cases: list[Case],
    value: Callable[[str, Case], float | None],
    number: str,
    colours: dict[str, tuple[float, ...]],
) -> None:
    """Draw a group of bars for each case; where there is no value there is no bar."""
    width = _FILLED / len(names)
    for place, name in enumerate(names):
        found = [(column, value(name, case)) for column, case in enumerate(cases)]
        known = [(column, height) for column, height in found if height is not None]
        bars = axes.bar(
            [column - _FILLED / 2 + (place + 0.5) * width for column, _ in known],
            [height for _, height in known],
            width,
            label=name,
            color=colours[name],
        )
        axes.bar_label(bars, [f"{height:{number}}" for _, height in known], fontsize=6, rotation=90, padding=2)
    axes.set_xticks(range(len(cases)), [str(case).replace(", ", "\n") for case in cases], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01, y=0.12)
