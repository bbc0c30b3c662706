# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps ports of this host open in the router in front of it: mappings run out, and routers forget them.

Imports run one way: lease <- keeper (the whole decision, no I/O) <- status, router <- service <- __main__.
"""
