# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.address import same_host


def test_same_host():
    assert same_host("192.0.2.1", "192.0.2.1")
    assert same_host("2001:DB8:0::1", "2001:db8::1%eth0")
    assert not same_host("192.0.2.1", "192.0.2.10")
    assert not same_host("router", "router")
    assert not same_host("", "")
