# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nonce that makes a mapping of PCP this host's own."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ..mapping import MappingError

MACHINE_ID = Path("/etc/machine-id")
_APPLICATION = b"homelab.peer_relay.port_mapping"
_SIZE = 12


def of_mapping(protocol: str, internal_port: int, machine_id_file: Path = MACHINE_ID) -> bytes:
    """Return the same nonce for the same mapping, for every program of this collection on this host.

    A mapping can only be renewed or deleted with the nonce that it was made with. One that is derived need not be kept
    anywhere, so that no lost file locks this host out. The machine id is not told to the network: only what it keys.
    """
    try:
        machine_id = machine_id_file.read_bytes().strip()
    except OSError as error:
        raise MappingError(f"{machine_id_file}: {error.strerror}: run systemd-machine-id-setup") from error
    if not machine_id:
        raise MappingError(f"{machine_id_file} is empty: run systemd-machine-id-setup")
    message = b"\0".join([_APPLICATION, protocol.encode(), str(internal_port).encode()])
    return hmac.digest(machine_id, message, hashlib.sha256)[:_SIZE]
