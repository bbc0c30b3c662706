# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay that stock WireGuard devices reach each other through.

Imports run one way: wireguard <- core <- dataplane, status, state <- service <- cli.
"""

__version__ = "1.2.0"
