# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A WireGuard interface as it is to be, and its wg-quick file."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ansible_collections.homelab.peer_relay.plugins.module_utils.address import (
    canonical_address,
    parse_interface,
    parse_network,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import one_line, shown

from .wg import WireGuardError, format_endpoint, is_key, parse_endpoint

# "pr": the number of the routing table with the exit node's default routes, and the mark of WireGuard's own packets,
# which are to leave by the main table. The rules have priorities around it, before the main table's own.
EXIT_TABLE = 0x7072
MAIN_FIRST = EXIT_TABLE - 1
SECOND_EXIT = EXIT_TABLE + 1
OFFERED_ONLY = EXIT_TABLE - 2
OFFERED_FIRST = EXIT_TABLE - 3
PRIORITIES = (OFFERED_FIRST, OFFERED_ONLY, MAIN_FIRST, EXIT_TABLE, SECOND_EXIT)
# What the packet filter gives to packets that it lets pass between the interface and the networks behind this device.
OFFERED_MARK = 0x7073

# The last resort of that table: nothing comes of what is sent to "lo", while sockets that are bound to a link keep it.
NOWHERE = "lo"
NOWHERE_METRIC = 65535

# The local LAN wins over the same subnet behind a peer: a connected route has a smaller metric (0, or up to 1024).
SUBNET_METRIC = 4096

MIN_MTU = 1280

# Comments to wg-quick, which knows one endpoint only, and brings no interface up while that is a name without address.
_BY_NAME = "# Endpoint by name:"
_INNER = "# Inner endpoint:"
_CHOSEN = "# The endpoints below are for the start: those of running peers are chosen elsewhere."

DEFAULT_ROUTES = {"0.0.0.0/0", "::/0"}


@dataclass(frozen=True)
class Peer:
    name: str
    public_key: str
    endpoint: str
    allowed_ips: tuple
    persistent_keepalive: int = 0
    inner_endpoint: str = ""  # where it is reached as well, from its own network
    literal: str = ""  # of an endpoint by name: with an address that the name has had

    @property
    def by_name(self) -> bool:
        try:
            canonical_address(parse_endpoint(self.endpoint)[0])
        except ValueError:
            return True
        return False


@dataclass(frozen=True)
class Interface:
    name: str
    addresses: tuple  # with the prefix length of the overlay network
    mtu: int
    private_key_file: str
    peers: tuple
    post_up: tuple = ()
    pre_down: tuple = ()
    listen_port: int = 0  # 0: any
    keep_endpoints: bool = False
    offered_only: bool = False  # what comes from the interface is forwarded with OFFERED_MARK alone
    families: tuple = (4, 6)  # those that the host has

    @property
    def names(self) -> dict:
        """Endpoints by name: the public keys of the peers that are reached there."""
        found: dict = {}
        for peer in self.peers:
            if peer.by_name:
                found.setdefault(peer.endpoint, []).append(peer.public_key)
        return found

    def with_literals(self, literals: Mapping) -> Interface:
        """The same, with what is known of endpoints by name."""
        return replace(self, peers=tuple(replace(peer, literal=literals.get(peer.endpoint, "")) for peer in self.peers))

    @property
    def networks(self) -> list:
        return [ipaddress.ip_interface(address).network for address in self.addresses]

    @property
    def exit_families(self) -> list:
        """4, 6 or both, when a peer is this device's exit node."""
        used = {prefix for peer in self.peers for prefix in peer.allowed_ips}
        return [4] * ("0.0.0.0/0" in used) + [6] * ("::/0" in used)

    @property
    def fwmark(self) -> int:
        return EXIT_TABLE if self.exit_families else 0

    @property
    def subnets(self) -> list:
        """What needs a route of its own: an overlay address has the connected one, a default route a table."""
        prefixes = [ipaddress.ip_network(text) for peer in self.peers for text in peer.allowed_ips]
        own = [
            prefix
            for prefix in prefixes
            if prefix.prefixlen and not any(n.version == prefix.version and prefix.subnet_of(n) for n in self.networks)
        ]
        return sorted(own, key=lambda prefix: (prefix.version, prefix))

    @classmethod
    def from_options(cls, options: dict, families: tuple = (4, 6)) -> Interface:
        """Make an interface from the module's options, or say which of them is wrong."""
        name = options["name"]
        if not re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", name) or name.startswith(("-", ".")):
            raise WireGuardError(f"name {name!r}: an interface name has 1 to 15 letters, digits, or _=+.- inside")
        if not MIN_MTU <= options["mtu"] <= 65535:
            raise WireGuardError(f"mtu {options['mtu']}: give a number from {MIN_MTU}, which IPv6 needs, to 65535")
        if not 0 <= options["listen_port"] <= 65535:
            raise WireGuardError(f"listen_port {options['listen_port']}: give a UDP port, or 0 for any that is free")
        peers = tuple(_peer(peer) for peer in options["peers"])
        _refuse_doubles(peers)
        return cls(
            name=name,
            addresses=tuple(
                _canonical(parse_interface, text, "addresses", "10.77.12.34/16") for text in options["addresses"]
            ),
            mtu=options["mtu"],
            private_key_file=options["private_key_file"] or f"/etc/wireguard/{name}.key",
            peers=peers,
            post_up=tuple(options["post_up"]),
            pre_down=tuple(options["pre_down"]),
            listen_port=options["listen_port"],
            keep_endpoints=options["keep_endpoints"],
            offered_only=options["offered_only"],
            families=families,
        )


