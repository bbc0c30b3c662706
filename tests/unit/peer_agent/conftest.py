# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as its unit tests run it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["PEER_AGENT_STRICT"] = "1"  # a fault is one, also where the service would go on


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """The service, with a clock that the test turns."""
    from agent_run import Run

    made = Run(tmp_path, monkeypatch)
    yield made
    made.close()
