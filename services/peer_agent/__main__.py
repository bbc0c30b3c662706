# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `peer-relay agent`.

Exit codes: 0 fine, 1 a problem was found, 2 usage or settings, 3 the service does not run.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

from peer_common import journal
from peer_common.journal import BAD_SETTINGS, FINE, NOT_RUNNING, PROBLEM
from peer_common.toml_table import SettingsError

from peer_agent import metrics, settings, status
from peer_agent.service import Service
from peer_agent.settings import Settings
from peer_agent.wireguard.client import WireGuard
from peer_agent.wireguard.helper import Helper

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START


def _run(config: Settings, arguments: argparse.Namespace) -> int:
    journal.begin()
    Service(config, arguments.wireguard).run()
    return FINE


def _wireguard(interface: str) -> int:
    if os.environ.get("LISTEN_FDS") != "1":
        unit = f"peer-agent-wireguard@{interface}.socket"
        print(f"peer-relay agent: only systemd starts this: systemctl start {unit}", file=sys.stderr)
        return BAD_SETTINGS
    journal.begin()
    Helper(WireGuard(interface)).serve(socket.socket(fileno=_FIRST_PASSED))
    return FINE


def _check(config: Settings, _arguments: argparse.Namespace) -> int:
    print(f"{config.file}: fine, {len(config.relays)} relays, {len(config.peers)} devices")
    return FINE


def _status(config: Settings, arguments: argparse.Namespace) -> int:
    try:
        document = status.load(config.status_file)
        age = time.time() - document["updated"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        age = -1.0
    if not 0 <= age < status.STALE:
        fix = f"is the service running? systemctl status peer-agent@{config.interface}"
        print(f"peer-relay agent: {config.status_file} is missing, or old: {fix}", file=sys.stderr)
        return NOT_RUNNING
    if arguments.metrics:
        print(metrics.exposition(document), end="")
    else:
        print(json.dumps(document) if arguments.json else status.text(document))
    return FINE if status.healthy(document) else PROBLEM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="peer-relay agent", description="Chooses the path to every other device.")
    instance = parser.add_mutually_exclusive_group()
    instance.add_argument("--interface", default="pr0", metavar="NAME", help="the WireGuard interface (%(default)s)")
    instance.add_argument("--settings", type=Path, metavar="FILE", help=f"settings ({settings.FOLDER}/INTERFACE.toml)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("run", _run, "choose paths until stopped; they stay as they are then"),
        ("wireguard", _wireguard, "set what `run --wireguard` asks for, with rights over WireGuard"),
        ("check", _check, "check the settings file"),
        ("status", _status, "show the path to every other device"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        if function is _run:
            command.add_argument("--wireguard", default="", metavar="SOCKET", help="have a helper there set endpoints")
        if function is _status:
            form = command.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", help="print JSON")
            form.add_argument("--metrics", action="store_true", help="print Prometheus' text form")
    return parser


def main() -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args()
    file = arguments.settings or settings.FOLDER / f"{arguments.interface}.toml"
    if arguments.function is _wireguard:  # no error in the settings keeps it from its work
        return _wireguard(arguments.interface)
    try:
        return arguments.function(settings.load(file), arguments)
    except SettingsError as error:
        print(f"peer-relay agent: {error}", file=sys.stderr)
        return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
