# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that every module has which forwards ports on a router."""

from __future__ import annotations

OPTIONS = {
    "forwards": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "protocol": {"type": "str", "choices": ["udp", "tcp"], "default": "udp"},
            "port": {"type": "int", "required": True},
            "external_port": {"type": "int"},
            "families": {"type": "list", "elements": "str", "choices": ["ipv4", "ipv6"], "default": ["ipv4"]},
        },
    },
    "address": {"type": "str", "default": ""},
    "address6": {"type": "str", "default": ""},
    "hairpin": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
