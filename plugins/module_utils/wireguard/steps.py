"""The steps from a running WireGuard interface to the one that is wanted, without touching what is right already."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from .wg import REJECT_AFTER, RunningInterface, RunningPeer, WireGuardError, format_endpoint, parse_endpoint
from .wg_quick import (
    DEFAULT_ROUTES,
    EXIT_TABLE,
    MAIN_FIRST,
    NOWHERE,
    OFFERED_FIRST,
    OFFERED_ONLY,
    PRIORITIES,
    SECOND_EXIT,
    SUBNET_METRIC,
    Interface,
    Peer,
    Route,
    Rule,
    Written,
    key_command,
    name_hooks,
    routes_of,
    rules_of,
)

Resolve = Callable[[str], list]  # the addresses of a name; raises WireGuardError


@dataclass(frozen=True)
class Step:
    command: tuple
    change: str  # what a person reads about it


@dataclass(frozen=True)
class Running:
    """A running interface, as wg and ip describe it."""

    wireguard: RunningInterface
    mtu: int
    addresses: frozenset
    prefixes: frozenset  # of our routes
    rules: frozenset  # of our rules: (family, priority)
    weak_rules: frozenset = frozenset()  # those of them that systemd-networkd would remove, of earlier versions


def running_from(wireguard: RunningInterface, link: dict, routes: list, rules: dict) -> Running:
    """Take what `ip -j addr`, `ip -j route show table all` (both families) and `ip -d -j rule` (by family) print."""
    addresses = {
        f"{entry['local']}/{entry['prefixlen']}"
        for entry in link.get("addr_info", [])
        if entry.get("scope") == "global"
    }
    # Other people's routes by way of this interface have another metric or table, and are not ours to remove.
    ours = {
        _key(Route(_prefix(route), nowhere=route.get("dev") == NOWHERE))
        for route in routes
        if (str(route.get("table")) == str(EXIT_TABLE) and _prefix(route) in DEFAULT_ROUTES)
        or ("table" not in route and route.get("metric") == SUBNET_METRIC)
    }
    marks = {
        (MAIN_FIRST, "main", None),
        (EXIT_TABLE, str(EXIT_TABLE), None),
        (SECOND_EXIT, str(EXIT_TABLE), None),
        (OFFERED_FIRST, "main", link.get("ifname")),
        (OFFERED_ONLY, "prohibit", link.get("ifname")),
    }
    present = {
        (version, rule["priority"]): rule.get("protocol", "kernel")
        for version, entries in rules.items()
        for rule in entries
        if (rule["priority"], str(rule.get("table", rule.get("action"))), rule.get("iif")) in marks
    }
    weak = frozenset(key for key, protocol in present.items() if protocol != "kernel")
    return Running(wireguard, link["mtu"], frozenset(addresses), frozenset(ours), frozenset(present), weak)


def literals(wanted: Interface, written: Written, resolve: Resolve) -> dict:
    """For each endpoint by name, one with an address of it: what the file has already, as long as that is not wrong."""
    found = {}
    for endpoint in wanted.names:
        now, before = _look_up(endpoint, resolve), written.literals.get(endpoint, "")
        found[endpoint] = before if before in now or not now else now[0]
    return found


def _look_up(endpoint: str, resolve: Resolve) -> list:
    host, port = parse_endpoint(endpoint)
    try:
        return [format_endpoint(address, port) for address in resolve(host)]
    except WireGuardError:
        return []


def plan(
    wanted: Interface, running: Running, written: Written, public_key: str, now: float, resolve: Resolve
) -> list[Step]:
    """The steps in order: undo what went away, then the peers, then what came.

    public_key is that of the wanted private key.
    """
    device = wanted.name
    unhook, hook = _hook_steps(wanted, written)
    rule_removals, rule_additions = _rule_steps(wanted, running)
    address_removals, address_additions, families = _address_steps(wanted, running)
    route_removals, route_additions = _route_steps(wanted, running, families)
    steps = [*unhook, *rule_removals, *route_removals, *address_removals]
    if running.wireguard.public_key != public_key:
        steps.append(Step(tuple(key_command(wanted, device)), "private key set"))
    if wanted.listen_port not in (0, running.wireguard.listen_port):
        port = str(wanted.listen_port)
        steps.append(Step(("wg", "set", device, "listen-port", port), f"listen port {port}"))
    if running.wireguard.fwmark != wanted.fwmark:
        steps.append(Step(("wg", "set", device, "fwmark", str(wanted.fwmark)), f"fwmark {wanted.fwmark}"))
    steps += _peer_steps(wanted, running.wireguard, written, now, resolve)
    steps += _name_steps(wanted, written, resolve)
    steps += address_additions
    if running.mtu != wanted.mtu:
        command = ("ip", "link", "set", "dev", device, "mtu", str(wanted.mtu))
        steps.append(Step(command, f"MTU {wanted.mtu} instead of {running.mtu}"))
    return [*steps, *route_additions, *rule_additions, *hook]


def _hook_steps(wanted: Interface, written: Written) -> tuple[list[Step], list[Step]]:
    """A hook that went away is undone by the line for going down that went with it; a new one is run."""
    gone = [line for line in written.pre_down if line not in wanted.pre_down and not _is_routing(line)]
    new = [line for line in wanted.post_up if line not in written.post_up]
    return [_hook(line, wanted.name) for line in gone], [_hook(line, wanted.name) for line in new]


def _is_routing(line: str) -> bool:
    return f"dev {NOWHERE} table {EXIT_TABLE} " in line or any(
        f"rule del priority {priority} " in line for priority in PRIORITIES
    )


def _hook(line: str, device: str) -> Step:
    command = line.replace("%i", device)
    return Step(("bash", "-c", command), f"ran {command}")


def _rule_steps(wanted: Interface, running: Running) -> tuple[list[Step], list[Step]]:
    expected = {(rule.version, rule.priority): rule for rule in rules_of(wanted, wanted.name)}
    removals = [
        _rule_step(
            Rule(version, priority, ("iif", wanted.name) if priority in (OFFERED_FIRST, OFFERED_ONLY) else (), ()),
            "del",
        )
        # The one that sends traffic to the exit node goes first.
        for version, priority in sorted(running.rules - set(expected), reverse=True)
    ]
    additions = []
    for key, rule in expected.items():
        if key in running.weak_rules:
            additions.append(_rule_step(rule, "del"))
        if key not in running.rules or key in running.weak_rules:
            additions.append(_rule_step(rule, "add"))
    return removals, additions


def _rule_step(rule: Rule, verb: str) -> Step:
    done = {"add": "added", "del": "removed"}[verb]
    return Step(tuple(rule.command(verb)), f"IPv{rule.version} rule {rule.priority} {done}")


def _address_steps(wanted: Interface, running: Running) -> tuple[list[Step], list[Step], set[int]]:
    expected = {str(ipaddress.ip_interface(address)) for address in wanted.addresses}
    gone, new = sorted(running.addresses - expected), sorted(expected - running.addresses)
    removals = [Step(("ip", "address", "del", a, "dev", wanted.name), f"address {a} removed") for a in gone]
    additions = [Step(("ip", "address", "add", a, "dev", wanted.name), f"address {a} added") for a in new]
    # The kernel drops a family's routes with its last address.
    return removals, additions, {ipaddress.ip_interface(address).version for address in gone}


def _route_steps(wanted: Interface, running: Running, renewed_families: set[int]) -> tuple[list[Step], list[Step]]:
    expected = {_key(route): route for route in routes_of(wanted)}
    removals = []
    for key in sorted(running.prefixes - set(expected)):
        prefix, _dev, nowhere = key.partition(" ")
        route = Route(prefix, nowhere=bool(nowhere))
        command = ("ip", f"-{route.version}", "route", "del", *route.arguments, "dev", route.device(wanted.name))
        removals.append(Step(command, f"route {key} removed"))
    additions = []
    for key, route in expected.items():
        if key not in running.prefixes or (route.version in renewed_families and not route.nowhere):
            command = ("ip", f"-{route.version}", "route", "replace", *route.arguments)
            additions.append(Step((*command, "dev", route.device(wanted.name)), f"route {key} added"))
    return removals, additions


def _key(route: Route) -> str:
    return f"{route.prefix} dev {NOWHERE}" if route.nowhere else route.prefix


def _peer_steps(
    wanted: Interface, running: RunningInterface, written: Written, now: float, resolve: Resolve
) -> list[Step]:
    """One `wg set` with every peer that differs, so that a network moves from one peer to another at once."""
    command, changes = [], []
    for key in sorted(set(running.peers) - {peer.public_key for peer in wanted.peers}):
        command += ["peer", key, "remove"]
        changes.append(f"peer {key} removed")
    newest_first = sorted(running.peers.values(), key=lambda peer: peer.latest_handshake, reverse=True)
    in_use = [peer.endpoint for peer in newest_first if peer.endpoint]
    for peer in wanted.peers:
        before = running.peers.get(peer.public_key)
        arguments, what = [], []
        if before and before.has_preshared_key:
            arguments += ["preshared-key", "/dev/null"]
            what.append("preshared key removed")
        if _wants_endpoint(peer, before, wanted, written, now):
            endpoint = _choose(peer, before.endpoint if before else "", in_use, resolve, written)
            if endpoint:
                arguments += ["endpoint", endpoint]
                what.append(f"endpoint {endpoint}")
        allowed = frozenset(peer.allowed_ips)
        if not before or before.allowed_ips != allowed:
            arguments += ["allowed-ips", ",".join(peer.allowed_ips)]
            old = before.allowed_ips if before else frozenset()
            signed = [f"+{prefix}" for prefix in sorted(allowed - old)] + [
                f"-{prefix}" for prefix in sorted(old - allowed)
            ]
            what.append(f"allowed IPs {' '.join(signed)}")
        keepalive = before.persistent_keepalive if before else 0
        if keepalive != peer.persistent_keepalive:
            arguments += ["persistent-keepalive", str(peer.persistent_keepalive)]
            what.append(f"keepalive {peer.persistent_keepalive} s")
        if arguments or not before:
            command += ["peer", peer.public_key, *arguments]
            changes.append(f"peer {peer.name} {'changed' if before else 'added'}: {', '.join(what)}")
    return [Step(("wg", "set", wanted.name, *command), "; ".join(changes))] if command else []


def _name_steps(wanted: Interface, written: Written, resolve: Resolve) -> list[Step]:
    return [
        Step(("bash", "-c", line.replace("%i", wanted.name)), f"looking {endpoint} up until it has an address")
        for endpoint, line in name_hooks(wanted).items()
        if line not in written.post_up and not _look_up(endpoint, resolve)
    ]


def _wants_endpoint(peer: Peer, before: RunningPeer | None, wanted: Interface, written: Written, now: float) -> bool:
    """A live session has found its way, by roaming too: leave it, unless it is the configured endpoint that changed."""
    if before is None or not before.endpoint:
        return True
    if wanted.keep_endpoints or written.keep_endpoints:
        return not wanted.keep_endpoints  # nobody looks after what was chosen elsewhere until now
    live = now - before.latest_handshake < REJECT_AFTER
    return written.endpoints.get(peer.public_key) != (peer.endpoint, peer.inner_endpoint) or not live


def _choose(peer: Peer, current: str, in_use: list[str], resolve: Resolve, written: Written) -> str:
    """The address to set, or nothing when the current one is right: it is among those of the name, or the inner one.

    The relay sees a device at one source address: prefer what the other peers of this interface use.
    """
    host, port = parse_endpoint(peer.endpoint)
    try:
        candidates = [format_endpoint(address, port) for address in resolve(host)]
    except WireGuardError:
        if current and written.endpoints.get(peer.public_key, (peer.endpoint, ""))[0] != peer.endpoint:
            raise  # it is to go there, and would not
        return "" if current else peer.literal
    candidates += [peer.inner_endpoint] if peer.inner_endpoint else []
    if current in candidates:
        return ""
    return next((endpoint for endpoint in in_use if endpoint in candidates), candidates[0])


def _prefix(route: dict) -> str:
    if route["dst"] == "default":
        # A default route of IPv4 in JSON has no other sign of its family.
        return "::/0" if route["family"] == 6 else "0.0.0.0/0"
    return str(ipaddress.ip_network(route["dst"]))
