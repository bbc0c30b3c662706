# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay reads beside datagrams, by grammar: its state, its settings, the keeper's file, requests over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from peer_common.toml_table import SettingsError
from peer_relay import addresses, settings, state
from peer_relay.slices import finish
from peer_relay.status import document as status_document
from peer_relay.status import router as router_status
from peer_relay.status import server as status_server
from peer_relay.status.document import encode_key
from peer_relay.status.snapshots import Snapshot
from relay_world import World, at, check_consistency

from targets.choices import Choices
from targets.disk import file
from targets.grammar import Hostile
from targets.keeper_files import ROUTER_STATUS, STATUS_HEAD, keeper_status
from targets.network import WORLD
from targets.target import Target
from targets.upgrade import request

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-relay-"))
_HEX = ["", "0", "zz", "٣٣", " 00", "00 ", "f" * 5000, "\ud800", "é0"]
_TIMES = [0, 1.5, 299.9, 3600, 3600.1, -0.1, float("nan"), float("inf"), 10**400, "1", True, None, [], 1e308]
_INDEXES = [0, 1, 7, 2**32 - 1, 2**32, -1, 1.5, "5", "٣", True, None, float("nan"), 10**400, {}]
_TIMESTAMPS = [
    bytes(12),
    b"\x40".ljust(12, b"\0"),
    b"\x7f" + b"\xff" * 11,
    b"\x80" + bytes(11),
    b"\xff" * 12,
    bytes(11),
]


