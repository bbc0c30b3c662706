# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""wireguard-go, without starting a process: WireGuard's cross-platform interface, lines of text over a socket."""

from __future__ import annotations

import base64
import functools
import socket
from pathlib import Path

from peer_agent.endpoints import Endpoint
from peer_agent.wireguard.interface import Interface, Malformed, Peer, Unchangeable, make_interface, read_endpoint

_FOLDER = Path("/var/run/wireguard")
_TIMEOUT = 1.0
_NO_KEY = "0" * 64
_NOBODY = "5" * 64  # no [Peer]: nobody has the private key of it
_UNCHANGEABLE = (
    "this WireGuard takes no change of a [Peer], as boringtun, which dies of one: its endpoints are left alone, and "
    "packets take the first relay. Use the kernel's WireGuard or wireguard-go, or set peer_agent: false"
)


class _Refused(OSError):
    """An answer, and it is no."""


class Userspace:
    """One interface; raises OSError when it is not there, or refuses, and Unchangeable before it does harm."""

    def __init__(self, name: str):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(_FOLDER / f"{name}.sock"))
            self._refuse_unchangeable()
        except (OSError, Unchangeable):
            self._socket.close()
            raise

    def show(self) -> Interface:
        return parse(self._ask("get=1\n\n"))

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        self._ask(f"set=1\npublic_key={_hex(public_key)}\nupdate_only=true\nendpoint={endpoint}\n\n")

    def _refuse_unchangeable(self) -> None:
        """Try a change that is none: whoever knows changes of [Peer]s takes it."""
        try:
            self._ask(f"set=1\npublic_key={_NOBODY}\nupdate_only=true\n\n")
        except _Refused:
            raise Unchangeable(_UNCHANGEABLE) from None

    def close(self) -> None:
        self._socket.close()

    def _ask(self, question: str) -> str:
        self._socket.sendall(question.encode())
        parts: list[bytes] = []
        # What follows an answer would be the next one's: each ends with an empty line.
        while not (parts and (parts[-1].endswith(b"\n\n") or b"".join(parts[-2:]).endswith(b"\n\n"))):
            parts.append(self._socket.recv(1 << 16))
            if not parts[-1]:
                raise ConnectionResetError("wireguard-go has closed the connection")
        answer, _, error = b"".join(parts).decode(errors="replace").rpartition("errno=")
        if error != "0\n\n":
            raise _Refused(f"wireguard-go: errno={error.strip():.20}")
        return answer


def parse(answer: str) -> Interface:
    """Read the answer to `get=1`; raise Malformed, without its text: keys."""
    own: dict[str, str] = {}
    peers: list[tuple[dict[str, str], list[str]]] = []
    try:
        for line in answer.splitlines():
            key, value = line.split("=", 1)
            if key == "public_key":
                peers.append(({key: value}, []))
            elif key == "allowed_ip":
                peers[-1][1].append(value)
            elif key != "private_key":
                (peers[-1][0] if peers else own)[key] = value
        found = [_peer(fields, allowed) for fields, allowed in peers]
        return make_interface(
            int(own.get("listen_port", "0")), int(own.get("fwmark", "0")), {peer.public_key: peer for peer in found}
        )
    except (ValueError, KeyError, IndexError):
        raise Malformed("wireguard-go's answer") from None


def _peer(fields: dict[str, str], allowed: list[str]) -> Peer:
    return Peer(
        _base64(fields["public_key"]),
        fields.get("preshared_key", _NO_KEY) != _NO_KEY,
        read_endpoint(fields["endpoint"]) if "endpoint" in fields else None,
        ",".join(allowed),
        int(fields.get("last_handshake_time_sec", "0")),
        int(fields.get("rx_bytes", "0")),
        int(fields.get("tx_bytes", "0")),
        int(fields.get("persistent_keepalive_interval", "0")),
    )


@functools.lru_cache(maxsize=4096)
def _base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()
