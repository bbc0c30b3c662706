# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's keys, and what `wg show INTERFACE dump` says."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from ansible_collections.homelab.peer_relay.plugins.module_utils.address import canonical_address, parse_network

NO_KEY = "A" * 43 + "="  # all zeros: WireGuard's word for no key
REJECT_AFTER = 180  # seconds after which a session without a new handshake is dead


_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?")
_SCOPE = re.compile(r"%[A-Za-z0-9_.@:+-]{1,15}(?=]:)")  # of a link-local address: the interface


class WireGuardError(ValueError):
    """Something that WireGuard cannot take, or printed and should not have."""


@dataclass(frozen=True)
class RunningPeer:
    public_key: str
    has_preshared_key: bool
    endpoint: str  # "192.0.2.1:40000", "[2001:db8::1]:40000", or empty
    allowed_ips: frozenset
    latest_handshake: int  # seconds since the epoch, 0 for never
    rx_bytes: int
    tx_bytes: int
    persistent_keepalive: int  # seconds, 0 for off


@dataclass(frozen=True)
class RunningInterface:
    """A dump without its secrets."""

    public_key: str  # empty while the interface has no private key
    listen_port: int
    fwmark: int
    peers: dict  # by public key


def is_key(text: str) -> bool:
    """Whether the text is the one base64 form of 32 bytes."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(key) == 32 and base64.b64encode(key).decode() == text


def parse_dump(text: str) -> RunningInterface:
    """Read `wg show INTERFACE dump` strictly. A line that does not fit is an error, without its text: keys."""
    lines = text.splitlines()
    if not lines:
        raise WireGuardError("wg show dump: printed nothing: is the interface there?")
    fields = _fields(lines, 0, 4)
    # An interface without a private key has no public key.
    public_key = "" if fields[1] == "(none)" else _key(fields[1], 0)
    peers = {}
    for number in range(1, len(lines)):
        peer = _peer(_fields(lines, number, 8), number)
        if peer.public_key in peers:
            raise WireGuardError(f"wg show dump: line {number + 1}: a peer appears twice")
        peers[peer.public_key] = peer
    return RunningInterface(
        public_key=public_key,
        listen_port=_number(fields[2], 0, 65535),
        fwmark=_fwmark(fields[3]),
        peers=peers,
    )


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split host:port; an IPv6 host is in brackets, and an address is returned in its canonical form."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed or not re.fullmatch("[0-9]{1,9}", port):
        raise WireGuardError(
            f"endpoint {text!r} is not host:port: use 192.0.2.1:40000, [2001:db8::1]:40000 or name:40000"
        )
    if not 1 <= int(port) <= 65535:
        raise WireGuardError(f"endpoint {text!r}: port {port} is not between 1 and 65535")
    return parse_host(host), int(port)


def parse_host(text: str) -> str:
    """An address in its canonical form, as `wg` prints it too, or a name."""
    try:
        return canonical_address(text)
    except ValueError:
        if _NAME.fullmatch(text):
            return text
    raise WireGuardError(f"{text[:260]!r} is neither an address nor a name: write 192.0.2.1, 2001:db8::1 or a DNS name")


def format_endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _fields(lines: list, number: int, count: int) -> list:
    fields = lines[number].split("\t")
    if len(fields) != count:
        raise WireGuardError(f"wg show dump: line {number + 1} has {len(fields)} fields, expected {count}")
    return fields


def _peer(fields: list, line: int) -> RunningPeer:
    if fields[2] != "(none)":
        try:
            parse_endpoint(_SCOPE.sub("", fields[2]))
        except WireGuardError as error:
            raise WireGuardError(f"wg show dump: line {line + 1}: {error}") from None
    return RunningPeer(
        public_key=_key(fields[0], line),
        has_preshared_key=fields[1] != "(none)",
        endpoint="" if fields[2] == "(none)" else fields[2],
        allowed_ips=frozenset() if fields[3] == "(none)" else frozenset(_prefix(p, line) for p in fields[3].split(",")),
        latest_handshake=_number(fields[4], line, 2**63),
        rx_bytes=_number(fields[5], line, 2**64),
        tx_bytes=_number(fields[6], line, 2**64),
        persistent_keepalive=0 if fields[7] == "off" else _number(fields[7], line, 65535),
    )


def _key(text: str, line: int) -> str:
    if not is_key(text):
        raise WireGuardError(f"wg show dump: line {line + 1}: a public key is not 32 bytes of base64")
    return text


def _number(text: str, line: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > most:
        raise WireGuardError(f"wg show dump: line {line + 1}: {text[:40]!r} is not a number from 0 to {most}")
    return int(text)


def _fwmark(text: str) -> int:
    if text == "off":
        return 0
    try:
        return int(text, 16)
    except ValueError:
        raise WireGuardError(f"wg show dump: line 1: fwmark {text[:40]!r} is not a hexadecimal number") from None


def _prefix(text: str, line: int) -> str:
    try:
        return str(parse_network(text))
    except ValueError:
        raise WireGuardError(f"wg show dump: line {line + 1}: {text[:60]!r} is not a network") from None
