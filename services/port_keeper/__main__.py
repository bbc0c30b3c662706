# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `peer-relay-ports`.

Exit codes: 0 fine, 1 a problem was found, 2 usage or settings, 3 the service does not run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from peer_common import journal
from peer_common.journal import BAD_SETTINGS, FINE, NOT_RUNNING, PROBLEM
from peer_common.toml_table import SettingsError

from port_keeper import settings, state, status
from port_keeper.service import Service, release
from port_keeper.settings import Settings


def _run(config: Settings, _arguments: argparse.Namespace) -> int:
    journal.begin()
    Service(config).run()
    return FINE


def _check(config: Settings, _arguments: argparse.Namespace) -> int:
    print(f"{config.file}: fine, {len(config.mappings)} mappings")
    return FINE


def _status(config: Settings, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.wait
    while True:
        try:
            document = state.load(config.status_file)
            if time.monotonic() >= deadline or _answered(document, config):
                break
        except (OSError, ValueError, RecursionError) as error:
            if time.monotonic() >= deadline:
                problem = "missing" if isinstance(error, FileNotFoundError) else f"no status ({error})"
                fix = "is the service running? systemctl status peer-relay-ports"
                print(f"peer-relay-ports: {config.status_file} is {problem}: {fix}", file=sys.stderr)
                return NOT_RUNNING
        time.sleep(0.2)
    print(json.dumps(document) if arguments.json else status.text(document, time.time() - document["updated"]))
    return FINE if status.healthy(document) else PROBLEM


def _answered(document: dict[str, Any], config: Settings) -> bool:
    """Whether the keeper works by the settings that are on disk, and everybody that it asks has answered."""
    return (
        document["loaded"] >= config.file.stat().st_mtime
        and all(mapping["state"] != "pending" for mapping in document["mappings"])
        and bool(not config.stun_server or document["seen_address"] or document["problems"])
    )


def _release(config: Settings, _arguments: argparse.Namespace) -> int:
    problems = release(config)
    for problem in problems:
        print(f"peer-relay-ports: {problem}", file=sys.stderr)
    return PROBLEM if problems else FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="peer-relay-ports", description="Keeps ports open in the router.")
    parser.add_argument("--settings", type=Path, default=settings.DEFAULT_FILE, help="settings file (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("run", _run, "keep the ports open until stopped; they stay open then"),
        ("check", _check, "check the settings file"),
        ("status", _status, "show what the router has opened for the running service"),
        ("release", _release, "close the ports in the router; stop the service first"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        if function is _status:
            command.add_argument("--json", action="store_true", help="print JSON")
            text = "seconds to wait for the router's answers"
            command.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=text)
    return parser


def main() -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args()
    try:
        return arguments.function(settings.load(arguments.settings), arguments)
    except SettingsError as error:
        print(f"peer-relay-ports: {error}", file=sys.stderr)
        return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
