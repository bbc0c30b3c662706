# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the router's external address is one that the Internet can reach, and what to do if not."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from .address import parse_address, same_host

# Ranges for documentation count as public: no real router has such an address.
_RANGES = {
    "ds_lite": ["192.0.0.0/29"],  # RFC 6333
    "cgnat": ["100.64.0.0/10"],  # RFC 6598
    "double_nat": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"],  # RFC 1918, RFC 3927
    "local": ["fc00::/7", "fe80::/10"],  # RFC 4193, RFC 4291
    "unusable": ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8"],
}
_NETWORKS = [(kind, ipaddress.ip_network(text)) for kind, texts in _RANGES.items() for text in texts]

_HELP = (
    "What helps: run the relay on a cloud node instead, or ask the provider for a public IPv4 address or a modem in "
    "bridge mode, or open an IPv6 pinhole if all your devices have IPv6 wherever they are."
)
_EXPLANATIONS = {
    "public": "The router's external address {external} is public: the Internet can reach a port that is mapped there.",
    "public_v6": "The address {external} is public: the Internet can reach a port that the router's firewall opens.",
    "cgnat": (
        "The router's external address {external} belongs to the provider's own network (100.64.0.0/10, carrier-grade "
        "NAT): the provider shares one public address among its customers, so nobody outside can reach a port of this "
        f"router, whatever it maps. {_HELP}"
    ),
    "double_nat": (
        "The router's external address {external} is private: another router, or the provider, translates addresses a "
        "second time (double NAT), so nobody outside can reach a port of this router, whatever it maps. If the other "
        "router is yours, set it to bridge mode, or forward the port on it to {external} and name its public address "
        f"as the relay's endpoint. If it is not: {_HELP}"
    ),
    "ds_lite": (
        "The router's external address {external} is the end of a DS-Lite tunnel (192.0.0.0/29): the provider "
        f"translates its IPv4, so nobody outside can reach a port of this router, whatever it maps. {_HELP}"
    ),
    "differs": (
        "The router's external address is {external}, but a server outside sees this host as {seen}: something beyond "
        "the router translates addresses a second time, or the traffic leaves by another way, such as a VPN or a "
        "second line. Take a VPN off this host's traffic, or forward the port where {seen} is and name that as the "
        f"relay's endpoint. If neither can be done: {_HELP}"
    ),
    "no_address": (
        "The router {gateway} opens no port because it has no public address: its connection is down, or the provider "
        "gives it a private one (carrier-grade NAT, DS-Lite, or another router in front of it: double NAT). Nobody "
        f"outside can reach a port of this router then. {_HELP}"
    ),
    "local": (
        "The address {external} is one of the local network only: the provider delegates no IPv6 network, or the "
        "router does not hand it on. Turn on IPv6 (prefix delegation) in the router."
    ),
    "unusable": (
        "The router gives {external} as its external address, which no router can have: see to its connection to the "
        "provider."
    ),
}


class Verdict(NamedTuple):
    """`kind`: public, cgnat, double_nat, ds_lite, differs, no_address, or unknown."""

    kind: str
    explanation: str


def verdict(external: str, seen: str = "") -> Verdict:
    """Judge the external address that the router gives; `seen` is what a server outside takes for this host's."""
    try:
        address = parse_address(external)
    except ValueError:  # the router gives none
        return Verdict("unknown", "")
    kind = next((kind for kind, network in _NETWORKS if address in network), "public")
    if kind == "public" and seen and not same_host(seen, external):
        kind = "differs"
    version = "_v6" if kind == "public" and address.version == 6 else ""
    explanation = _EXPLANATIONS[kind + version].format(external=external, seen=seen)
    return Verdict("unknown" if kind in ("local", "unusable") else kind, explanation)


def no_address(gateway: str) -> Verdict:
    """Judge a router that tells no external address, and refuses mappings for it.

    Of a private address, miniupnpd, which most routers run, says nothing but that it has none.
    """
    return Verdict("no_address", _EXPLANATIONS["no_address"].format(gateway=gateway))
