# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two agents send each other: connectivity checks outside the tunnel, signaling inside it."""
