# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay's host with the kernel's table, attached to both its interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.kernel import V4, Talk, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.open()
        assert made.attach() == {}
        yield made
    finally:
        made.remove()


@pytest.fixture
def talk(world: World) -> Talk:
    made = Talk(world, V4)
    made.put()
    return made
