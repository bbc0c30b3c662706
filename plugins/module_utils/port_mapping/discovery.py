# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the router and a protocol that it speaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import routes
from .deadline import within
from .mapping import Client, MappingError, Unreachable
from .natpmp import client as natpmp_client
from .pcp import client as pcp_client
from .upnp import client as upnp_client

# From the one that says most about failures and restarts to the one that says least.
METHODS = ["pcp", "nat-pmp", "upnp"]
_PATIENCE = 40.0  # seconds for one of them, however many answer in the router's place and however slowly


class Attempt(NamedTuple):
    """One protocol: the client, or why there is none."""

    method: str
    client: Client | None
    problem: str


def survey(gateway: str, local_address: str, family: int, methods: list[str]) -> Iterator[Attempt]:
    """Try the protocols one after the other, as far as the caller goes on."""
    for method in methods:
        yield _try(method, gateway, local_address, family)


def find(method: str = "auto", gateway: str = "", family: int = 4) -> Client:
    """Return the first protocol that answers; without a gateway it is the one of the default route."""
    hop = routes.next_hop(family, gateway)
    gateway = hop.gateway
    attempts = []
    for attempt in survey(gateway, hop.address, family, METHODS if method == "auto" else [method]):
        if attempt.client:
            return attempt.client
        attempts.append(attempt)
    raise Unreachable(nobody(gateway, attempts))


def nobody(gateway: str, attempts: list[Attempt]) -> str:
    """Say that all attempts failed, why, and what to do."""
    problems = "; ".join(f"{attempt.method}: {attempt.problem}" for attempt in attempts)
    return (
        f"the router {gateway} opens no port for this host ({problems}): turn on UPnP or NAT-PMP/PCP in the router's "
        "settings, or choose another backend"
    )


def _try(method: str, gateway: str, local_address: str, family: int) -> Attempt:
    try:
        with within(_PATIENCE):
            return Attempt(method, _find(method, gateway, local_address, family), "")
    except MappingError as error:
        return Attempt(method, None, str(error))


def _find(method: str, gateway: str, local_address: str, family: int) -> Client:
    if method == "pcp":
        return pcp_client.find(gateway, local_address)
    if method == "nat-pmp":
        if family == 6:
            raise Unreachable("NAT-PMP knows IPv4 only")
        return natpmp_client.find(gateway, local_address)
    return upnp_client.find(gateway, local_address, family)
