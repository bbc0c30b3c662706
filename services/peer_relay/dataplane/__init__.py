# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams in and out: by sockets in userspace, or by a program in the kernel."""
