# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open ports with firewalld.

firewalld keeps no comments, so the ports are held by a service definition of ours, named peer-relay, in the permanent
configuration. `firewall-cmd --reload` would drop everybody's runtime-only settings (bans, containers), so the running
firewall gets plain ports instead, which the service replaces at the next start or reload.
"""

from __future__ import annotations

from typing import NamedTuple

from .firewall import TAG, CommandError, FirewallError, Plan, Port, Run, covers

SERVICE = "peer-relay"
Zones = dict[str, dict[str, list[str]]]


class Settings(NamedTuple):
    """The permanent or the running configuration."""

    zones: Zones
    service_ports: list[str] | None  # of our service; None: not defined


class Firewalld(NamedTuple):
    running: bool
    zone: str
    permanent: Settings
    runtime: Settings  # empty when not running


def is_running(run: Run) -> bool:
    try:
        return run(["firewall-cmd", "--state"]).strip() == "running"
    except CommandError:
        return False


def read_firewalld(run: Run, zone: str) -> Firewalld:
    running = is_running(run)
    permanent = ["firewall-cmd", "--permanent"] if running else ["firewall-offline-cmd"]
    zone = zone or run([permanent[0], "--get-default-zone"]).strip()
    firewalld = Firewalld(
        running,
        zone,
        _read_settings(run, permanent),
        _read_settings(run, ["firewall-cmd"]) if running else Settings({}, None),
    )
    if zone not in firewalld.permanent.zones or (running and zone not in firewalld.runtime.zones):
        zones = ", ".join(sorted(firewalld.permanent.zones))
        raise FirewallError(f"firewalld has no zone '{zone}'. Set firewall_zone to one of: {zones}.")
    return firewalld


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
    zone = firewalld.permanent.zones[firewalld.zone]
    _refuse_rich_rules(firewalld.zone, zone, ports)
    found = [f"{port} is open already in zone {firewalld.zone}" for port in ports if _has_port(zone, str(port))]
    wanted = [str(port) for port in ports if not _has_port(zone, str(port))]
    old = firewalld.permanent.service_ports
    name = f"firewalld zone {firewalld.zone}:"
    permanent = [*_service(firewalld, wanted), *_placement(firewalld, wanted)]
    ssh = [f"{number}/tcp" for number in ssh_ports or [] if not _admits(zone, f"{number}/tcp")]
    permanent += [[f"--zone={firewalld.zone}", f"--add-port={port}"] for port in ssh]
    program = ["firewall-cmd", "--permanent"] if firewalld.running else ["firewall-offline-cmd"]
    runtime = _runtime(firewalld, wanted) if firewalld.running else []
    commands = [[*program, *words] for words in permanent] + [["firewall-cmd", *words] for words in runtime]
    placed = SERVICE in zone.get("services", [])
    # A default zone that runtime and permanent configuration do not agree on is firewalld's to settle.
    return Plan(
        commands=tuple(commands),
        before=tuple(f"{name} {port} by service {SERVICE}" for port in sorted(old or []) if placed),
        after=tuple(
            [f"{name} {port} by service {SERVICE}" for port in sorted(wanted)]
            + [f"{name} {port} for SSH" for port in ssh]
        ),
        found=tuple(found),
        closed_ports=tuple(
            Port(port.partition("/")[2], int(port.partition("/")[0]), SERVICE)
            for port in old or []
            if firewalld.running and port.partition("/")[0].isdigit() and port not in wanted and not _admits(zone, port)
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


def _placement(firewalld: Firewalld, wanted: list[str]) -> list[list[str]]:
    """Have our service in the right zone alone, and undefined when it is not needed."""
    commands = []
    for zone, settings in firewalld.permanent.zones.items():
        present = SERVICE in settings.get("services", [])
        if zone == firewalld.zone and wanted and not present:
            commands.append([f"--zone={zone}", f"--add-service={SERVICE}"])
        elif present and not (zone == firewalld.zone and wanted):
            commands.append([f"--zone={zone}", f"--remove-service={SERVICE}"])
    if not wanted and firewalld.permanent.service_ports is not None:
        commands.append([f"--delete-service={SERVICE}"])
    return commands


def _runtime(firewalld: Firewalld, wanted: list[str]) -> list[list[str]]:
    """Bring the running firewall to the same ports."""
    commands = []
    live_ports = firewalld.runtime.service_ports or []
    formerly = {*(firewalld.permanent.service_ports or []), *live_ports}
    for zone, settings in firewalld.runtime.zones.items():
        here = wanted if zone == firewalld.zone else []
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


def _admits(zone: dict[str, list[str]], port: str) -> bool:
    """Whether the zone lets the port in without our service."""
    by_service = port == "22/tcp" and "ssh" in zone.get("services", [])
    return by_service or _has_port(zone, port) or zone.get("target") == ["ACCEPT"]


def _refuse_rich_rules(name: str, zone: dict[str, list[str]], ports: list[Port]) -> None:
    for rule in zone.get("rich rules", []):
        for port in ports:
            about = f'port="{port.port}" protocol="{port.protocol}"' in rule and " source " not in rule
            if about and (rule.endswith(" drop") or " reject" in rule):
                raise FirewallError(
                    f"zone {name} of firewalld has the rich rule '{rule}', which somebody made to keep {port} closed. "
                    f"Remove it, or leave the port out of firewall_ports."
                )
