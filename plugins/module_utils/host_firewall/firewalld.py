# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open ports with firewalld.

firewalld keeps no comments, so the ports are held by a service definition of ours, named peer-relay, in the permanent
configuration. It goes into every zone that an interface of the host is in, since a packet is judged by the zone that
it comes in by, and into those of senders, which go first. `firewall-cmd --reload` would drop everybody's runtime-only
settings (bans, containers), so the running firewall gets plain ports instead, which the service replaces at the next
start or reload.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from .plan import TAG, CommandError, FirewallError, Plan, Port, Run, covers

SERVICE = "peer-relay"
SHUT = (["DROP"], ["%%REJECT%%"])  # targets of zones in which senders are banned
Zones = dict[str, dict[str, list[str]]]


class Settings(NamedTuple):
    """The permanent or the running configuration."""

    zones: Zones
    service_ports: list[str] | None  # of our service; None: not defined


class Firewalld(NamedTuple):
    running: bool
    zones: tuple[str, ...]  # where the ports are to be let in
    permanent: Settings
    runtime: Settings  # empty when not running
    interfaces: dict[str, str]  # the zone of each of the host's interfaces


def is_running(run: Run) -> bool:
    try:
        return run(["firewall-cmd", "--state"]).strip() == "running"
    except CommandError:
        return False


def read_firewalld(run: Run, zone: str) -> Firewalld:
    running = is_running(run)
    program = ["firewall-cmd", "--permanent"] if running else ["firewall-offline-cmd"]
    permanent = _read_settings(run, program)
    runtime = _read_settings(run, ["firewall-cmd"]) if running else Settings({}, None)
    default = run([program[0], "--get-default-zone"]).strip()
    now = runtime.zones if running else permanent.zones
    bound = {name: zone for zone, settings in now.items() for name in settings.get("interfaces", [])}
    names = _interfaces(run)
    interfaces = {name: bound.get(name, default) for name in (bound if names is None else names)}
    others = [default] if names is None else []  # where interfaces are that firewalld does not name
    senders = [zone for zone, settings in now.items() if settings.get("sources") and settings.get("target") not in SHUT]
    zones = (zone,) if zone else tuple(dict.fromkeys([*interfaces.values(), *others, *senders])) or (default,)
    for name in zones:
        if name not in permanent.zones or (running and name not in runtime.zones):
            known = ", ".join(sorted(permanent.zones))
            raise FirewallError(f"firewalld has no zone '{name}'. Set firewall_zone to one of: {known}.")
    return Firewalld(running, zones, permanent, runtime, interfaces)


def _interfaces(run: Run) -> list[str] | None:
    """Those by which others may reach the host; None without iproute2."""
    try:
        links = json.loads(run(["ip", "-j", "address", "show", "scope", "global"]) or "[]")
    except (CommandError, ValueError):
        return None
    return [link["ifname"] for link in links if link.get("ifname", "lo") != "lo" and link.get("addr_info")]


def closed_interfaces(firewalld: Firewalld, ports: list[Port]) -> list[str]:
    """Interfaces by which the ports are not reached, for people."""
    found = []
    for name, zone in firewalld.interfaces.items():
        settings = (firewalld.runtime if firewalld.running else firewalld.permanent).zones[zone]
        here = zone in firewalld.zones
        closed = [str(port) for port in ports if not here and not _admits(settings, str(port))]
        if closed:
            found.append(
                f"the interface {name} is in firewalld's zone {zone}, which does not let {', '.join(closed)} in. "
                f"Leave firewall_zone empty for the zones of all interfaces, or set it to {zone}."
            )
    return found


def _read_settings(run: Run, command: list[str]) -> Settings:
    try:
        service = parse_blocks(run([*command, f"--info-service={SERVICE}"])).get(SERVICE, {}).get("ports", [])
    except CommandError:
        service = None
    return Settings(parse_blocks(run([*command, "--list-all-zones"])), service)


def parse_blocks(text: str) -> Zones:
    """What --list-all-zones and --info-service print: a name, then indented "key: values" lines."""
    blocks: Zones = {}
    current: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if not line[0].isspace():
            current = blocks.setdefault(line.split()[0], {})
            key = ""
        elif line.startswith("\t") and key:
            current[key].append(line.strip())  # rich rules: one a line
        else:
            key, _colon, values = line.strip().partition(":")
            current[key] = values.split()
    return blocks


