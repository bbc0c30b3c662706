# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fuzzed: for each parser a function of bytes, what it may raise, and inputs to begin with."""

from __future__ import annotations

import runpy
import sys

from targets.target import ROOT, Target

sys.path.insert(0, str(ROOT / "services"))
sys.path[:0] = [str(ROOT / f"tests/unit/{place}") for place in ("relay", "fallback", "peer_agent")]
sys.path.append(str(ROOT / "plugins/module_utils"))  # the packages that services share with modules
runpy.run_path(str(ROOT / "tests/unit/conftest.py"))  # makes the collection importable

from targets import (
    agent,
    agent_service,
    disk,
    fallback,
    hosts,
    keeper,
    keeper_files,
    network,
    relay_files,
    relay_service,
    routers,
    upgrade,
)

TARGETS: dict[str, Target] = {
    name: target
    for module in (
        network,
        disk,
        fallback,
        upgrade,
        keeper_files,
        hosts,
        routers,
        keeper,
        agent,
        agent_service,
        relay_files,
        relay_service,
    )
    for name, target in module.TARGETS.items()
}
