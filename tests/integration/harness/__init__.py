# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces, routers, stock WireGuard devices, and traffic for the end-to-end tests and the benchmark."""
