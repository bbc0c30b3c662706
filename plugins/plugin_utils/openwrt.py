# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwards as sections of OpenWrt's /etc/config/firewall, and what to do so that exactly these are there."""

from __future__ import annotations

import json
import re
import shlex
from typing import NamedTuple

from ansible_collections.homelab.peer_relay.plugins.module_utils.address import canonical_address, parse_address
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import one_line

from .port_specs import covers, has_protocol

PREFIX = "peer_relay_"
_SECTION = re.compile(r"firewall\.(@?[A-Za-z0-9_]+(?:\[\d+\])?)=([A-Za-z0-9_]+)")
_OPTION = re.compile(r"firewall\.(@?[A-Za-z0-9_]+(?:\[\d+\])?)\.([A-Za-z0-9_]+)=(.*)")


class OpenwrtError(Exception):
    """The router is not as it has to be; the message has the fix."""


class Section(NamedTuple):
    type: str
    options: dict[str, str]

    def lines(self, name: str) -> list[str]:
        """The section as `uci show` prints it."""
        options = (f"firewall.{name}.{key}='{value}'" for key, value in self.options.items())
        return [f"firewall.{name}={self.type}", *options]

    def commands(self, name: str) -> list[str]:
        """What makes the section."""
        options = (shlex.quote(one_line(f"firewall.{name}.{key}={value}")) for key, value in self.options.items())
        return [
            f"uci set {assignment}" for assignment in (shlex.quote(one_line(f"firewall.{name}={self.type}")), *options)
        ]


class Plan(NamedTuple):
    before: list[str]
    after: list[str]
    commands: list[str]


def read_sections(text: str) -> dict[str, Section]:
    """The sections that `uci show firewall` printed. A list's values are joined by blanks."""
    sections: dict[str, Section] = {}
    for line in text.splitlines():
        if found := _SECTION.fullmatch(line):
            sections[found[1]] = Section(found[2], {})
        elif (found := _OPTION.fullmatch(line)) and found[1] in sections:
            try:
                sections[found[1]].options[found[2]] = " ".join(shlex.split(found[3]))
            except ValueError:  # a value of several lines, which is none of ours
                continue
    return sections


def own_sections(there: dict[str, Section]) -> dict[str, Section]:
    return {name: section for name, section in there.items() if name.startswith(PREFIX)}


def wanted_sections(forwards, address, address6, wan, lan, hairpin) -> dict[str, Section]:
    sections = {}
    for family, destination in (("ipv4", address), ("ipv6", address6)):
        if any(family in forward["families"] for forward in forwards):
            _check_address(family, destination)
    for forward in forwards:
        common = {
            "name": f"homelab.peer_relay: {forward['name']}",
            "src": wan,
            "dest": lan,
            "proto": forward["protocol"],
        }
        if "ipv4" in forward["families"]:
            sections[f"{PREFIX}redirect_{forward['name']}"] = Section(
                "redirect",
                {
                    **common,
                    "family": "ipv4",
                    "src_dport": str(forward["external_port"]),
                    "dest_ip": address,
                    "dest_port": str(forward["port"]),
                    "reflection": "1" if hairpin else "0",
                    "target": "DNAT",
                },
            )
        if "ipv6" in forward["families"]:
            sections[f"{PREFIX}rule_{forward['name']}"] = Section(
                "rule",
                {
                    **common,
                    "family": "ipv6",
                    "dest_ip": address6,
                    "dest_port": str(forward["port"]),
                    "target": "ACCEPT",
                },
            )
    return sections


def _check_address(family: str, text: str) -> None:
    try:
        found = f"ipv{parse_address(text).version}"
    except ValueError:
        found = ""
    if found != family:
        raise OpenwrtError(f"the host's address '{text}' is no {family} address")


def make_plan(there: dict[str, Section], wanted: dict[str, Section]) -> Plan:
    ours = own_sections(there)
    commands = [f"uci delete firewall.{name}" for name in ours if ours[name] != wanted.get(name)]
    for name, section in wanted.items():
        if section != ours.get(name):
            commands += section.commands(name)
    return Plan(_lines(ours), _lines(wanted), commands)


def _lines(sections: dict[str, Section]) -> list[str]:
    return [line for name, section in sorted(sections.items()) for line in section.lines(name)]


def refuse_what_does_not_fit(there, wanted, wan, lan) -> None:
    """Raise OpenwrtError when a zone is missing, or somebody else has the port."""
    zones = {section.options.get("name", "") for section in there.values() if section.type == "zone"}
    for option, zone in (("wan", wan), ("lan", lan)):
        if zone not in zones:
            raise OpenwrtError(
                f"the router's firewall has no zone '{zone}', but {', '.join(sorted(zones)) or 'none at all'}: "
                f"set port_forward_openwrt_{option}"
            )
    for name, other in there.items():
        if other.type != "redirect" or name.startswith(PREFIX) or not _is_on(other):
            continue
        for section in wanted.values():
            if section.type == "redirect" and _same_port(other.options, section.options):
                raise OpenwrtError(
                    f"the router's redirect '{other.options.get('name', name)}' already sends "
                    f"{section.options['src_dport']}/{section.options['proto']} to "
                    f"{other.options.get('dest_ip', 'itself')}: "
                    f"remove it there, or give the forward another external_port"
                )


def _is_on(section: Section) -> bool:
    target = section.options.get("target", "DNAT").upper()
    return target == "DNAT" and section.options.get("enabled", "1") not in ("0", "no", "off", "false", "disabled")


def _same_port(other, wanted) -> bool:
    if other.get("src", "*") not in ("*", wanted["src"]):
        return False
    protocols = other.get("proto", "tcp udp").replace("tcpudp", "tcp udp").split()
    if not any(has_protocol(protocol, wanted["proto"]) for protocol in protocols):
        return False
    ports = other.get("src_dport", "").replace("! ", "!").split() or [""]
    return any(covers(part, int(wanted["src_dport"])) for part in ports)


def external_address(there: dict[str, Section], interfaces: str, wan: str) -> str:
    """The IPv4 address of an interface of the zone that is up, by `ubus call network.interface dump`; empty if none."""
    try:
        dump = json.loads(interfaces)["interface"]
        addresses = {
            str(entry["interface"]): [str(item["address"]) for item in entry.get("ipv4-address", [])]
            for entry in dump
            if entry.get("up")
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OpenwrtError(f"'ubus call network.interface dump' printed no list of interfaces: {error!r}") from error
    zones = [section for section in there.values() if section.type == "zone" and section.options.get("name") == wan]
    for interface in [name for zone in zones for name in zone.options.get("network", "").split()]:
        if addresses.get(interface):
            return _canonical(addresses[interface][0], interface)
    return ""


def _canonical(text: str, interface: str) -> str:
    try:
        return canonical_address(text)
    except ValueError as error:
        raise OpenwrtError(
            f"of the router's interface {interface!r:.40}, the address {error}. Nothing "
            "of it is used. Bring the router up to date, or set relay_endpoint and port_forward_backend to manual"
        ) from None
