# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Internet gateway offers (its description), and how it is asked (SOAP)."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from . import markup
from .http import Url, url
from .mapping import Malformed
from .upnp_errors import Fault

_URN = "urn:schemas-upnp-org:service:"
MAPPINGS = (f"{_URN}WANIPConnection:2", f"{_URN}WANIPConnection:1", f"{_URN}WANPPPConnection:1")  # by preference
PINHOLES = (f"{_URN}WANIPv6FirewallControl:1",)
_MOST_SERVICES = 16  # with more uplinks than that it is no home


@dataclass(frozen=True)
class Service:
    """One thing that a gateway does."""

    kind: str  # one of the above
    control: Url


def services(description: bytes, location: Url, kinds: tuple[str, ...]) -> list[Service]:
    """Return the services of these kinds, in their order; a router with several uplinks has several of a kind."""
    root = markup.parse(description)
    # Where UPnP 1.0 has no URLBase, and UPnP 1.1 always: relative to the description.
    base = str(url(markup.text(root, "URLBase") or str(location), location.host, str(location)))
    found = [
        Service(kind, url(markup.text(element, "controlURL"), location.host, base))
        for kind in kinds
        for element in root.iter("service")
        if markup.text(element, "serviceType") == kind
    ]
    return found[:_MOST_SERVICES]


def request(service: Service, action: str, arguments: dict[str, object]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the call; arguments are in the order of the specification."""
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.kind}#{action}"'}
    return headers, body.encode()


def response(service: Service, action: str, status: int, body: bytes) -> dict[str, str]:
    """Return the results of the call; raise Fault when the router says no."""
    router = service.control.host
    if status not in (200, 500):  # 500 comes with a fault
        raise Malformed(f"the router {router} answers {action} with the HTTP status {status}")
    content = markup.parse(body).find("Body")
    if content is None:
        raise Malformed(f"the router {router} answers {action} without a SOAP body")
    error = content.find(".//UPnPError")
    if error is not None:
        raise Fault(router, action, markup.text(error, "errorCode"), markup.text(error, "errorDescription"))
    results = content.find(f"{action}Response")
    if results is None:
        raise Malformed(f"the router {router} answers {action} with neither results nor an error")
    return {element.tag: (element.text or "").strip() for element in results}
