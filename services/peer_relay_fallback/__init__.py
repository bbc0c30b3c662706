# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets devices whose UDP is blocked reach the relay over TLS: one WebSocket message is one datagram.

To the relay each connection is one more source address on loopback.

Imports run one way: gate <- bridge <- __main__; the pipe is peer_common's, since the devices' agent has the other end.
"""
