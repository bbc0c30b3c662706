# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine on which is measured, and how much of its cores is in use."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

BUSY = 0.1  # of the cores by other programs: from here on, figures say little
_LOOK = 0.3  # seconds


def idle() -> list[float]:
    """Seconds that each core has idled."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    tick = os.sysconf("SC_CLK_TCK")
    return [(int(ticks[3]) + int(ticks[4])) / tick for name, *ticks in lines if name[3:].isdecimal()]


def in_use() -> float:
    """The share of all cores that is in use while we do nothing."""
    before, start = sum(idle()), time.perf_counter()
    time.sleep(_LOOK)
    took = time.perf_counter() - start
    return min(1.0, max(0.0, 1 - (sum(idle()) - before) / took / len(idle())))


def describe(others: float) -> str:
    """Tell about the machine, `others` being the share of its cores that other programs used."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    text = (
        f"Linux {platform.release()}, {models[0] if models else platform.machine()}, {os.cpu_count()} cores,"
        f" {others:.0%} of them in use by other programs"
    )
    return text + (": TOO BUSY for figures to mean much" if others > BUSY else "")
