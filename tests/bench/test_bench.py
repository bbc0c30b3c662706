# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of the comparison: the claims about speed and memory hold on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from relays import Case, measure, report

_TRAINS = Case(1452, trains=True)


def test_claims(capsys) -> None:
    figures = measure(rounds=3, seconds=0.3, trips=300, others={}, devices=(100, 5000))
    with capsys.disabled():
        print("\n\n" + report(figures) + "\n")
    assert figures.ratio("peer-relay", "asyncio protocol", _TRAINS) >= 4
    if "coturn" in figures.load:
        assert figures.ratio("peer-relay", "coturn", _TRAINS) >= 1
    assert figures.service[100][0] < 40, "MiB with 100 devices"
    assert figures.service[5000][0] < 100, "MiB with 5,000 devices"