@dataclass(frozen=True)
class Route:
    """A route of ours. A default route has a table of its own, a subnet's is in the main table."""

    prefix: str
    nowhere: bool = False

    @property
    def arguments(self) -> list:
        if self.nowhere:
            return [self.prefix, "table", str(EXIT_TABLE), "metric", str(NOWHERE_METRIC), "protocol", "kernel"]
        place = ["table", str(EXIT_TABLE)] if self.prefix in DEFAULT_ROUTES else ["metric", str(SUBNET_METRIC)]
        return [self.prefix, *place]

    @property
    def version(self) -> int:
        return 6 if ":" in self.prefix else 4

    def device(self, interface: str) -> str:
        return NOWHERE if self.nowhere else interface


def routes_of(interface: Interface) -> list:
    default = {4: "0.0.0.0/0", 6: "::/0"}
    exits = [Route(default[version]) for version in interface.exit_families]
    nowhere = [Route(default[version], nowhere=True) for version in interface.families if interface.exit_families]
    return [Route(str(prefix)) for prefix in interface.subnets] + nowhere + exits


@dataclass(frozen=True)
class Rule:
    """A policy rule of ours: one of each priority for a family and an interface."""

    version: int
    priority: int
    selector: tuple  # what tells it from other interfaces' of this priority
    action: tuple

    def command(self, verb: str) -> list:
        # systemd-networkd removes other people's rules whenever it starts, all but those that say to be the kernel's.
        rest = [*self.action, "protocol", "kernel"] if verb == "add" else []
        return ["ip", f"-{self.version}", "rule", verb, "priority", str(self.priority), *self.selector, *rest]


def rules_of(interface: Interface, device: str) -> list:
    """The rules that send traffic to the exit node, and those that forbid what is not to be; device may be "%i".

    The main table goes first, without its default route: that keeps the local LAN and the routes to subnets. What is
    left goes to the exit node, except WireGuard's own packets and the answers that carry their mark. It goes nowhere
    when the interface has gone, or in a family that the overlay lacks; the second of two equal rules is for when
    somebody removes the first.
    """
    to_exit = ("not", "fwmark", str(EXIT_TABLE), "lookup", str(EXIT_TABLE))
    rules = []
    for version in interface.families:
        if interface.offered_only:
            marked = ("fwmark", str(OFFERED_MARK), "lookup", "main")
            rules.append(Rule(version, OFFERED_FIRST, ("iif", device), marked))
            rules.append(Rule(version, OFFERED_ONLY, ("iif", device), ("prohibit",)))
        if interface.exit_families:
            rules.append(Rule(version, MAIN_FIRST, (), ("lookup", "main", "suppress_prefixlength", "0")))
            rules += [Rule(version, priority, (), to_exit) for priority in (EXIT_TABLE, SECOND_EXIT)]
    return rules


