# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nonce of a mapping of PCP."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import MappingError
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp.nonce import of_mapping


@pytest.fixture
def machine_id(tmp_path):
    file = tmp_path / "machine-id"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    return file


def test_it_stays_the_same(machine_id):
    """A change of it would lock every host out of the mappings that it has."""
    assert of_mapping("udp", 40000, machine_id).hex() == "b6f67ee0dfef8a9cb0292d09"


def test_it_differs_by_mapping_and_by_host(machine_id):
    nonces = {of_mapping(protocol, port, machine_id) for protocol in ("udp", "tcp") for port in range(1, 100)}
    assert len(nonces) == 198
    assert {len(nonce) for nonce in nonces} == {12}
    machine_id.write_text("another")
    assert of_mapping("udp", 1, machine_id) not in nonces


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_host_without_an_id(tmp_path, content):
    file = tmp_path / "machine-id"
    if content is not None:
        file.write_text(content)
    with pytest.raises(MappingError, match=r"machine-id.*: run systemd-machine-id-setup"):
        of_mapping("udp", 40000, file)
