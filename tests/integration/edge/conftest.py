# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home behind a router that maps ports, and flows from the Internet to one of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.knocks import Knocks
from harness.miniupnpd import INSIDE, WAN_ADDRESS, Home
from harness.topology import Lab


@pytest.fixture
def home(lab: Lab) -> Iterator[Home]:
    """The router's daemon is yet to start."""
    made = Home(lab)
    yield made
    made.stop()


@pytest.fixture
def knocks(home: Home) -> Iterator[Knocks]:
    """New flows to the router's port 40000, for port 40100 inside."""
    with Knocks(home.outside, (WAN_ADDRESS, 40000), home.inside, (INSIDE, 40100)) as all_of:
        yield all_of
