# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.path_table import path_table
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.table import duration


def test_columns_are_aligned_and_gaps_are_dashes():
    lines = path_table(
        [
            {
                "from": "laptop",
                "to": "nas",
                "path": "relay",
                "via": "oslo",
                "endpoint": "192.0.2.1:40000",
                "rtt_ms": 41.23,
                "path_age_seconds": 130,
                "why_not": "symmetric_nat",
            },
            {"from": "nas", "to": "laptop", "path": "none", "endpoint": None, "rtt_ms": None},
        ]
    )
    assert lines == [
        "FROM    TO      PATH   VIA   ENDPOINT         ROUND-TRIP  FOR   WHY-NOT-BETTER",
        "laptop  nas     relay  oslo  192.0.2.1:40000  41.2ms      2min  symmetric_nat",
        "nas     laptop  none   -     -                -           -     -",
    ]


def test_no_paths():
    assert path_table([]) == ["FROM  TO  PATH  VIA  ENDPOINT  ROUND-TRIP  FOR  WHY-NOT-BETTER"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0s"), (119, "119s"), (120, "2min"), (7200, "2h"), (200_000, "2d")],
)
def test_ages_are_short(seconds, text):
    assert duration(seconds) == text
