# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses the path to every other device: direct, over a relay, or over the fallback.

Imports run one way: endpoints, path, probes, control <- actions <- candidates, talk, flow, watch, doubts, sessions,
choice, health, punching <- trials <- selector (one pair) and relays (all relays): the whole decision, without any I/O
and without a clock <- the service around it.
"""
