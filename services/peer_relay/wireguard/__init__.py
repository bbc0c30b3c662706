# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard as its whitepaper has it: handshake, cookies, transport sessions of the relay itself. No I/O."""
