# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Setting an endpoint without starting a process: hundreds of times a second where need be.

wireguard-go listens on a socket (the cross-platform interface of WireGuard), the kernel's WireGuard on generic netlink
(linux/wireguard.h).
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from pathlib import Path

from peer_agent.endpoints import Endpoint

_FOLDER = Path("/var/run/wireguard")
_TIMEOUT = 1.0

_NETLINK_GENERIC, _CONTROLLER = 16, 16  # GENL_ID_CTRL
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_SET_DEVICE, _DEVICE_NAME, _DEVICE_PEERS = 1, 2, 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _UPDATE_ONLY = 1, 3, 4, 4
_NESTED, _REQUEST_ACK = 0x8000, 0x5
_HEADER, _GENERIC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_ERROR = 2  # NLMSG_ERROR


class Userspace:
    """wireguard-go."""

    def __init__(self, interface: str):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(_FOLDER / f"{interface}.sock"))
        except OSError:
            self._socket.close()
            raise

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        key = base64.b64decode(public_key).hex()
        self._socket.sendall(f"set=1\npublic_key={key}\nupdate_only=true\nendpoint={endpoint}\n\n".encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            more = self._socket.recv(4096)
            if not more:
                raise ConnectionResetError("wireguard-go has closed the connection")
            answer += more
        if answer != b"errno=0\n\n":
            raise OSError(f"wireguard-go: {answer.decode(errors='replace').strip()}")

    def close(self) -> None:
        self._socket.close()


class Kernel:
    """The kernel's module."""

    def __init__(self, interface: str):
        self._interface = interface
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.bind((0, 0))
            self._family = self._find_family()
        except OSError:
            self._socket.close()
            raise

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        peer = _attribute(_PEER_KEY, base64.b64decode(public_key))
        peer += _attribute(_PEER_FLAGS, struct.pack("=I", _UPDATE_ONLY)) + _attribute(
            _PEER_ENDPOINT, _sockaddr(endpoint)
        )
        attributes = _attribute(_DEVICE_NAME, self._interface.encode() + b"\0")
        attributes += _attribute(_DEVICE_PEERS | _NESTED, _attribute(_NESTED, peer))
        self._ask(self._family, _SET_DEVICE, attributes)

    def _find_family(self) -> int:
        answer = self._ask(_CONTROLLER, _GET_FAMILY, _attribute(_FAMILY_NAME, b"wireguard\0"))
        data = answer[_HEADER.size + _GENERIC.size :]
        while len(data) >= _ATTRIBUTE.size:
            size, kind = _ATTRIBUTE.unpack_from(data)
            if kind == _FAMILY_ID:
                return struct.unpack_from("=H", data, _ATTRIBUTE.size)[0]
            data = data[max(_ATTRIBUTE.size, (size + 3) & ~3) :]
        raise OSError("the kernel tells no number of its WireGuard")

    def _ask(self, family: int, command: int, attributes: bytes) -> bytes:
        """Return what comes before the acknowledgement; raise OSError when that is none."""
        body = _GENERIC.pack(command, 1, 0) + attributes
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST_ACK, 0, 0) + body)
        answer = b""
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                size, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", data, _HEADER.size)
                    if code:
                        raise OSError(-code, "the kernel refuses")
                    return answer
                answer = data[:size]
                data = data[(size + 3) & ~3 :]

    def close(self) -> None:
        self._socket.close()


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def _sockaddr(endpoint: Endpoint) -> bytes:
    address = endpoint.address
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", endpoint.port, address.packed)
    return struct.pack("=H", socket.AF_INET6) + struct.pack(">HI16sI", endpoint.port, 0, address.packed, 0)


def connect(interface: str) -> Userspace | Kernel | None:
    """Return the quick way to WireGuard, or None where there is none."""
    for kind in (Userspace, Kernel):
        with contextlib.suppress(OSError):
            return kind(interface)
    return None
