# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory's picture of the overlay: which devices there are, their addresses, and who is whose peer."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.homelab.peer_relay.plugins.module_utils.address import parse_address as parse_literal
from ansible_collections.homelab.peer_relay.plugins.module_utils.address import parse_network
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import NO_KEY, is_key

from .expiry import parse_expiry
from .hosts import fact_fault, is_absent_device
from .names import OverlayError, parse_name

DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
KEEPALIVE = 25  # seconds: shorter than the UDP timeout of common NAT routers (30 s)


@dataclass(frozen=True)
class Device:
    """A host of the group peers."""

    name: str
    public_key: str  # empty while it has not been made
    addresses: tuple
    groups: tuple
    rate_limit_mbit: float
    subnets: tuple
    exit_node: bool
    uses_exit_node: str
    managed: bool
    expires: str  # ISO 8601, in UTC; empty for one that stays
    name_servers: tuple = ()

    def shares_group(self, other: Device) -> bool:
        return not set(self.groups).isdisjoint(other.groups)


def variables_of(host: str, hostvars):
    """The host's variables; of this collection's, the host itself may have set none."""
    fault = fact_fault(host, hostvars[host])
    if fault:
        raise OverlayError(fault)
    return hostvars[host]


def parse_networks(networks) -> list:
    if isinstance(networks, str) or not networks:
        raise OverlayError(
            f"overlay_networks is {networks!r}: give a list with at least one network, such as 10.77.0.0/16"
        )
    parsed = [_network(str(network), "overlay_networks") for network in networks]
    for i, network in enumerate(parsed):
        for other in parsed[:i]:
            if network.version == other.version and network.overlaps(other):
                raise OverlayError(f"overlay_networks: {other} and {network} overlap: remove one of them")
        if network.num_addresses < 8:
            raise OverlayError(f"overlay_networks: {network} has no room for devices: use a larger network")
    return parsed


def default_addresses(networks, place: int = 0) -> list[str]:
    """A relay's own addresses: the first host of each network, or the one after for the next relay of the inventory."""
    addresses = []
    for network in parse_networks(networks):
        address = network.network_address + place + 1
        if address not in network or (network.version == 4 and address == network.broadcast_address):
            raise OverlayError(f"{network} has no room for {place + 1} relays: use a larger network")
        addresses.append(str(address))
    return addresses


def hashed_address(name: str, network, reserved):
    """The address that a name has in a network, whatever else is in the inventory."""
    for attempt in range(1000):
        digest = hashlib.sha256(f"{name}\0{attempt}".encode()).digest()
        if network.version == 4:
            # Not the first (network) nor the last (broadcast) address.
            offset = 1 + int.from_bytes(digest, "big") % (network.num_addresses - 2)
        else:
            host_bits = min(64, network.max_prefixlen - network.prefixlen)
            offset = int.from_bytes(digest[:8], "big") >> (64 - host_bits)
        address = network.network_address + offset
        if offset and address not in reserved:
            return address
    raise OverlayError(f"{name}: no free address in {network}: use a larger network")


def collect_devices(hosts, hostvars, networks, relay_addresses=None, registered=None) -> list[Device]:
    """Every device of the group that is to be present, sorted by name.

    registered maps names to the keys of devices that give none themselves in this run.
    """
    networks = parse_networks(networks)
    relay_addresses = default_addresses(networks) if relay_addresses is None else relay_addresses
    reserved = {parse_address(str(address), "relay_addresses") for address in relay_addresses}
    registered = registered or {}
    devices = [
        _device(str(host), variables_of(host, hostvars), networks, reserved, registered)
        for host in sorted(hosts, key=str)
        if not is_absent_device(hostvars[host], str(host))
    ]
    _refuse_shared_addresses(devices, hostvars)
    _refuse_shared_keys(devices)
    _refuse_name_servers_elsewhere(devices, networks)
    return devices


