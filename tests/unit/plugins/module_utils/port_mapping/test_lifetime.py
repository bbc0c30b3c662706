# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a router restarted, by two signs of life (RFC 6887, section 8.5, and RFC 6886, section 3.6)."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.lifetime import restarted
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Life
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("epoch", "at", "later_epoch", "now", "expected"),
    [
        (100, 0, 100, 0, False),
        (100, 0, 99, 0, False),  # answers overtook each other
        (100, 0, 98, 0, True),
        (100, 0, 0, 3, True),
        (100, 0, 160, 60, False),
        (100, 0, 155, 60, False),  # a slow clock: 55 + 2 >= 60 - 60 / 16
        (100, 0, 154, 60, True),
        (100, 0, 166, 60, False),  # a fast one
        (100, 0, 168, 60, True),
        (0, 0, 3600, 3600, False),
        (5, 0, 10, 3600, True),  # a restart that has caught up
        (100, 50, 102, 50.5, False),
        (0, 0, 2**32 - 1, 2**32 - 1, False),
    ],
)
def test_epoch(epoch, at, later_epoch, now, expected):
    assert restarted(Life(epoch=epoch), at, Life(epoch=later_epoch), now) is expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Life(boot_id=1), Life(boot_id=2), True),
        (Life(boot_id=2), Life(boot_id=1), True),
        (Life(boot_id=2), Life(boot_id=2), False),
        (Life(boot_id=2), Life(), False),
        (Life(), Life(boot_id=2), False),
        (Life(epoch=7), Life(), False),
        (Life(), Life(epoch=7), False),
        (Life(epoch=7, boot_id=1), Life(epoch=7, boot_id=2), True),  # the epoch is the system's, not the daemon's
        (Life("192.0.2.1", 7), Life("192.0.2.2", 7), False),
    ],
)
def test_boot_id(before, after, expected):
    assert restarted(before, 0, after, 0) is expected


@given(st.integers(0, 2**31), st.floats(0, 1e6), st.floats(0.96, 1.04))
def test_a_clock_that_is_a_little_off_is_no_restart(epoch, elapsed, drift):
    assert not restarted(Life(epoch=epoch), 0, Life(epoch=epoch + int(elapsed * drift)), elapsed)


@given(st.integers(0, 2**31), st.floats(0, 1e6), st.integers(0, 2**31))
def test_nothing_that_nat_pmp_calls_a_loss_is_missed(epoch, elapsed, later):
    if later < epoch + elapsed * 7 / 8 - 2:
        assert restarted(Life(epoch=epoch), 0, Life(epoch=later), elapsed)
