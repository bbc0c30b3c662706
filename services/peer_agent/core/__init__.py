# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which path the packets to each device take, and which relay: the whole decision, without I/O."""
