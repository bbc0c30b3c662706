# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of a name, also while the tunnel is dead: what brings it back must not depend on it.

With an exit node, and where a resolver at home is used, this host's own look-up goes through the tunnel. Hence a second
one, past the tunnel: with the mark of WireGuard's packets, at the resolvers that the network has told.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from peer_agent.endpoints import Endpoint

MAX_ADDRESSES = 16  # addresses of one name
_OWN_WAY = 1.0  # seconds that the host's own look-up has, before another is made beside it
_ANSWER, _ALL = 1.0, 4.0  # seconds for one answer, and for all
_MAX_SERVERS = 6
_PORT = 53
_SIZE = 4096
# Resolvers that the network has told, as systemd-resolved, resolvconf and NetworkManager keep them. What stands in
# /etc/resolv.conf may be a stub of this host, or the tunnel's.
_FILES = (
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/resolvconf/interfaces/*",
    "run/resolvconf/interface/*",
    "etc/resolv.conf.bak",  # of before openresolv wrote it
    "etc/resolv.conf",
)
_SERVER = re.compile(r"^nameserver\s+(\S{1,64})", re.MULTILINE)

_running: dict[tuple[str, int], threading.Thread] = {}  # look-ups of the host's own, which nothing can end


def look_up(host: str, port: int, mark: int, root: Path = Path("/")) -> list[Endpoint]:
    """Return the endpoints of a name, in the order of preference; none when nobody knows it. It takes up to 5 s.

    `mark` is that of WireGuard's packets; 0 where none has one.
    """
    found: list[list[Endpoint]] = []
    if (host, port) not in _running:
        own = threading.Thread(target=_own_way, args=(host, port, found.append), name="resolver", daemon=True)
        _running[host, port] = own
        own.start()
        own.join(_OWN_WAY)
    if not any(found):
        found.append(_past_the_tunnel(host, port, mark, root))
    return next((endpoints for endpoints in found if endpoints), [])


def _own_way(host: str, port: int, tell: Callable[[list[Endpoint]], None]) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        tell(list(_endpoints((str(address[0]), port) for *_, address in found)))
    except (OSError, UnicodeError):
        pass
    finally:
        del _running[host, port]


def _endpoints(places: Iterable[tuple[str, int]]) -> Iterator[Endpoint]:
    for host, port in list(dict.fromkeys(places))[:MAX_ADDRESSES]:
        with contextlib.suppress(ValueError):  # a link-local address
            yield Endpoint.of(host, port)


def servers(root: Path) -> list[str]:
    """Return the resolvers that the network has told, without this host's own."""
    found: dict[str, None] = {}
    for pattern in _FILES:
        for file in sorted(root.glob(pattern)):
            with contextlib.suppress(OSError, UnicodeError):
                found |= dict.fromkeys(_SERVER.findall(file.read_text()))
    return [server for server in found if _is_elsewhere(server)][:_MAX_SERVERS]


def _is_elsewhere(server: str) -> bool:
    with contextlib.suppress(ValueError):
        address = ip_address(server)
        return not (address.is_loopback or address.is_unspecified or address.is_multicast or "%" in server)
    return False


def _past_the_tunnel(host: str, port: int, mark: int, root: Path) -> list[Endpoint]:
    if "." not in host.rstrip("."):
        return []  # a name of the local network, or of a search list
    end = time.monotonic() + _ALL
    for server in servers(root):
        found: list[str] = []
        for kind in ("A", "AAAA"):
            if time.monotonic() < end:
                with contextlib.suppress(OSError):
                    found += _ask(server, host, kind, mark)
        if found:
            return list(_endpoints((address, port) for address in found))
    return []


def _ask(server: str, host: str, kind: str, mark: int) -> list[str]:
    """Return the addresses that a resolver tells; raise OSError when it does not answer, or with anything else."""
    import dnslib  # in the thread of a look-up that nobody waits for

    try:
        question = dnslib.DNSRecord.question(host, kind)
        question.header.id = secrets.randbits(16)
        packet = question.pack()
    except (dnslib.DNSError, ValueError) as error:
        raise OSError(f"{host!r} is no name for the DNS") from error
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.connect((server, _PORT))  # nobody else is heard
        sock.send(packet)
        end = time.monotonic() + _ANSWER
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            addresses = read_answer(sock.recv(_SIZE), question)
            if addresses is not None:
                return addresses
    raise TimeoutError(f"{server} does not answer")


def read_answer(packet: bytes, question: Any) -> list[str] | None:
    """Return the addresses in the answer to this question (a dnslib.DNSRecord); None when it is none."""
    import dnslib

    try:
        answer = dnslib.DNSRecord.parse(packet)
        same = answer.header.id == question.header.id and answer.header.qr and answer.q == question.q
        if not same:
            return None
        records = [record for record in answer.rr if record.rtype == question.q.qtype]
        return [str(ip_address(bytes(record.rdata.data))) for record in records[:MAX_ADDRESSES]]
    except Exception:  # whatever the library raises at what it cannot read: it is no answer
        return None
