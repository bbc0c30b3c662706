# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The error codes of Internet gateways, in plain words and with the fix."""

from __future__ import annotations

from ..mapping import Refused
from ..words import printable

INVALID_ARGUMENTS = 402
ACTION_FAILED = 501
FIREWALL_OFF = 702
PINHOLES_OFF = 703
NO_SUCH_PINHOLE = 704
NO_SUCH_INDEX = 713
NO_SUCH_MAPPING = 714
CONFLICT = 718
PERMANENT_ONLY = 725

_NO_FIX = "restart the router, and see whether an update of its firmware is there"
_EQUAL_PORTS = "set external_port to the same number as internal_port"
_OTHER_PORT = "choose another external_port"

_ERRORS = {
    401: ("it does not know this action", "use another method (PCP or NAT-PMP) or forward the port by hand"),
    INVALID_ARGUMENTS: ("it does not take these values", "try another external_port and another lease"),
    ACTION_FAILED: ("it could not do it at the moment", _NO_FIX),
    602: (
        "it does not have this action",
        "use another method (PCP or NAT-PMP) or forward the port by hand",
    ),
    606: (
        "its rules do not allow it, to this host or for this port",
        "allow it in the router's UPnP settings (FRITZ!Box: 'permit independent port sharing' for this device;"
        " miniupnpd: an 'allow' rule), or choose ports of 1024 or higher",
    ),
    701: ("it has no room for one more pinhole", "delete pinholes that are not needed in the router"),
    FIREWALL_OFF: ("its IPv6 firewall is off", "nothing to open: the port is reachable over IPv6 as it is"),
    PINHOLES_OFF: (
        "it lets nobody open pinholes",
        "allow UPnP for IPv6 in the router's settings, or open the port there by hand",
    ),
    NO_SUCH_PINHOLE: ("it knows no such pinhole", "none needed: the pinhole ended by itself"),
    705: ("it has no pinholes for this protocol", "open the port in the router by hand"),
    706: ("it wants the internal port named", "set internal_port"),
    707: ("it wants the protocol named", "set protocol to udp or tcp"),
    708: ("it wants the internal address named", "give this host a global IPv6 address"),
    709: ("no packet came through the pinhole yet", "none needed"),
    NO_SUCH_INDEX: ("its list of mappings ends before", "none needed"),
    NO_SUCH_MAPPING: ("it knows no such mapping", "none needed: the mapping ended by itself"),
    715: ("it wants the remote host named", "forward the port in the router by hand"),
    716: ("it wants the external port named", "set external_port"),
    CONFLICT: (
        "the external port is taken, by another host or by the router itself, or the router maps ports only for the"
        " host that asks (secure mode)",
        f"{_OTHER_PORT}, and ask from the host that the mapping is for",
    ),
    724: ("it maps a port only to the same port", _EQUAL_PORTS),
    PERMANENT_ONLY: ("it has only mappings without an end", "set lease to 0"),
    726: ("it maps ports for everybody only", "none needed: no remote host is asked for"),
    727: ("it maps all external ports or none", "forward the port in the router by hand"),
    728: ("it has no free port left", "delete mappings that are not needed in the router"),
    729: ("the external port is taken by another mechanism of the router (its own forwarding rules)", _OTHER_PORT),
    732: ("it wants the internal port named", "set internal_port"),
    733: ("it finds the values inconsistent", _EQUAL_PORTS),
}


class Fault(Refused):
    """The router said no, by a code."""

    def __init__(self, router: str, action: str, code: str, words: str):
        self.code = int(code) if code.isascii() and code.isdigit() and len(code) < 6 else 0
        meaning, fix = _ERRORS.get(self.code, ("it does not say more", _NO_FIX))
        said = f"{printable(code, 10)} {printable(words)}".strip()
        super().__init__(f"the router {router} refuses {action} ({said}): {meaning}; {fix}")
