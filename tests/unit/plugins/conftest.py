# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router of the tests of port mapping."""

import pytest
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.mapping_router import Router


@pytest.fixture
def router(monkeypatch, tmp_path):
    """Speaks PCP and NAT-PMP, and is the default gateway."""
    router = Router()
    router.join(monkeypatch, tmp_path)
    return router