def make_plan(firewalld: Firewalld, ports: list[Port], ssh_ports: list[int] | None = None) -> Plan:
    """What to do so that exactly these ports are let in by our service (or by somebody else's permanent settings).

    ssh_ports: ports that have to be let in as well before firewalld is turned on, by settings that stay.
    """
    zones = {name: firewalld.permanent.zones[name] for name in firewalld.zones}
    for name, zone in zones.items():
        _refuse_rich_rules(name, zone, ports)
    # By zone, what its own settings do not let in already.
    needed = {name: [str(port) for port in ports if not _is_open(zone, str(port))] for name, zone in zones.items()}
    wanted = list(dict.fromkeys(port for needs in needed.values() for port in needs))
    here = [name for name, needs in needed.items() if needs]
    found = [
        f"{port} is open already in zone {name}"
        for name, needs in needed.items()
        for port in ports
        if str(port) not in needs
    ]
    old = firewalld.permanent.service_ports
    permanent = [*_service(firewalld, wanted), *_placement(firewalld, here)]
    ssh = [
        (name, f"{number}/tcp")
        for name, zone in zones.items()
        for number in ssh_ports or []
        if not _admits(zone, f"{number}/tcp")
    ]
    permanent += [[f"--zone={name}", f"--add-port={port}"] for name, port in ssh]
    program = ["firewall-cmd", "--permanent"] if firewalld.running else ["firewall-offline-cmd"]
    runtime = _runtime(firewalld, dict.fromkeys(here, wanted)) if firewalld.running else []
    commands = [[*program, *words] for words in permanent] + [["firewall-cmd", *words] for words in runtime]
    placed = [name for name, zone in firewalld.permanent.zones.items() if SERVICE in zone.get("services", [])]
    # A default zone that runtime and permanent configuration do not agree on is firewalld's to settle.
    return Plan(
        commands=tuple(commands),
        before=tuple(
            f"firewalld zone {name}: {port} by service {SERVICE}" for name in placed for port in sorted(old or [])
        ),
        after=tuple(
            [f"firewalld zone {name}: {port} by service {SERVICE}" for name in here for port in sorted(wanted)]
            + [f"firewalld zone {name}: {port} for SSH" for name, port in ssh]
        ),
        found=tuple(found),
        closed_ports=tuple(
            Port(port.partition("/")[2], int(port.partition("/")[0]), SERVICE)
            for port in old or []
            if firewalld.running and port.partition("/")[0].isdigit() and port not in wanted
            if any(not _admits(firewalld.permanent.zones[name], port) for name in placed or firewalld.zones)
        ),
    )


def _service(firewalld: Firewalld, wanted: list[str]) -> list[list[str]]:
    """Define our service with these ports."""
    old = firewalld.permanent.service_ports
    if not wanted:
        return []
    commands = []
    if old is None:
        commands.append([f"--new-service={SERVICE}"])
        commands.append([f"--service={SERVICE}", f"--set-description={TAG}the ports that the relay listens on"])
    commands += [[f"--service={SERVICE}", f"--remove-port={port}"] for port in old or [] if port not in wanted]
    commands += [[f"--service={SERVICE}", f"--add-port={port}"] for port in wanted if port not in (old or [])]
    return commands


def _placement(firewalld: Firewalld, here: list[str]) -> list[list[str]]:
    """Have our service in the right zones alone, and undefined when it is not needed."""
    commands = []
    for zone, settings in firewalld.permanent.zones.items():
        present = SERVICE in settings.get("services", [])
        if zone in here and not present:
            commands.append([f"--zone={zone}", f"--add-service={SERVICE}"])
        elif present and zone not in here:
            commands.append([f"--zone={zone}", f"--remove-service={SERVICE}"])
    if not here and firewalld.permanent.service_ports is not None:
        commands.append([f"--delete-service={SERVICE}"])
    return commands


def _runtime(firewalld: Firewalld, wanted: dict[str, list[str]]) -> list[list[str]]:
    """Bring the running firewall to the same ports."""
    commands = []
    live_ports = firewalld.runtime.service_ports or []
    formerly = {*(firewalld.permanent.service_ports or []), *live_ports}
    for zone, settings in firewalld.runtime.zones.items():
        here = wanted.get(zone, [])
        by_service = SERVICE in settings.get("services", [])
        if by_service and sorted(live_ports) != sorted(here):
            commands.append([f"--zone={zone}", f"--remove-service={SERVICE}"])
            by_service = False
        kept_ports = firewalld.permanent.zones.get(zone, {}).get("ports", [])
        for port in settings.get("ports", []):
            if port in formerly and port not in here and port not in kept_ports:
                commands.append([f"--zone={zone}", f"--remove-port={port}"])
        if not by_service:
            commands += [[f"--zone={zone}", f"--add-port={port}"] for port in here if not _has_port(settings, port)]
    return commands


def _has_port(zone: dict[str, list[str]], port: str) -> bool:
    number, _slash, protocol = port.partition("/")
    for entry in zone.get("ports", []):
        spec, _slash, entry_protocol = entry.partition("/")
        if entry_protocol == protocol and covers(spec, int(number)):
            return True
    return False


def _is_open(zone: dict[str, list[str]], port: str) -> bool:
    return _has_port(zone, port) or zone.get("target") == ["ACCEPT"]


def _admits(zone: dict[str, list[str]], port: str) -> bool:
    """Whether the zone lets the port in without our service."""
    by_service = port == "22/tcp" and "ssh" in zone.get("services", [])
    return by_service or _is_open(zone, port)


def _refuse_rich_rules(name: str, zone: dict[str, list[str]], ports: list[Port]) -> None:
    for rule in zone.get("rich rules", []):
        for port in ports:
            about = f'port="{port.port}" protocol="{port.protocol}"' in rule and " source " not in rule
            if about and (rule.endswith(" drop") or " reject" in rule):
                raise FirewallError(
                    f"zone {name} of firewalld has the rich rule '{rule}', which somebody made to keep {port} closed. "
                    f"Remove it, or leave the port out of firewall_ports."
                )
