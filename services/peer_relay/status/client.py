# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a running relay for its status, over the Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_MAX_SIZE = 64 << 20


class Unreachable(Exception):
    """The service does not answer, or not with a status document."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def fetch(unix: Path, timeout: float = 10.0) -> dict[str, Any]:
    """Return the status document; raise Unreachable with the fix."""
    connection = _UnixConnection(unix, timeout)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read(_MAX_SIZE)
    except PermissionError as error:
        raise Unreachable(f"{unix}: {error.strerror}: run as root or as a member of the group peer-relay") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{unix}: {error}: is the service running? systemctl status peer-relay") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise Unreachable(f"{unix}: answered {answer.status} {body[:200]!r}: is it the socket of peer-relay?")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"{unix}: answered something that is not JSON: is it the socket of peer-relay?") from error
    if not isinstance(document, dict) or "devices" not in document:
        raise Unreachable(f"{unix}: answered {body[:100]!r}, no status: is it the socket of peer-relay?")
    return document
