# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes ansible_collections.homelab.peer_relay the checkout, whatever folder that is in, and sets hypothesis up."""

import sys
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, settings

# A machine that is busy with something else is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[2]


def map_collection() -> None:
    name = "ansible_collections.homelab.peer_relay"
    if ROOT.parts[-3:] == tuple(name.split(".")):
        return  # ansible-test runs inside a real collection tree and maps it itself
    for package in ("ansible_collections", "ansible_collections.homelab", name):
        module = sys.modules.setdefault(package, ModuleType(package))
        module.__path__ = [str(ROOT)] if package == name else []


map_collection()
