# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the keeper's package importable, and the one that the role installs beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "roles/port_forward/files")]
sys.path.append(str(ROOT / "plugins/module_utils"))

from keeper_world import World


@pytest.fixture
def world() -> World:
    """A router that grants everything, and a keeper of one mapping that has run for a second."""
    result = World()
    result.run(1)
    return result
