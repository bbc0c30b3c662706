# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach whom, and where a datagram goes: the whole decision, without I/O."""
