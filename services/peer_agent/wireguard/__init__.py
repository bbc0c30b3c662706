# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of WireGuard as it runs, in the kernel or as wireguard-go: what it says, and setting endpoints."""
