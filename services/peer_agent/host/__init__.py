# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent needs of its host: sockets, addresses, names, the clock, the fallback's connection."""
