# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what an interface's wg-quick file set up beside the interface: other daemons remove rules and flush tables."""
