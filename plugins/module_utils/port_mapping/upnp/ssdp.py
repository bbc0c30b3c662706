# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of SSDP: a search for Internet gateways, and the answer to it."""

from __future__ import annotations

from dataclasses import dataclass

from ..mapping import Malformed

PORT = 1900
GROUPS = {4: "239.255.255.250", 6: "ff02::c"}
_GATEWAY = "urn:schemas-upnp-org:device:InternetGatewayDevice:"
_SERVICE = "urn:schemas-upnp-org:service:"
# A gateway of version 2 has to answer a search for version 1; not every one does. Others hear only searches for their
# services, or for anything that there is.
ROOT = "upnp:rootdevice"
_TARGETS = (
    f"{_GATEWAY}1",
    f"{_GATEWAY}2",
    f"{_SERVICE}WANIPConnection:1",
    f"{_SERVICE}WANIPConnection:2",
    f"{_SERVICE}WANPPPConnection:1",
    f"{_SERVICE}WANIPv6FirewallControl:1",
    ROOT,
)


@dataclass(frozen=True)
class Answer:
    """An Internet gateway answered."""

    target: str  # what it says it is: a URN with its version, or ROOT, which any device is
    location: str  # the URL of its description, as it says
    boot_id: int | None  # numbers its starts; None with UPnP 1.0


def searches(family: int) -> list[bytes]:
    """Return the datagrams to ask with, of one group or of one router."""
    host = f"[{GROUPS[6]}]" if family == 6 else GROUPS[4]
    # MX, the most seconds to delay an answer, is for groups only, but routers ignore a search without it.
    form = 'M-SEARCH * HTTP/1.1\r\nHOST: {}:{}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: {}\r\n\r\n'
    return [form.format(host, PORT, target).encode() for target in _TARGETS]


def parse(datagram: bytes) -> Answer:
    """Read an answer to a search; everything else is Malformed."""
    # A line ends with both, but some routers send the feed alone.
    status, *lines = datagram.decode("latin-1").replace("\r\n", "\n").split("\n")
    if status.split()[:2] not in (["HTTP/1.1", "200"], ["HTTP/1.0", "200"]):
        raise Malformed(f"not an answer to a search: {status[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    if not headers.get("st", "").startswith(_GATEWAY) and headers.get("st") not in _TARGETS:
        raise Malformed(f"the answer of something else than an Internet gateway: {headers.get('st', '')[:80]!r}")
    if "location" not in headers:
        raise Malformed("an answer without LOCATION")
    boot_id = headers.get("bootid.upnp.org", "")
    # UPnP Device Architecture 1.1, 1.2.2: a non-negative integer of 31 bits.
    known = boot_id.isascii() and boot_id.isdigit() and len(boot_id) <= 10
    return Answer(headers["st"], headers["location"], int(boot_id) if known else None)
