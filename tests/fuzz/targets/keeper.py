# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease keeper's whole loop at a router that keeps to the grammar of its protocols and means harm."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from peer_relay.slices import finish
from peer_relay.status import doctor as status_doctor
from peer_relay.status import document as status_document
from peer_relay.status import router as router_status
from port_keeper import keeper as decision
from port_keeper import status
from port_keeper.lease import Mapping
from port_keeper.router import Router
from port_keeper.settings import Settings
from port_mapping import routes, stun
from port_mapping.mapping import Malformed, MappingError, Unreachable, Wanted
from port_mapping.natpmp import client as natpmp_client
from port_mapping.pcp import client as pcp_client
from port_mapping.upnp import http, ssdp, tries
from port_mapping.upnp import search as upnp_search

from targets.choices import Choices
from targets.keeper_files import STATUS_HEAD, WORLD
from targets.target import ROOT, Target

_GATEWAY, _HERE, _OTHER = "192.168.7.1", "192.168.7.10", "192.168.7.66"
_SECONDS = 600.0
_STEPS = 60
_POLL = 3
_MAPPING = Mapping("relay", Wanted(40000, 40001, lease=600))

_ADDRESSES = [
    "198.51.100.1",
    "198.51.100.2",
    "100.64.0.1",
    "10.0.0.1",
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "::ffff:198.51.100.1",
    "::ffff:7f00:1",
    "fe80::1%eth0",
    "2001:db8::1%x\n[Interface]\nPreUp = id",
    "2001:db8::1%\x00",
    "ff02::1",
    "::",
    "(null)",
    "",
    "1.2.3",
    "01.2.3.4",
    "\u0661\u0662.0.2.1",
    "9" * 3000,
    _HERE,
    _OTHER,
]
_NUMBERS = [
    "40000",
    "40001",
    "0",
    "-1",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "1e3",
    "+5",
    "\u0663",
    "",
    "9" * 5000,
]
_WORDS = [
    "",
    "Acme",
    "Gr\u00f6\u00dfe",
    "\x1b[2J\x07",
    "\u202eevil",
    "&nbsp;&#0;&#x1b;",
    "]]>",
    "</root>",
    "A" * 3000,
    "\ufffe",
    "\x85",
]
_CODES = ["402", "501", "606", "714", "718", "725", "713", "", "-1", "\u0667", "9" * 5000]
_STATES = ["Connected", "Up", "Disconnected", "", "\x00"]
_STATUSES = [
    "200 OK",
    "500 Internal Server Error",
    "404 Not Found",
    "302 Found",
    "100 Continue",
    "204 No",
    "999 ?",
    "200",
]
_LOCATIONS = [
    f"http://{_GATEWAY}:5000/desc.xml",
    f"http://{_GATEWAY}:5001/desc.xml",
    "http://[::1]:5000/desc.xml",
    "http://169.254.1.1/desc.xml",
    "http://192.0.2.1/",
    "http://[2001:db8::1%25x]/",
    "http://[/",
    f"http://{_GATEWAY}:99999/",
    f"https://{_GATEWAY}/",
    "/desc.xml",
    f"http://{_GATEWAY}/a b",
    "",
]
_TARGETS = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "upnp:rootdevice",
    "ssdp:all",
]
_KINDS = ["WANIPConnection:1", "WANIPConnection:2", "WANPPPConnection:1", "WANIPv6FirewallControl:1", "x"]
_CONTROLS = ["/ctl/0", "/ctl/1", "http://[::1]:5000/ctl", "http://192.0.2.1/ctl", "", "ctl?a=b", "/a\r\nX: y"]
_ENCODINGS = ["utf-8", "utf-8", "utf-8", "latin-1", "utf-16", "gb18030", "utf-7"]
_EPOCHS = [0, 1, 2**31, 2**32 - 1]


def _soap(choices: Choices, action: str) -> str:
    values = {
        "NewConnectionStatus": choices.of(_STATES),
        "NewExternalIPAddress": choices.of(_ADDRESSES),
        "NewInternalClient": choices.of([_HERE, *_ADDRESSES]),
        "NewInternalPort": choices.of(_NUMBERS),
        "NewLeaseDuration": choices.of(_NUMBERS),
        "NewPortMappingDescription": choices.of(_WORDS),
    }
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    name = choices.of([f"{action}Response", f"{action}Response", "Response", "Fault"])
    if choices.number(4) == 3:
        error = f"<errorCode>{choices.of(_CODES)}</errorCode><errorDescription>{choices.of(_WORDS)}</errorDescription>"
        inner, name = f"<detail><UPnPError>{error}</UPnPError></detail>", "Fault"
    return f"<s:Envelope><s:Body><{name}>{inner}</{name}></s:Body></s:Envelope>"


