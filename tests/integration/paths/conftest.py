# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two devices with agents, and traffic between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.paths import Figure, Journey, Paths, Watched
from harness.topology import Lab


@pytest.fixture
def paths(lab: Lab) -> Iterator[Paths]:
    """Nothing runs yet."""
    made = Paths(lab)
    yield made
    made.close()


@pytest.fixture
def journey(paths: Paths, figure: Figure) -> Iterator[Journey]:
    """Both reach each other directly, and traffic flows."""
    paths.up()
    paths.wait("direct")
    with Watched(paths.ann, paths.bob) as watched:
        yield Journey(paths, watched, figure)
