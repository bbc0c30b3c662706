# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of several folders of tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flood-seconds", type=float, default=10, help="how long strangers flood the relay")
