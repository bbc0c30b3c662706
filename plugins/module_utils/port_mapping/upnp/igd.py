# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Internet gateway offers (its description), and how it is asked (SOAP)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ..address import parse_address
from ..mapping import Malformed
from ..words import printable
from . import markup
from .errors import Fault
from .http import Url, url
from .oddities import note

_URN = "urn:schemas-upnp-org:service:"
MAPPINGS = (f"{_URN}WANIPConnection:2", f"{_URN}WANIPConnection:1", f"{_URN}WANPPPConnection:1")  # by preference
PINHOLES = (f"{_URN}WANIPv6FirewallControl:1",)
_MAX_SERVICES = 16  # with more uplinks than that it is no home
_ERROR_CODE = re.compile(rb"<(?:\w+:)?errorCode>\s*([0-9]{3})\s*</")
_NO_ADDRESS = ("", "null", "none", "nil")  # what routers without an uplink say
_WITHOUT_RESULTS = ("AddPortMapping", "DeletePortMapping", "DeletePinhole")


@dataclass(frozen=True)
class Service:
    """One thing that a gateway does."""

    kind: str  # one of the above
    control: Url


def services(description: bytes, location: Url, kinds: tuple[str, ...]) -> list[Service]:
    """Return the services of these kinds, in their order; a router with several uplinks has several of a kind.

    One that is said to be on another host is left out; where there is no other one, Malformed.
    """
    root = markup.parse(description)
    # Where UPnP 1.0 has no URLBase, and UPnP 1.1 always: relative to the description.
    base = str(url(markup.text(root, "URLBase") or str(location), location.host, str(location)))
    found, problems = [], []
    for kind in kinds:
        for element in root.iter("service"):
            if markup.text(element, "serviceType") == kind:
                try:
                    found.append(Service(kind, url(markup.text(element, "controlURL"), location.host, base)))
                except Malformed as problem:
                    problems.append(problem)
    if problems and not found:
        raise problems[0]
    if problems:
        note("says that one of its services is where it is not")
    return found[:_MAX_SERVICES]


def model(description: bytes) -> str:
    """Return what the router calls itself, for people."""
    root = markup.parse(description)
    device = next(root.iter("device"), root)
    words = [printable(markup.text(device, name), 40) for name in ("manufacturer", "modelName", "modelNumber")]
    return printable(" ".join(dict.fromkeys(filter(None, words))), 80)


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
    regular = status in (200, 500)  # 500 comes with a fault
    try:
        content = markup.parse(body).find("Body")
    except Malformed:
        codes = set(_ERROR_CODE.findall(body))
        if len(codes) == 1:
            note("damages the text of its refusals")
            raise Fault(router, action, codes.pop().decode(), "") from None
        if regular:
            raise
        content = None
    fault = None if content is None else content.find("Fault")
    error = None if content is None else content.find(".//UPnPError")
    if fault is not None or error is not None:
        if not regular:
            note("refuses with another HTTP status than 500")
        if error is not None:
            raise Fault(router, action, markup.text(error, "errorCode"), markup.text(error, "errorDescription"))
        raise Fault(router, action, "", "" if fault is None else markup.text(fault, "faultstring"))
    if not regular:
        raise Malformed(f"the router {router} answers {action} with the HTTP status {status}")
    if content is None:
        raise Malformed(f"the router {router} answers {action} without a SOAP body")
    results = content.find(f"{action}Response")
    if results is None:
        results = _unnamed_results(content, action, status)
    if results is None:
        raise Malformed(f"the router {router} answers {action} with neither results nor an error")
    return {element.tag: (element.text or "").strip() for element in results}


def external_address(router: str, results: dict[str, str]) -> str:
    """Return the address in the results of GetExternalIPAddress; "" when the router has none."""
    said = results.get("NewExternalIPAddress", "")
    if said.strip("()").lower() in _NO_ADDRESS:
        if said:
            note(f"says {said} where it has no external address")
        return ""
    try:
        address = parse_address(said)
    except ValueError as error:
        raise Malformed(f"the router {router} names an external address that is none: {error}") from error
    return "" if address.is_unspecified else str(address)


def _unnamed_results(content: Element, action: str, status: int) -> Element | None:
    """Return what can only be the results: all that there is in the body, or the nothing that an action returns."""
    if status != 200 or len(content) > 1:
        return None
    results = content[0] if len(content) else content
    if not len(results) and action not in _WITHOUT_RESULTS:
        return None
    note("gives its answers no name, or a wrong one")
    return results