def key_command(interface: Interface, device: str) -> list:
    # The keepalives come with the key, and make the first handshake start at once: earlier ones would show a null key.
    command = ["wg", "set", device, "private-key", interface.private_key_file]
    for peer in interface.peers:
        if peer.persistent_keepalive:
            command += ["peer", peer.public_key, "persistent-keepalive", str(peer.persistent_keepalive)]
    return command


def name_hooks(interface: Interface) -> dict:
    """For each endpoint by name, what looks it up in the background until it has an address: wg-quick would wait, and
    then take the whole interface down. A peer that was reached meanwhile is left where it is."""
    return {
        endpoint: (
            f"(for key in {' '.join(keys)}; do while [[ $(wg show %i latest-handshakes) == *$key?0* ]] && "
            f"! WG_ENDPOINT_RESOLUTION_RETRIES=0 wg set %i peer $key endpoint {shlex.quote(endpoint)}; "
            "do sleep 5; done; done) >/dev/null 2>&1 &"
        )
        for endpoint, keys in interface.names.items()
    }


def render(interface: Interface) -> str:
    """The wg-quick file. It holds no secret: the private key stays in its own file.

    Whatever an interface holds, a value is one line and all of it: WireGuardError otherwise.
    """
    up, down = [shlex.join(key_command(interface, "%i")), *name_hooks(interface).values()], []
    for route in routes_of(interface):
        rest = " ".join(route.arguments[1:])
        up.append(f"ip -{route.version} route replace {route.prefix} dev {route.device('%i')} {rest}")
        if route.nowhere:
            down.append(f"ip -{route.version} route del {route.prefix} dev {NOWHERE} {rest} || true")
    for rule in rules_of(interface, "%i"):
        add, remove = (" ".join(rule.command(verb)) for verb in ("add", "del"))
        # An interface that died left its rules behind.
        up.append(f"{remove} 2>/dev/null || true; {add}")
        down.append(f"{remove} || true")
    lines = [
        "# Managed by Ansible (homelab.peer_relay): changes made here are lost.",
        "[Interface]",
        _setting("Address", ", ".join(interface.addresses)),
        _setting("MTU", interface.mtu),
        *([_setting("ListenPort", interface.listen_port)] if interface.listen_port else []),
        *([_setting("FwMark", interface.fwmark)] if interface.fwmark else []),
        "Table = off",
        *(_setting("PostUp", hook) for hook in [*interface.post_up, *up]),
        *(_setting("PreDown", hook) for hook in [*interface.pre_down, *down]),
        *([_CHOSEN] if interface.keep_endpoints else []),
    ]
    for peer in interface.peers:
        literal = peer.literal if peer.by_name else peer.endpoint
        lines += [
            "",
            "[Peer]",
            _comment("#", peer.name),
            _setting("PublicKey", peer.public_key),
            *([_setting("Endpoint", literal)] if literal else []),
            *([_comment(_BY_NAME, peer.endpoint)] if peer.by_name else []),
            *([_comment(_INNER, peer.inner_endpoint)] if peer.inner_endpoint else []),
            _setting("AllowedIPs", ", ".join(peer.allowed_ips)),
        ]
    return "\n".join(lines) + "\n"


def _setting(name: str, value: object) -> str:
    text = _comment(f"{name} =", value)
    if "#" in text:
        raise WireGuardError(f"{name} {shown(value)}: wg-quick ignores all from '#' on: leave it out")
    return text


def _comment(start: str, value: object) -> str:
    try:
        return f"{start} {one_line(value)}"
    except ValueError as error:
        raise WireGuardError(f"{start} {error}") from None


