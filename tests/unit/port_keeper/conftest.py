# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world of the keeper's unit tests."""

from __future__ import annotations

import pytest
from keeper_world import World


@pytest.fixture
def world() -> World:
    """A router that grants everything, and a keeper of one mapping that has run for a second."""
    result = World()
    result.run(1)
    return result
