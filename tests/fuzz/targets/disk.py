# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay's files, and what answers on its status socket."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

from peer_common.toml_table import SettingsError
from peer_relay import settings, state
from peer_relay.status import client as status_client
from relay_world import World, at, check_consistency

from targets.network import WORLD
from targets.target import JSON_WORDS, TOML_WORDS, Target


class _File(str):
    """A file whose content is the input."""

    data: bytes

    def read_bytes(self) -> bytes:
        return self.data

    def open(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)

    def with_name(self, name: str) -> _File:
        return _File(name)

    def replace(self, *_: object) -> None:
        """Keeping a broken file aside."""

    @property
    def name(self) -> str:
        return str(self)

    @property
    def stem(self) -> str:
        return self.partition(".")[0]


def file(name: str, data: bytes) -> _File:
    made = _File(name)
    made.data = data
    return made


def settings_toml(data: bytes) -> None:
    settings.load(file("relay.toml", data))


SETTINGS = b"""[relay]
name = "relay"
listen_port = 40000
listen_addresses = ["0.0.0.0", "::"]
private_key_file = "/etc/peer-relay/private.key"
networks = ["10.77.0.0/16", "fd77:7065:6572::/64"]
addresses = ["10.77.0.1", "fd77:7065:6572::1"]
state_file = "/var/lib/peer-relay/state.json"
status_socket = "/run/peer-relay/status.sock"
metrics_listen = "[::1]:9586"
[[device]]
name = "laptop"
public_key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
addresses = ["10.77.12.34", "fd77:7065:6572::a:b"]
groups = ["default"]
rate_limit_mbit = 2.5
"""


def state_json(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        path.write_bytes(data)
        saved, _problem = state.read(path)
    world = World()
    world.add("a", at("192.0.2.1"))
    world.add("b", at("192.0.2.2"))
    if saved is not None:
        try:
            state.restore(world.switchboard, saved, world.now)
        finally:
            world.wait(6)
            check_consistency(world.switchboard)


def status_body(data: bytes) -> None:
    """What answers on the status socket."""
    connection = SimpleNamespace(makefile=lambda *_: io.BytesIO(data), sendall=len, close=int)

    def connect(self: status_client._UnixConnection) -> None:
        self.sock = connection

    status_client._UnixConnection.connect = connect
    document = status_client.fetch(Path("/run/status.sock"))
    assert isinstance(document, dict)


STATUS = {"version": "1.0.0", "name": "relay", "healthy": True, "devices": [], "pairs": [], "drops": {}}

_SAVED = json.dumps(state.export(WORLD.switchboard, WORLD.now, WORLD.wall)).encode()
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_BODY = json.dumps(STATUS).encode()

TARGETS = {
    "settings": Target(
        settings_toml,
        (SettingsError,),
        [SETTINGS],
        [b"%eth0", *TOML_WORDS],
    ),
    "state": Target(state_json, (state.StateError,), [_SAVED], JSON_WORDS),
    "status": Target(
        status_body,
        (status_client.Unreachable,),
        [_HTTP % (len(_BODY), _BODY), _HTTP % (2, b"[]"), b"HTTP/1.1 503 no\r\n\r\nproblem", b""],
        [b"\r\n", b"Transfer-Encoding: chunked\r\n", *JSON_WORDS],
    ),
}
