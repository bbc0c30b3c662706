# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the TCP ports by which a host is reached with SSH."""

from __future__ import annotations

import re

from .plan import CommandError, Run

SERVERS = ("sshd", "dropbear", "tinysshd")


def find_ssh_ports(run: Run, connection_port: int | None) -> list[int]:
    """Ports that an SSH server listens on, or is set up for; none when that cannot be told.

    connection_port: the port that the controller connects to. It may be that of a router which forwards it, so it
    counts only when no server is recognized and something does listen there.
    """
    listeners = _try(run, ["ss", "-Htlnp"])
    ports = listening_ports(listeners, SERVERS)
    ports |= {int(port) for port in re.findall(r"^port (\d+)$", _try(run, ["sshd", "-T"]), re.MULTILINE)}
    for unit in ("ssh.socket", "sshd.socket"):
        ports |= socket_ports(_try(run, ["systemctl", "show", "-p", "ActiveState", "-p", "Listen", unit]))
    if not ports and connection_port in listening_ports(listeners, ()):
        ports = {connection_port}
    return sorted(ports)


def listening_ports(listing: str, programs: tuple[str, ...]) -> set[int]:
    """Ports of `ss -Htlnp` that others can reach; of these programs, if any are given."""
    ports = set()
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) < 5 or fields[0] != "LISTEN":
            continue
        address, _colon, port = fields[3].rpartition(":")
        if address.startswith(("127.", "[::1]")) or not port.isdecimal():
            continue  # such as sshd's own forwarding of X11
        if not programs or any(f'("{program}",' in line for program in programs):
            ports.add(int(port))
    return ports


def socket_ports(properties: str) -> set[int]:
    """Ports of an active socket unit: systemd listens there, and starts the server on demand."""
    if "ActiveState=active" not in properties:
        return set()
    return {int(port) for port in re.findall(r"^Listen=\S*?(\d+) \(Stream\)$", properties, re.MULTILINE)}


def _try(run: Run, argv: list[str]) -> str:
    try:
        return run(argv)
    except CommandError:
        return ""