def _write(name: str, content: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(content)
    return path


# --- the state --------------------------------------------------------------------------------------------------------


def _binding(choices: Hostile) -> Any:
    rule = choices.number(6)
    if rule == 0:
        return None
    address = choices.address()
    local = choices.of([bytes([198, 51, 100, 1]), b"", bytes(16), bytes(5)]).hex()
    if rule == 1:
        return [choices.of(_HEX), local]
    if rule == 2:
        return choices.value(1)
    packed = addresses.join(address.packed, choices.of([51820, 40000, 0, 1]))
    if rule == 3 and len(packed) == addresses.V6_SIZE:  # with a scope
        packed = packed[:-4] + choices.bytes(4)
    elif rule == 4:  # of another family than its size says
        packed = choices.bytes(2) + packed[2:]
    return [packed.hex(), local]


def relay_state(data: bytes) -> None:
    """A state that was written by somebody who means harm: taken over as a whole or not at all, and the relay runs."""
    choices, world = Hostile(data), World()
    names = [world.add(name, at(f"192.0.2.{number}")) for number, name in enumerate("abc", 1)]
    keys = [device.identity.public.hex() for device in names]
    timestamp = choices.of(_TIMESTAMPS).hex() if choices.number(4) == 0 else bytes(12).hex()
    devices: dict[str, Any] = {}
    for _ in range(choices.number(5)):
        key = choices.of([*keys, *keys, "ab" * 32, *_HEX])
        routes = [
            [
                choices.of(_INDEXES) if choices.number(4) == 0 else choices.number(9),
                choices.of(_HEX) if choices.number(8) == 0 else choices.of(keys),
                choices.of(_TIMES) if choices.number(4) == 0 else 250.0,
            ]
            for _ in range(choices.number(12))
        ]
        devices[key] = {
            "binding": _binding(choices),
            "timestamp": choices.of(_TIMESTAMPS).hex(),
            "routes": routes if choices.number(8) else choices.value(),
        }
    wall = choices.of([world.wall, world.wall, world.wall + 1e6, *_TIMES])
    content = choices.json({"format": state.FORMAT, "wall": wall, "timestamp": timestamp, "devices": devices})
    saved, problem = state.read(_write("state.json", content))
    assert problem is None or problem.isprintable(), problem
    if saved is not None:
        before = state.export(world.switchboard, world.now, world.wall)
        try:
            state.restore(world.switchboard, saved, world.now)
        except state.StateError:
            assert state.export(world.switchboard, world.now, world.wall) == before
            raise
    world.restart()
    check_consistency(world.switchboard)
    for device in names:
        device.connect()
    world.wait(400)
    check_consistency(world.switchboard)
    assert not world.switchboard._indexes


# --- the settings -----------------------------------------------------------------------------------------------------

_KEYS = ["AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=", "A" * 43 + "=", "/" * 42 + "8=", "A" * 44, "", "é" * 44]
_NAMES = ["ann", "bob", "ann", "", "\ud800", "a b", "\n", "\u202e", "x" * 300, "relay"]
_NETWORKS = [
    "10.77.0.0/16",
    "fd77:7065:6572::/64",
    "::ffff:0:0/96",
    "224.0.0.0/4",
    "0.0.0.0/0",
    "10.77.0.1/16",
    "",
    "x",
]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "1979-05-27T07:32:00Z"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def _table(choices: Hostile, table: dict[str, Any]) -> str:
    for key in list(table):
        rule = choices.number(10)
        if rule == 0:
            table[key] = choices.value()
        elif rule == 1:
            del table[key]
    if choices.number(12) == 0:
        table[choices.of(["unknown", "", "\ud800", "name.x", "__class__"])] = choices.value(1)
    return "".join(f"{key if key.isidentifier() else json.dumps(key)} = {_toml(item)}\n" for key, item in table.items())


def relay_reload(data: bytes) -> None:
    """New settings for a relay that runs: refused with a line that names the fix, or taken over."""
    choices, world = Hostile(data), World()
    ann, bob = (world.add(name, at(f"192.0.2.{number}")).connect() for number, name in enumerate(("ann", "bob"), 1))
    ann.shake_hands(bob)
    keys = [encode_key(device.identity.public) for device in (ann, bob)]
    text = "[relay]\n" + _table(
        choices,
        {
            "name": choices.of(_NAMES),
            "listen_port": choices.of([40000, 0, 65536, -1, True]),
            "listen_addresses": [str(choices.address()) for _ in range(choices.number(4))] or ["0.0.0.0", "::"],
            "private_key_file": "/etc/peer-relay/private.key",
            "networks": [choices.of(_NETWORKS) for _ in range(1 + choices.number(3))],
            "addresses": ["10.77.0.1", *(str(choices.address()) for _ in range(choices.number(3)))],
            "state_file": "/var/lib/peer-relay/state.json",
            "status_socket": choices.of(["/run/peer-relay/status.sock", "x" * 300, "\0"]),
            "metrics_listen": choices.of(["", choices.endpoint()]),
        },
    )
    for _ in range(choices.number(5)):
        text += "[[device]]\n" + _table(
            choices,
            {
                "name": choices.of(_NAMES),
                "public_key": choices.of([*keys, *_KEYS]),
                "addresses": choices.of([["10.77.1.2"], ["fd77:7065:6572::2"], [choices.endpoint()], []]),
                "groups": choices.of([["default"], [], ["\ud800"], ["a", "a"]]),
                "rate_limit_mbit": choices.of([0, 2.5, 1e-300, 1e300, -1, float("nan"), float("inf"), True]),
            },
        )
    try:
        config = settings.load(file("relay.toml", text.encode(errors="surrogatepass")))
    except SettingsError as error:
        assert "\n" not in str(error), repr(str(error))
        raise
    world.switchboard.own.addresses = config.addresses
    world.switchboard.expect_relays(config.relay_ports)
    world.switchboard.apply(config.devices)
    check_consistency(world.switchboard)
    for device in (ann, bob):
        device.keepalive()
    ann.send(ann.transport(bob, bytes(100)))
    world.wait(3)
    check_consistency(world.switchboard)


# --- the keeper's file ------------------------------------------------------------------------------------------------


def relay_edge(data: bytes) -> None:
    """What it tells is refused with one line, or every reader of the status can say it."""
    choices = Hostile(data)
    document = json.loads(json.dumps(ROUTER_STATUS))
    mapping = document["mappings"][0]
    for table in (document, mapping, document["router"]):
        for key in table:
            if choices.number(6) == 0:
                table[key] = choices.of([choices.value(), choices.endpoint(), choices.endpoint().rpartition(":")[0]])
    if isinstance(document["mappings"], list):
        document["mappings"] *= 1 + choices.number(3)
    content = choices.json(document)
    told, problem = router_status.read(_write("router_status.json", content), time.time())
    for text in [problem or "", *(told["problems"] if told else [])]:
        assert text.isprintable(), repr(text)
        assert len(text) < 5000
    if told is not None:
        keeper_status(content)


# --- requests over HTTP -----------------------------------------------------------------------------------------------

_PATHS = [b"/status", b"/metrics", b"/healthz", b"/status?x=%ff", b"//status", b"/\x00", b"*", b"http://[::1/status"]
_SNAPSHOT = Snapshot(
    STATUS_HEAD | finish(status_document.traffic(WORLD.switchboard, WORLD.now, lambda *_: "")) | {"edge": None}, dict
)
_SERVER = SimpleNamespace(status=lambda: _SNAPSHOT, health=lambda: _SNAPSHOT)


def relay_http(data: bytes) -> None:
    """Whatever is asked, the answer is one of HTTP's or none; the server takes nothing else for an error than this."""
    choices = Choices(data)
    asked = request(choices)
    if choices.number(2):
        asked = (
            choices.of([b"GET", b"HEAD", b"POST", b"do_GET"])
            + b" "
            + choices.of(_PATHS)
            + asked[asked.find(b" HTTP") :]
        )
    client, served = socket.socketpair()
    with client, served:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.send(asked)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):  # the server's own rule: a client that goes away is not the relay's error
            status_server._Handler(served, "", _SERVER)
        served.close()
        answer = b""
        with contextlib.suppress(OSError):
            while part := client.recv(1 << 16):
                answer += part
    if answer.startswith(b"HTTP/"):
        status = answer.split(b"\r\n", 1)[0]
        assert status.split()[1] in {b"200", b"400", b"404", b"414", b"431", b"501", b"503", b"505"}, status
        head = answer.split(b"\r\n\r\n", 1)[0]
        assert all(b"\n" not in line and b": " in line for line in head.split(b"\r\n")[1:]), head


_SEEDS = [bytes(60), *(bytes(range(start, start + 60)) for start in range(0, 190, 20)), bytes(range(40)) * 8]
TARGETS = {
    "relay_state": Target(relay_state, (state.StateError,), _SEEDS),
    "relay_reload": Target(relay_reload, (SettingsError,), _SEEDS),
    "relay_edge": Target(relay_edge, (router_status.EdgeError,), _SEEDS),
    "relay_http": Target(relay_http, (), _SEEDS),
}
