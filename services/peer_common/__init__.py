# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the services share: the roles install it beside each of them, under this name.

It imports none of them; beyond the standard library, only websocket_pipe needs anything (websockets).
"""
