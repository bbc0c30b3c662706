# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the agent's package importable."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# A machine that is busy with something else is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "roles/peer/files")]

# The role installs this file of the relay's beside the agent.
sys.path.append(str(ROOT / "roles/relay/files"))
sys.modules["peer_agent.directory"] = importlib.import_module("peer_relay.directory")
