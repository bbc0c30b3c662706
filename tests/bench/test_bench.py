# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of the comparison: the claims about speed and memory hold on this machine.

What is asserted leaves room for a machine that does other things as well; the table says which goals are met.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import BUSY
from relays import Plan, measure, show
from results import ASYNCIO, COTURN, KERNEL, SIZES, USERSPACE, Case

_SHORT = Plan(rounds=5, seconds=0.15, trips=100, pairs=(5000,), hairpin=False)


def test_claims(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure(_SHORT)
    with capsys.disabled():
        print("\n")
        show(figures)
    assert figures.costs.memory[100] < 45, "MiB with 100 devices"
    assert figures.costs.memory[5000] < 100, "MiB with 5,000 devices"
    if figures.others > BUSY:
        pytest.skip("other programs are busy: speed is not judged")
    assert figures.ratio(USERSPACE, Case(SIZES[0], trains=True), ASYNCIO) >= 4
    for size in SIZES:
        if COTURN not in figures.absent:
            assert figures.ratio(USERSPACE, Case(size), COTURN) >= 1
        if KERNEL not in figures.absent:
            assert figures.ratio(KERNEL, Case(size, pairs=5000)) >= 0.7
            assert figures.ratio(KERNEL, Case(size), USERSPACE) >= 1
