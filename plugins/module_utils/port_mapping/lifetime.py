# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a router lost its mappings between two signs of life."""

from __future__ import annotations

from .mapping import Life


def restarted(before: Life, at: float, after: Life, now: float) -> bool:
    """Judge two signs of life, of the times `at` and `now` in seconds, of a clock that goes on while the host sleeps.

    An epoch may go back by a second, since answers can overtake each other, and a clock may be off by a sixteenth
    (RFC 6887, section 8.5). The rule of NAT-PMP (RFC 6886, section 3.6) is milder: it never sees a loss that this one
    does not, and to see one too many costs no more than a renewal.
    """
    if before.boot_id is not None and after.boot_id is not None and before.boot_id != after.boot_id:
        return True
    if before.epoch is None or after.epoch is None:
        return False
    server, client = after.epoch - before.epoch, now - at
    if server < -1:
        return True
    return client + 2 < server - server / 16 or server + 2 < client - client / 16
