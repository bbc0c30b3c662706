# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    """How to find the router in front of the host, and speak with it."""

    DOCUMENTATION = r"""
options:
  method:
    description: The protocol to speak with the router. V(auto) tries them in this order.
    type: str
    choices:
      - auto
      - pcp
      - nat-pmp
      - upnp
    default: auto
  gateway:
    description:
      - The router's address. Default is the one of this host's default route.
      - A link-local address needs the interface, as in C(fe80::1%eth0).
    type: str
    default: ""
notes:
  - Nothing but Python is needed on the host.
"""