@dataclass(frozen=True)
class Written:
    """What an earlier file says about the things that the running interface cannot be asked for."""

    post_up: tuple
    pre_down: tuple
    endpoints: dict  # (endpoint, inner endpoint) by public key
    allowed_ips: dict = field(default_factory=dict)  # by public key
    keep_endpoints: bool = False
    names: dict = field(default_factory=dict)  # of the peers, by public key, where the file is ours
    literals: dict = field(default_factory=dict)  # of endpoints by name

    def owner(self, allowed_ips: Iterable[str]) -> str:
        """The public key of the peer that has an endpoint and just these networks behind it, or nothing."""
        wanted = set(allowed_ips)
        return next((key for key in self.endpoints if self.allowed_ips.get(key) == wanted), "")


def read_back(text: str) -> Written:
    """Read a wg-quick file, ours or another's. What is not understood is left out: the running interface decides."""
    hooks: dict = {"postup": [], "predown": []}
    endpoints: dict[str, tuple[str, str]] = {}
    literals: dict[str, str] = {}
    allowed_ips: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    public_key = comment = ""
    for line in text.splitlines():
        if line.startswith(_BY_NAME) and public_key:
            by_name, (literal, _inner) = line.removeprefix(_BY_NAME).strip(), endpoints.get(public_key, ("", ""))
            endpoints[public_key] = (by_name, "")
            if literal:
                literals[by_name] = literal
        if line.startswith(_INNER) and public_key in endpoints:
            endpoints[public_key] = (endpoints[public_key][0], line.removeprefix(_INNER).strip())
        name, _equals, value = (part.strip() for part in line.partition("#")[0].partition("="))
        name = name.lower()
        if name.startswith("["):
            public_key = comment = ""
        elif name in hooks:
            hooks[name].append(value)
        elif line.startswith("# ") and not public_key:
            comment = line.removeprefix("# ")
        elif name == "publickey":
            public_key, names[value] = value, comment
        elif name == "endpoint" and public_key:
            endpoints[public_key] = (value, "")
        elif name == "allowedips" and public_key:
            allowed_ips[public_key] = {prefix.strip() for prefix in value.split(",")}
    kept = _CHOSEN in text.splitlines()
    return Written(tuple(hooks["postup"]), tuple(hooks["predown"]), endpoints, allowed_ips, kept, names, literals)


def without_keys(text: str) -> str:
    """A wg-quick file as it may be shown: one that somebody else wrote holds secret keys."""
    return re.sub(r"(?im)^([ \t]*(?:PrivateKey|PresharedKey)[ \t]*=).*", r"\1 (hidden)", text)


def _peer(options: dict) -> Peer:
    name, key, keepalive = options["name"], options["public_key"], options["persistent_keepalive"]
    if not name.isprintable():
        raise WireGuardError(f"peer {name!r}: a name has no control characters")
    if not is_key(key):
        raise WireGuardError(f"peer {name}: public_key {key!r} is not 32 bytes of base64")
    if not 0 <= keepalive <= 65535:
        raise WireGuardError(f"peer {name}: persistent_keepalive {keepalive}: give seconds from 0 to 65535")
    endpoint, inner = format_endpoint(*parse_endpoint(options["endpoint"])), options["inner_endpoint"]
    if inner:
        host, port = parse_endpoint(inner)
        inner = format_endpoint(
            _canonical(canonical_address, host, f"peer {name}: inner_endpoint", "192.168.1.10"), port
        )
    allowed_ips = tuple(
        _canonical(parse_network, text, f"peer {name}: allowed_ips", "192.168.1.0/24")
        for text in options["allowed_ips"]
    )
    return Peer(name, key, endpoint, allowed_ips, keepalive, inner)


def _refuse_doubles(peers: tuple) -> None:
    keys: dict = {}
    owners: dict = {}
    for peer in peers:
        if peer.public_key in keys:
            raise WireGuardError(f"peers {keys[peer.public_key]} and {peer.name} have the same public_key")
        keys[peer.public_key] = peer.name
        for prefix in peer.allowed_ips:
            if prefix in owners:
                raise WireGuardError(f"peers {owners[prefix]} and {peer.name} both have {prefix} in allowed_ips")
            owners[prefix] = peer.name


def _canonical(parse: Callable[[str], object], text: str, where: str, example: str) -> str:
    try:
        return str(parse(text))
    except ValueError as error:
        raise WireGuardError(f"{where}: {text!r} is wrong ({error}): write it as {example}") from None
