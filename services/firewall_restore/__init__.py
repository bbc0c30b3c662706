# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the relay's ports or forwards back whenever a ruleset of nftables is loaded, which flushes the one before."""
