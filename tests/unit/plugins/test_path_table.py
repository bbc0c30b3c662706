# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from ansible_collections.homelab.peer_relay.plugins.filter.path_table import path_table


def test_columns_are_aligned_and_gaps_are_dashes():
    lines = path_table(
        [
            {
                "from": "laptop",
                "to": "nas",
                "path": "relay",
                "endpoint": "192.0.2.1:40000",
                "rtt_ms": 41.23,
                "handshake_age_seconds": 12,
            },
            {"from": "nas", "to": "laptop", "path": "none", "endpoint": None, "rtt_ms": None},
        ]
    )
    assert lines == [
        "FROM    TO      PATH   VIA              ROUND TRIP  HANDSHAKE",
        "laptop  nas     relay  192.0.2.1:40000  41.2 ms     12 s ago",
        "nas     laptop  none   -                -           -",
    ]


def test_no_paths():
    assert path_table([]) == ["FROM  TO  PATH  VIA  ROUND TRIP  HANDSHAKE"]
