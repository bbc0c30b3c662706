# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of leases lies in a directory of the keeper's: whoever took the keeper over can write it."""

import json

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.leases import LeaseFile, RecordedLease
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Life, Wanted

WANTED = Wanted(40000, 40000)
LEASE = RecordedLease("pcp", "192.0.2.1", "192.0.2.7", "203.0.113.1", 40000, 3600, 1.8e9, Life("203.0.113.1", 7, None))


@pytest.fixture
def path(tmp_path):
    LeaseFile(str(tmp_path / "leases.json")).put(WANTED, LEASE)
    return tmp_path / "leases.json"


def test_there_and_back(path):
    assert LeaseFile(str(path)).get(WANTED) == LEASE


@pytest.mark.parametrize(
    "change",
    [
        {"external_address": "2001:db8::1%x\n[Interface]\nPreUp = id"},
        {"life": {"external_address": "2001:db8::1%x", "epoch": 1, "boot_id": None}},
        {"life": {"external_address": "", "epoch": "1", "boot_id": None}},
        {"life": {"external_address": "", "epoch": -1, "boot_id": None}},
        {"external_port": "40000\n"},
        {"seconds": 1e300},
        {"at": "now"},
        {"at": float("nan")},
        {"more": 1},
    ],
)
def test_a_file_that_makes_no_sense_is_empty(path, change):
    ((key, entry),) = json.loads(path.read_text()).items()
    path.write_text(json.dumps({key: entry | change}))
    assert LeaseFile(str(path)).get(WANTED) is None
