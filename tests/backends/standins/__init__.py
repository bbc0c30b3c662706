# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what the tests cannot have. They refuse what the real ones would, as far as their documents tell."""
