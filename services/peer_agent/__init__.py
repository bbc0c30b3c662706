# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses the path to every other device: direct, over a relay, or over the fallback.

Imports run one way: endpoints <- wire <- core (the whole decision, without any I/O and without a clock) <- wireguard,
host <- relay_driver, path_driver (they do what the core decides) <- attached <- status <- service.
"""