def _description(choices: Choices) -> str:
    listed = "".join(
        f"<service><serviceType>urn:schemas-upnp-org:service:{choices.of(_KINDS)}</serviceType>"
        f"<controlURL>{choices.of(_CONTROLS)}</controlURL></service>"
        for _ in range(1 + choices.number(4))
    )
    base = f"<URLBase>{choices.of(_LOCATIONS)}</URLBase>" if choices.number(4) == 3 else ""
    named = f"<manufacturer>{choices.of(_WORDS)}</manufacturer><modelName>{choices.of(_WORDS)}</modelName>"
    return f"<root>{base}<device>{named}<serviceList>{listed}</serviceList></device></root>"


class _Connection:
    """A connection on which the router answers what it is asked."""

    settimeout = close = lambda *_: None

    def __init__(self, choices: Choices):
        self._choices = choices
        self._answer = io.BytesIO()

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendall(self, request: bytes) -> None:
        action = request.partition(b"SOAPAction: ")[2].partition(b'"\r\n')[0].rpartition(b"#")[2].decode()
        choices = self._choices
        text = _soap(choices, action) if action else _description(choices)
        body = text.encode(choices.of(_ENCODINGS), "xmlcharrefreplace")
        length = choices.of([len(body), len(body), 10, len(body) + 50, -1, 10**13])
        framing = choices.of([f"Content-Length: {length}\r\n", "", "Transfer-Encoding: chunked\r\n"])
        if "chunked" in framing:
            size = choices.of([f"{len(body):x}", f"{len(body):x}", "-5", "f" * 16, ""])
            body = f"{size}\r\n".encode() + body + choices.of([b"\r\n0\r\n\r\n", b"", b"\r\nzz\r\n"])
        end = choices.of(["\r\n", "\r\n", "\n"])
        head = f"HTTP/1.1 {choices.of(_STATUSES)}\r\n{framing}\r\n".replace("\r\n", end)
        self._answer = io.BytesIO(head.encode() + body + choices.of([b"", b"\0\0", b"<x/>"]))

    def recv_into(self, buffer: memoryview) -> int:
        return self._answer.readinto(buffer)


class _Search:
    """The socket of a search, on which several answer."""

    def __init__(self, choices: Choices, destination: str):
        self._choices = choices
        self._group = destination in ssdp.GROUPS.values()

    def __enter__(self) -> _Search:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def datagrams(self) -> Iterator[tuple[str, bytes]]:
        choices = self._choices
        for _ in choices.some(5):
            sender = choices.of([_GATEWAY, _GATEWAY, _OTHER]) if self._group else _GATEWAY
            text = (
                f"HTTP/1.1 200 OK\r\nST: {choices.of(_TARGETS)}\r\nLOCATION: {choices.of(_LOCATIONS)}\r\n"
                f"BOOTID.UPNP.ORG: {choices.of(_NUMBERS)}\r\n\r\n"
            )
            yield sender, text.replace("\r\n", choices.of(["\r\n", "\n"])).encode()


def _packed(choices: Choices) -> bytes:
    """An address of PCP."""
    return choices.of([bytes(10) + b"\xff\xff" + bytes([198, 51, 100, 1]), bytes(16), b"\xff" * 16, b"\x20\x01" * 8])


