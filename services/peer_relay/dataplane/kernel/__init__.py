# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel data plane: an eBPF program that forwards what the switchboard has decided before."""
