# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the agent's package importable."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "roles/peer/files")]

os.environ["PEER_AGENT_STRICT"] = "1"  # a fault is one, also where the service would go on

# The role installs this file of the relay's beside the agent.
sys.path.append(str(ROOT / "roles/relay/files"))
sys.modules["peer_agent.directory"] = importlib.import_module("peer_relay.directory")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """The service, with a clock that the test turns."""
    from agent_shell import Run

    made = Run(tmp_path, monkeypatch)
    yield made
    made.close()