def _exchange(choices: Choices) -> Callable:
    """What the router answers by PCP and NAT-PMP."""

    def exchange(address: str, port: int, request: bytes, read: Callable, **_: Any) -> Any:
        for _attempt in range(3):
            epoch, result = choices.of(_EPOCHS), choices.of([0, 0, 0, 1, 2, 3, 8, 11, 255])
            lifetime = choices.of([600, 600, 1, 0, 2**32 - 1])
            if request[0] == 2:
                answer = struct.pack(">BBxBII12x", 2, request[1] | 0x80, result, lifetime, epoch)
                if len(request) >= 60:
                    external = choices.of([40001, 40001, 0, 65535])
                    answer += request[24:42] + struct.pack(">H", external) + _packed(choices)
            else:
                answer = struct.pack(">BBHI", 0, request[1] | 0x80, result, epoch)
                answer += struct.pack(">HHI", 40000, 40001, lifetime) if request[1] else bytes([198, 51, 100, 1])
            try:
                return read(choices.of([answer, answer, answer[:-4], answer + bytes(8), b""]))
            except Malformed:
                continue
        raise Unreachable(f"{address} does not answer on UDP port {port}")

    return exchange


class _Now:
    """A thread that is done at once."""

    def __init__(self, target: Callable, args: tuple, daemon: bool):
        self._run = target, args

    def start(self) -> None:
        target, args = self._run
        target(*args)


_SETTINGS = Settings(ROOT, "auto", "", "", _POLL, ROOT, ROOT, (_MAPPING,))


def loop(data: bytes) -> None:
    """Ten minutes of the keeper. Only a MappingError may come of a question; what is told can be told on."""
    choices = Choices(data)
    http.socket = SimpleNamespace(create_connection=lambda *_: _Connection(choices))
    upnp_search._Socket = lambda destination, _address: _Search(choices, destination)
    pcp_client.exchange = natpmp_client.exchange = _exchange(choices)
    pcp_client.nonce = SimpleNamespace(of_mapping=lambda *_: bytes(range(12)))
    tries.threading = SimpleNamespace(Thread=_Now)
    routes.next_hop = lambda *_: routes.NextHop(_GATEWAY, _HERE)
    router, now = Router(4), 1000.0
    keeper = decision.Keeper([_MAPPING], _POLL, now)
    keeper.update_next_hop(now, _GATEWAY, _HERE)
    asked = 0
    for _ in range(_STEPS):
        action = keeper.next(now)
        if action is None:
            now = min(keeper.due(), now + 60) + 0.01
            if choices.number(8) == 7:
                keeper.announced(now, choices.of([_GATEWAY, _OTHER]))
            continue
        asked += isinstance(action, decision.Map)
        try:
            outcome = router.perform(action, _SETTINGS)
        except MappingError as error:
            outcome = error
        now += 0.05
        keeper.done(now, outcome)
    assert asked <= 10 + (now - 1000) / 2
    assert all(event.text.isprintable() and len(event.text) < 2000 for event in keeper.events)
    document = status.document([keeper], "", [], now, 1_800_000_000.0)
    read = router_status.parse(json.dumps(document, allow_nan=False).encode())
    for address in (read["external_address"], *(mapping["external_address"] for mapping in read["mappings"])):
        assert set(address) <= set("0123456789abcdef:.")
    told = STATUS_HEAD | finish(status_document.traffic(WORLD.switchboard, WORLD.now, lambda *_: ""))
    told["edge"] = read | {"age_seconds": 1.0, "address_age_seconds": None}
    status_doctor.findings(told)
    status_doctor.remarks(told)


def answers(data: bytes) -> None:
    """STUN by its grammar: one answer with any attributes."""
    choices = Choices(data)
    attributes = b""
    for _ in choices.some(6):
        kind = choices.of([0x0020, 0x0001, 0x8022, 0x0006, 0xFFFF])
        family = choices.of([1, 2, 0, 3])
        value = bytes([0, family, 0, 80]) + bytes(choices.of([4, 16, 0, 3, 200]))
        size = choices.of([len(value), len(value), 0, 65535])
        attributes += struct.pack(">HH", kind, size) + value + bytes(-len(value) % 4)
    length = choices.of([len(attributes), 0, 65535])
    transaction = bytes(range(12))
    head = struct.pack(">HHI", choices.of([0x0101, 0x0111, 0x0001]), length, choices.of([0x2112A442, 0])) + transaction
    assert set(stun.read(head + attributes, transaction)) <= set("0123456789abcdef:.")


_LENGTHS = (0, 40, 200, 1000)
TARGETS = {
    "keeper_loop": Target(loop, (), [bytes(n) for n in _LENGTHS] + [bytes(range(256)) * 2, b"\1\0\0\0\2" * 100]),
    "stun_grammar": Target(answers, (MappingError,), [bytes(30), bytes(range(60))]),
}
