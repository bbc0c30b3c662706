# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `peer-relay`.

Exit codes: 0 fine, 1 a problem was found, 2 usage or settings, 3 the service does not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peer_common import journal
from peer_common.journal import BAD_SETTINGS, FINE, NOT_RUNNING, PROBLEM
from peer_common.toml_table import SettingsError

from peer_relay import __version__, endpoints, settings
from peer_relay.core import probe
from peer_relay.dataplane.kernel.plane import FOLDER
from peer_relay.dataplane.kernel.table import KernelTable
from peer_relay.service import Service, StartError
from peer_relay.status import client as status_client
from peer_relay.status import doctor as status_doctor
from peer_relay.status import document as status_document
from peer_relay.status import text as status_text
from peer_relay.wireguard import noise


def _run(arguments: argparse.Namespace) -> int:
    journal.begin()
    Service(settings.load(arguments.settings)).run()
    return FINE


def _check(arguments: argparse.Namespace) -> int:
    config = settings.load(arguments.settings)
    devices = [
        {
            "name": device.name,
            "public_key": status_document.encode_key(device.public_key),
            "addresses": [str(address) for address in device.addresses],
            "groups": sorted(device.groups),
        }
        for device in config.devices
    ]
    if arguments.json:
        print(json.dumps({"settings_file": str(config.file), "name": config.name, "devices": devices}))
    else:
        print(f"{config.file}: fine, {len(devices)} devices")
    return FINE


def _fetch(arguments: argparse.Namespace) -> dict[str, Any]:
    return status_client.fetch(settings.load(arguments.settings).status_socket)


def _status(arguments: argparse.Namespace) -> int:
    status = _fetch(arguments)
    print(json.dumps(status) if arguments.json else status_text.status(status, arguments.pairs))
    return FINE if status["healthy"] else PROBLEM


def _doctor(arguments: argparse.Namespace) -> int:
    status = _fetch(arguments)
    found, remarks = status_doctor.findings(status), status_doctor.remarks(status)
    if arguments.json:
        print(json.dumps({"findings": [finding.document() for finding in found], "remarks": remarks}))
    else:
        for finding in found:
            print(f"{finding.subject}: {finding.problem}: {finding.fix}")
        if not found:
            print("nothing is wrong")
        for remark in remarks:
            print(f"by the way: {remark}")
    return PROBLEM if found else FINE


def _keygen(arguments: argparse.Namespace) -> int:
    file: Path = arguments.file
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        pass  # an existing key is never replaced: devices know it
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}: create its directory, or run as root") from error
    else:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(status_document.encode_key(noise.generate_private_key()) + "\n")
    print(status_document.encode_key(noise.public_key(settings.read_private_key(file))))
    return FINE


def _probe(arguments: argparse.Namespace) -> int:
    """Make probes; the running service answers each of them once, as long as it has the same key."""
    config = settings.load(arguments.settings)
    identity = noise.Identity(settings.read_private_key(config.private_key_file))
    initiations = [probe.make(identity, time.time()).hex() for _ in range(arguments.count)]
    if arguments.json:
        own = endpoints.own(config)
        document = {
            "public_key": status_document.encode_key(identity.public),
            "endpoint": config.public_endpoint or None,
            "own_endpoints": own,
            "inner_endpoint": endpoints.inner(own, config.public_endpoint),
            "initiations": initiations,
        }
        print(json.dumps(document))
    else:
        print("\n".join(initiations))
    return FINE


def _unload(arguments: argparse.Namespace) -> int:
    """End what the kernel forwards: a service that has stopped leaves it running."""
    folder = settings.load(arguments.settings).bpf_directory / FOLDER
    try:
        KernelTable.destroy_pinned(folder)
    except OSError as error:
        print(f"peer-relay: {error.filename or folder}: {error.strerror}: run it as root", file=sys.stderr)
        return PROBLEM
    return FINE


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= probe.MAX_PROBES:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and {probe.MAX_PROBES}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="peer-relay", description="A relay for stock WireGuard devices.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--settings", type=Path, default=settings.DEFAULT_FILE, metavar="FILE", help="settings file (%(default)s)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text, has_json in (
        ("run", _run, "forward until stopped", False),
        ("check", _check, "check the settings file", True),
        ("status", _status, "show what the running service does, what is not well, devices and drops", True),
        ("doctor", _doctor, "say what is wrong, and what to do", True),
        ("unload", _unload, "end what the kernel forwards, which a stopped service leaves running", False),
        ("probe", _probe, "make initiations that prove, sent from anywhere, that this relay is reached", True),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        if has_json:
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "status":
            command.add_argument("--pairs", action="store_true", help="show each pair (JSON always has them)")
        if name == "probe":
            command.add_argument("--count", type=_count, default=1, help="how many (%(default)s)")
    keygen = commands.add_parser("keygen", help="make a private key unless there is one; print the public key")
    keygen.add_argument("file", type=Path, help="where the private key is, or is to be")
    keygen.set_defaults(function=_keygen)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.function(arguments)
    except (SettingsError, StartError) as error:
        print(f"peer-relay: {error}", file=sys.stderr)
        return BAD_SETTINGS
    except status_client.Unreachable as error:
        print(f"peer-relay: {error}", file=sys.stderr)
        return NOT_RUNNING
