# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A UPnP gateway on real sockets that does all as it should; tests replace what theirs does otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from harness.fake_router import Answers, FakeRouter

PORT = 5000
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SERVICE = "urn:schemas-upnp-org:service:"
MODEL = "<manufacturer>Acme</manufacturer><modelName>Box</modelName><modelNumber>7</modelNumber>"
Reply = bytes | Iterator[bytes]


def http(body: bytes | str, status: str = "200 OK", length: int | None = None, headers: str = "") -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    said = len(content) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {said}\r\n{headers}\r\n".encode() + content


def envelope(inner: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f"{inner}</s:Body></s:Envelope>"
    )


def results(action: str, **values: object) -> str:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return envelope(f'<u:{action}Response xmlns:u="urn:x">{inner}</u:{action}Response>')


def fault(code: int, words: str = "No") -> str:
    error = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>{words}</errorDescription></UPnPError>"
    return envelope(f"<s:Fault><faultcode>s:Client</faultcode><detail>{error}</detail></s:Fault>")


class Gateway:
    """One box with one port that it may map, to the host 192.168.1.11."""

    def __init__(self, address: str, host: str, external: str):
        self.address = address
        self.host = host
        self.external = external
        self.location = f"http://{address}:{PORT}/desc.xml"
        self.services = ["WANIPConnection:1"]
        self.answers_to = (DEVICE,)
        self.model = MODEL
        self.mapped: list[str] = []  # paths of the services that were asked for a mapping
        self.asked: list[tuple[str, str]] = []  # (path, action)
        self.replies: dict[tuple[str, str], Callable[[], Reply]] = {}  # for (path, action), "" for every action

    def serve(self, router: FakeRouter) -> None:
        router.on_udp(self.address, 1900, self.search)
        router.on_http(self.address, PORT, self.answer)

    def search(self, request: bytes) -> Answers:
        target = re.search(rb"\nST: (\S+)", request)[1].decode()
        return [(self.found(target), None)] if target in self.answers_to else []

    def found(self, target: str = DEVICE) -> bytes:
        usn = f"uuid:1::{target}"
        return f"HTTP/1.1 200 OK\r\nST: {target}\r\nUSN: {usn}\r\nLOCATION: {self.location}\r\n\r\n".encode()

    def description(self) -> str:
        listed = "".join(
            f"<service><serviceType>{SERVICE}{kind}</serviceType><controlURL>/ctl/{number}</controlURL></service>"
            for number, kind in enumerate(self.services)
        )
        return (
            '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>'
            f"<deviceType>{DEVICE}</deviceType>{self.model}<serviceList>{listed}</serviceList></device></root>"
        )

    def answer(self, line: bytes, header: str) -> Reply:
        path, action = line.split()[1].decode(), header.rpartition("#")[2].strip('" ')
        self.asked.append((path, action))
        reply = self.replies.get((path, action)) or self.replies.get((path, ""))
        if action == "AddPortMapping":
            self.mapped.append(path)
        return reply() if reply else self.good(action)

    def good(self, action: str) -> bytes:
        if not action:
            return http(self.description())
        if action == "GetSpecificPortMappingEntry":
            if not self.mapped:
                return http(fault(714), "500 Internal Server Error")
            return http(self.entry())
        if action == "GetGenericPortMappingEntry":
            return http(fault(713), "500 Internal Server Error")
        values = {
            "GetStatusInfo": {"NewConnectionStatus": "Connected"},
            "GetExternalIPAddress": {"NewExternalIPAddress": self.external},
        }
        return http(results(action, **values.get(action, {})))

    def entry(self) -> str:
        values = {"NewInternalPort": 40000, "NewInternalClient": self.host, "NewLeaseDuration": 600}
        return results("GetSpecificPortMappingEntry", **values)