def interface_of(devices: list[Device], name: str, networks, relays: list[dict]) -> dict:
    """What a device's WireGuard interface is to have: addresses with prefix length, and the list of peers.

    The other devices are reached by the first relay that is present and has a key.
    """
    relays = [relay for relay in relays if relay["present"] and relay["public_key"]]
    if not relays:
        raise OverlayError(f"{name}: no relay has a public key: set one up, with homelab.peer_relay.site")
    own = next((device for device in devices if device.name == name), None)
    if own is None:
        raise OverlayError(f"{name}: not a present host of the group peers: add it, or set its peer_state to present")
    networks = parse_networks(networks)
    exit_node = _exit_node(own, devices)
    peers = [_peer(relay, relay, map(host_route, relay["addresses"]), KEEPALIVE) for relay in relays]
    owners: dict = {}
    for device in devices:
        if device is own or not device.public_key or not own.shares_group(device):
            continue
        for subnet in device.subnets:
            if subnet in owners:
                raise OverlayError(
                    f"{name} reaches the subnet {subnet} through both {owners[subnet]} and {device.name}: "
                    "keep it in the peer_subnets of one of them"
                )
            owners[subnet] = device.name
        exits = [DEFAULT_ROUTES[network.version] for network in networks] if device is exit_node else []
        reached = {"name": device.name, "public_key": device.public_key}
        peers.append(_peer(reached, relays[0], [*map(host_route, device.addresses), *device.subnets, *exits], 0))
    return {"addresses": [_with_prefix(address, networks) for address in own.addresses], "peers": peers}


def _peer(who: dict, relay: dict, allowed_ips, keepalive: int) -> dict:
    return {
        "name": who["name"],
        "public_key": _public_key(who["public_key"], who["name"], "relay_public_key"),
        "endpoint": relay["endpoint"],
        "inner_endpoint": relay["inner_endpoint"],
        "allowed_ips": list(allowed_ips),
        "persistent_keepalive": keepalive,
    }


def _device(name: str, variables, networks, reserved, registered) -> Device:
    managed = _boolean(variables.get("peer_managed", True), name, "peer_managed")
    key = str(variables.get("peer_public_key") or registered.get(name) or "")
    groups = variables.get("peer_groups", ["default"])
    if isinstance(groups, str) or not groups:
        raise OverlayError(f"{name}: peer_groups is {groups!r}: give a list of at least one name, such as [default]")
    return Device(
        name=parse_name(name, "the inventory name"),
        public_key=key and _public_key(key, name, "peer_public_key"),
        addresses=tuple(str(a) for a in _device_addresses(name, variables.get("peer_addresses"), networks, reserved)),
        groups=tuple(sorted({parse_name(group, f"{name}: peer_groups") for group in groups})),
        rate_limit_mbit=_rate_limit(variables.get("peer_rate_limit_mbit", 0), name),
        subnets=tuple(_subnet(str(subnet), name, networks) for subnet in variables.get("peer_subnets") or []),
        exit_node=_boolean(variables.get("peer_exit_node", False), name, "peer_exit_node"),
        uses_exit_node=str(variables.get("peer_use_exit_node") or ""),
        managed=managed,
        expires=_expires(variables.get("peer_expires"), name, managed),
        name_servers=tuple(parse_address(str(text), f"{name}: peer_dns") for text in variables.get("peer_dns") or []),
    )


def _device_addresses(name, explicit, networks, reserved) -> list:
    """The explicit addresses, and a hashed one in each network that has none."""
    chosen: dict = {network: [] for network in networks}
    for text in explicit or []:
        address = parse_address(str(text), f"{name}: peer_addresses")
        network = next((n for n in networks if address in n), None)
        if network is None:
            listed = ", ".join(map(str, networks))
            raise OverlayError(f"{name}: peer_addresses: {address} is outside the overlay networks ({listed})")
        if address in reserved:
            raise OverlayError(f"{name}: peer_addresses: {address} is the relay's: choose another address")
        if address == network.network_address or (network.version == 4 and address == network.broadcast_address):
            raise OverlayError(f"{name}: peer_addresses: {address} is no host of {network}: choose another address")
        chosen[network].append(address)
    return [a for network in networks for a in chosen[network] or [hashed_address(name, network, reserved)]]


def _refuse_shared_addresses(devices, hostvars) -> None:
    owners: dict = {}
    for device in devices:
        for address in device.addresses:
            if address in owners:
                raise OverlayError(
                    f"{owners[address]} and {device.name} both have the overlay address {address} "
                    f"({_origin(owners[address], address, hostvars)}, {_origin(device.name, address, hostvars)}): "
                    f"set peer_addresses of one of them to a free address"
                )
            owners[address] = device.name


