# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an interface's wg-quick file has set up beside the interface, and whether it is all there.

The file's PostUp commands are what puts a thing back, as they have put it there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

FOLDER = Path("/etc/wireguard")
HOOK = re.compile(r"\s*PostUp\s*=\s*(.*)", re.IGNORECASE)
RULE = re.compile(r"ip -([46]) rule add priority (\d+)(?: iif (\S+))? ")
ROUTE = re.compile(r"ip -([46]) route replace (\S+) dev (\S+) (?:table (\d+))?")
FILTER = re.compile(r"nft --file (\S+)")
FORWARD = re.compile(r"(ip6?tables(?:-nft|-legacy)?) -w -I (FORWARD .*)")


class Reconciler:
    """Of one interface."""

    def __init__(self, interface: str):
        self.interface = interface
        self.table = ""  # as nft lists it right after it was loaded
        self.table_file: int | None = None  # when its file was changed

    def put_back(self) -> list[str]:
        """Put back what is missing and return its names, for people; raise CalledProcessError when that fails."""
        done = []
        with _Locked():
            for command in self._hooks():
                name = self._missing(command)
                if name:
                    _run("bash", "-c", command).check_returncode()
                    done.append(name)
                if name and FILTER.search(command):
                    self.table = self._listing()
        return done

    def _hooks(self) -> list[str]:
        try:
            text = (FOLDER / f"{self.interface}.conf").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        found = (HOOK.fullmatch(line) for line in text.splitlines())
        return [hook[1].replace("%i", self.interface) for hook in found if hook]

    def _missing(self, command: str) -> str:
        """Return the name of what the command sets up, when that is not there; else ""."""
        if found := RULE.search(command):
            version, priority, interface = found[1], int(found[2]), found[3] or ""
            rules = _ask("ip", "-j", f"-{version}", "rule", "show", "priority", str(priority))
            there = any(rule.get("iif", "") == interface for rule in rules)
            return "" if there else f"IPv{version} rule {priority}"
        if found := ROUTE.search(command):
            version, prefix, device, table = found.groups()
            if device not in (name for _index, name in socket.if_nameindex()):
                return ""  # it has to come back itself
            where = ("exact", prefix, "table", table or "main", "dev", device)
            routes = _ask("ip", "-j", f"-{version}", "route", "show", *where)
            return "" if routes else f"route {prefix} dev {device}"
        if found := FILTER.search(command):
            return "" if self._is_loaded(Path(found[1])) else f"table inet {self.interface}"
        if found := FORWARD.search(command):
            there = _run(found[1], "-w", "-C", *shlex.split(found[2])).returncode == 0
            return "" if there else f"rule of {found[1]}, {found[2]}"
        return ""

    def _is_loaded(self, file: Path) -> bool:
        listing, changed = self._listing(), file.stat().st_mtime_ns
        if changed != self.table_file:
            # Not believed but loaded: somebody may have been at the table before the first look.
            _run("nft", "--file", str(file)).check_returncode()
            self.table, self.table_file = self._listing(), changed
        return bool(listing) and listing == self.table

    def _listing(self) -> str:
        return _run("nft", "--stateless", "list", "table", "inet", self.interface).stdout


def _ask(*argv: str) -> list[dict]:
    # A table without routes does not exist: ip fails, with half a list.
    done = _run(*argv)
    return json.loads(done.stdout or "[]") if done.returncode == 0 else []


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=False, capture_output=True, text=True)  # noqa: S603


class _Locked:
    """While the collection's module changes the interface, its file is not yet what is to be."""

    def __enter__(self) -> None:
        self.descriptor = os.open(FOLDER, os.O_RDONLY)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_error: object) -> None:
        os.close(self.descriptor)
