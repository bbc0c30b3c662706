# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the devices reach the relay: what the user says, or else the router, or else the inventory."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import (
    WireGuardError,
    format_endpoint,
    parse_host,
)

DEFAULT_PORT = 40000


class EndpointError(ValueError):
    """A variable cannot be used; the message names the relay, the variable, the value and the fix."""


@dataclass(frozen=True)
class Endpoint:
    """The relay seen from outside, and from its own network (empty where that is no other place)."""

    host: str
    port: int
    inner_host: str
    inner_port: int  # 0 without inner_host
    origin: str  # "given", "router" or "inventory"

    @property
    def text(self) -> str:
        return format_endpoint(self.host, self.port)

    @property
    def inner_text(self) -> str:
        return format_endpoint(self.inner_host, self.inner_port) if self.inner_host else ""

    def as_dict(self) -> dict:
        return {**asdict(self), "text": self.text, "inner_text": self.inner_text}


def endpoint_of(relay) -> Endpoint:
    """Judge the variables of a relay host."""
    name = str(relay.get("inventory_hostname") or "relay")
    found = relay.get("port_forward_result") or {}
    given, from_router = relay.get("relay_endpoint"), found.get("external_address")
    if given:
        host, origin = _host(given, name, "relay_endpoint"), "given"
    elif from_router:
        host, origin = _host(from_router, name, "port_forward_result.external_address"), "router"
    else:
        host, origin = _host(relay.get("ansible_host") or name, name, "ansible_host"), "inventory"
    ports = {
        "relay_external_port": relay.get("relay_external_port"),
        "port_forward_result.external_port": found.get("external_port"),
        "relay_listen_port": relay.get("relay_listen_port", DEFAULT_PORT),
    }
    port = next(_port(value, name, variable) for variable, value in ports.items() if value not in (None, "", 0))
    inner_host, inner_port = "", 0
    if found.get("inner_address"):
        inner_host = _host(found["inner_address"], name, "port_forward_result.inner_address")
        inner_port = _port(found.get("inner_port"), name, "port_forward_result.inner_port")
    if (inner_host, inner_port) == (host, port):
        inner_host, inner_port = "", 0
    return Endpoint(host, port, inner_host, inner_port, origin)


def _host(value, relay: str, variable: str) -> str:
    try:
        return parse_host(str(value))
    except WireGuardError:
        raise EndpointError(
            f"{relay}: {variable} is {str(value)[:99]!r}, neither an address nor a name: write it without "
            "brackets, and give the port as relay_external_port"
        ) from None


def _port(value, relay: str, variable: str) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise EndpointError(f"{relay}: {variable} is {value!r}: give a UDP port from 1 to 65535")
    return port