def _origin(name, address, hostvars) -> str:
    explicit = {str(parse_literal(str(a))) for a in hostvars[name].get("peer_addresses") or []}
    return f"{name}'s is {'set by peer_addresses' if address in explicit else 'derived from its name'}"


def _refuse_shared_keys(devices) -> None:
    owners: dict = {}
    for device in devices:
        if device.public_key in owners:
            raise OverlayError(
                f"{owners[device.public_key]} and {device.name} have the same public key {device.public_key}: "
                "each device needs its own; remove the key of a cloned device, and run the play again"
            )
        if device.public_key:
            owners[device.public_key] = device.name


def _refuse_name_servers_elsewhere(devices, networks) -> None:
    """A name server of the interface is asked through it, and would not be reached."""
    for device in devices:
        if not device.name_servers:
            continue
        subnets = [parse_network(net) for other in devices if device.shares_group(other) for net in other.subnets]
        exits = {network.version for network in networks if device.uses_exit_node}
        for server in device.name_servers:
            if server.version not in exits and not any(server in network for network in (*networks, *subnets)):
                raise OverlayError(
                    f"{device.name}: peer_dns: {server} is not reached through the tunnel: give an overlay address, or "
                    "one in another device's peer_subnets, or set peer_use_exit_node to a device that reaches it"
                )


def _exit_node(own: Device, devices):
    if not own.uses_exit_node:
        return None
    setting = f"{own.name}: peer_use_exit_node is {own.uses_exit_node}"
    exit_node = next((device for device in devices if device.name == own.uses_exit_node), None)
    if exit_node is None:
        raise OverlayError(f"{setting}, which is not a present host of the group peers: name one that is")
    if exit_node is own:
        raise OverlayError(f"{setting}, the device itself: name another one, or nothing")
    if not exit_node.exit_node:
        raise OverlayError(f"{setting}, which is no exit node: set its peer_exit_node to true")
    if not own.shares_group(exit_node):
        raise OverlayError(f"{setting}, but the two share no group: add a common one to peer_groups of both")
    return exit_node


def _public_key(key, name: str, setting: str) -> str:
    # In its one form: WireGuard takes another text of the same bytes for the same peer.
    if not is_key(str(key)) or str(key) == NO_KEY:
        raise OverlayError(f"{name}: {setting} is {key!r}: a WireGuard public key is 32 bytes in base64, 44 characters")
    return str(key)


def _boolean(value, name: str, setting: str) -> bool:
    try:
        return boolean(value)
    except TypeError:
        raise OverlayError(f"{name}: {setting} is {value!r}: give true or false") from None


def _rate_limit(value, name: str) -> float:
    try:
        limit = float(value)
    except (TypeError, ValueError):
        limit = -1
    if not 0 <= limit < float("inf"):
        raise OverlayError(f"{name}: peer_rate_limit_mbit is {value!r}: give Mbit/s, or 0 for no limit")
    return int(limit) if limit == int(limit) else limit


def _expires(value, name: str, managed: bool) -> str:
    moment = parse_expiry(value, name)
    if moment and managed:
        raise OverlayError(
            f"{name}: peer_expires is for a device with peer_managed: false: set peer_state of this one to absent in "
            "time"
        )
    return moment.isoformat() if moment else ""


def _subnet(text: str, name: str, networks) -> str:
    subnet = _network(text, f"{name}: peer_subnets")
    if subnet.prefixlen == 0:
        raise OverlayError(f"{name}: peer_subnets: {subnet} is everything: set peer_exit_node instead")
    for network in networks:
        if network.version == subnet.version and network.overlaps(subnet):
            raise OverlayError(
                f"{name}: peer_subnets: {subnet} overlaps the overlay network {network}: move one of them"
            )
    return str(subnet)


def _network(text: str, where: str):
    try:
        return parse_network(text)
    except ValueError as error:
        raise OverlayError(f"{where}: {text!r} is not a network ({error}): write it as 192.168.1.0/24") from None


def parse_address(text: str, where: str):
    try:
        return parse_literal(text)
    except ValueError:
        raise OverlayError(f"{where}: {text!r} is not an IP address: write it without a prefix length") from None


def host_route(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def _with_prefix(address: str, networks) -> str:
    # The network's prefix length: one connected route carries the whole overlay, whatever devices come and go.
    network = next(n for n in networks if ipaddress.ip_address(address) in n)
    return f"{address}/{network.prefixlen}"
