# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What routers answer by PCP, NAT-PMP and UPnP, and servers by STUN."""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import stun
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Malformed,
    MappingError,
    Unreachable,
    Wanted,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import client as natpmp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import client as pcp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import gateway as upnp_gateway
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import http, igd, ssdp

from targets.target import Target


def _datagrams(data: bytes) -> Callable:
    """An exchange that hears these datagrams, each after an octet with its length, whatever is asked."""
    stream = io.BytesIO(data)

    def exchange(*arguments: Any, **_options: Any) -> Any:
        read = arguments[3]
        while size := stream.read(1):
            try:
                return read(stream.read(size[0]))
            except Malformed:
                continue
        raise Unreachable("silent")

    return exchange


def _map_a_port(client: pcp_client.PcpClient | natpmp_client.NatPmpClient) -> None:
    client._starts = SimpleNamespace(number=lambda: None)
    wanted = Wanted(40000, 40001)
    client.look()
    granted = client.map(wanted)
    assert granted.external_port == 40001
    assert not granted.external_address or ipaddress.ip_address(granted.external_address)
    client.unmap(wanted)


def pcp(data: bytes) -> None:
    pcp_client.exchange = _datagrams(data)
    pcp_client.nonce = SimpleNamespace(of_mapping=lambda *_: bytes(range(12)))
    _map_a_port(pcp_client.PcpClient(ROUTER, HERE))


def natpmp(data: bytes) -> None:
    natpmp_client.exchange = _datagrams(data)
    _map_a_port(natpmp_client.NatPmpClient(ROUTER, HERE))


def stun_response(data: bytes) -> None:
    assert ipaddress.ip_address(stun.read(data, bytes(range(12))))


def _framed(*datagrams: str) -> bytes:
    return b"".join(bytes([len(datagram) // 2]) + bytes.fromhex(datagram) for datagram in datagrams)


_PCP_MAP = "000102030405060708090a0b110000009c40{:04x}00000000000000000000ffffc6336401"
PCP_ANSWERS = [
    "028000000000000000000007000000000000000000000000",
    "0281000000000e1000000007000000000000000000000000" + _PCP_MAP.format(40001),
    "028100000000000000000007000000000000000000000000" + _PCP_MAP.format(0),
]
PCP_CONFLICT = "0281000b0000000000000007000000000000000000000000" + _PCP_MAP.format(40001)
NATPMP_ANSWERS = [
    "0080000000000007c6336401",
    "00810000000000079c409c4100000e10",
    "0080000000000007c6336401",
    "00810000000000079c40000000000000",
]
STUN = bytes.fromhex("010100142112a442000102030405060708090a0b000100080001a147c0000201002000080001a147e112a643")

ROUTER, HERE = "192.168.7.1", "192.168.7.10"
LOCATION = http.Url(ROUTER, 5000, "/rootDesc.xml")


def igd_description(data: bytes) -> None:
    """Wherever a description sends us, it is the router itself."""
    for service in igd.services(data, LOCATION, igd.MAPPINGS + igd.PINHOLES):
        assert service.control.host == ROUTER
        assert 0 < service.control.port < 65536
        assert service.control.path.isascii() and not set(service.control.path) & set(" \r\n")


def soap(data: bytes) -> None:
    """An answer to a call, or a fault."""
    for status in (200, 500):
        igd.response(IGD_SERVICE, "GetExternalIPAddress", status, data)


class _Connection(io.BytesIO):
    """A connection on which the router says this, whatever it hears."""

    recv_into = io.BytesIO.readinto
    settimeout = sendall = lambda *_: None


def upnp(data: bytes) -> None:
    """All that a client asks; each connection is answered with the bytes up to the next mark."""
    answers = iter(data.split(UPNP_MARK))
    http.socket = SimpleNamespace(create_connection=lambda *_: _Connection(next(answers, b"")))
    upnp_gateway.search = lambda *_: iter(())
    client = upnp_client.UpnpClient(upnp_gateway.Gateway(ROUTER, HERE, igd.MAPPINGS, ROUTER, UPNP_ANSWER))
    client.look()
    client.map(Wanted(40000, 40001))
    for mapping in client.mappings():
        assert len(mapping.description) <= 100 and mapping.description.isprintable()
    client.unmap(Wanted(40000, 40001))


IGD_SERVICE = igd.Service(igd.MAPPINGS[0], LOCATION)
UPNP_MARK = b"\n----\n"
SSDP = (
    b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\n"
    b"LOCATION: http://192.168.7.1:5000/rootDesc.xml\r\nBOOTID.UPNP.ORG: 1795437155\r\n\r\n"
)
UPNP_ANSWER = ssdp.parse(SSDP)
DESCRIPTION = (
    b'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>http://192.168.7.1:5000/</URLBase>'
    + b"<device><serviceList>"
    + b"".join(
        b"<service><serviceType>%s</serviceType><controlURL>/ctl/%d</controlURL></service>" % (kind.encode(), number)
        for number, kind in enumerate(igd.MAPPINGS[1:] + igd.PINHOLES)
    )
    + b"</serviceList></device></root>"
)


def _soap(action: str, results: dict[str, object]) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in results.items())
    return f"<s:Envelope><s:Body><u:{action}Response>{inner}</u:{action}Response></s:Body></s:Envelope>".encode()


def _soap_fault(code: int) -> bytes:
    error = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>No</errorDescription></UPnPError>"
    return f"<s:Envelope><s:Body><s:Fault><detail>{error}</detail></s:Fault></s:Body></s:Envelope>".encode()


_ADDRESS = _soap("GetExternalIPAddress", {"NewExternalIPAddress": "198.51.100.1"})
_ENTRY = {
    "NewExternalPort": 40001,
    "NewProtocol": "UDP",
    "NewInternalPort": 40000,
    "NewInternalClient": HERE,
    "NewPortMappingDescription": "A&B",
    "NewLeaseDuration": 3600,
}
_SPECIFIC = _soap("GetSpecificPortMappingEntry", _ENTRY)
_STATUS = _soap("GetStatusInfo", {"NewConnectionStatus": "Connected"})
UPNP_ANSWERS = [
    *(DESCRIPTION, _STATUS, _STATUS, _ADDRESS),  # find and look
    *(_soap_fault(714), _soap_fault(725), _soap("AddPortMapping", {}), _SPECIFIC, _ADDRESS, _ADDRESS),  # map
    *(_soap("GetGenericPortMappingEntry", _ENTRY), _soap_fault(713)),  # list
    *(_SPECIFIC, _ADDRESS, _soap("DeletePortMapping", {})),  # unmap
]
UPNP_WORDS = [
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
    b"&b;",
    b"&",
    b"<![CDATA[",
    b"<a>" * 40,
    b"http://192.0.2.1/",
    b"//192.0.2.1",
    b"[::1]",
    b"encoding='utf-7'",
    b"<UPnPError>",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999999\r\n",
    b"Location: http://192.0.2.1/\r\n",
    b"HTTP/1.1 302 Found\r\n",
    b"\r\n\r\n",
]

TARGETS = {
    "pcp": Target(pcp, (MappingError,), [_framed(*PCP_ANSWERS), _framed(PCP_ANSWERS[0], *[PCP_CONFLICT] * 3)]),
    "natpmp": Target(natpmp, (MappingError,), [_framed(*NATPMP_ANSWERS), _framed("0080000000000007c6336401")]),
    "stun": Target(stun_response, (MappingError,), [STUN]),
    "ssdp": Target(ssdp.parse, (MappingError,), [SSDP], [b"\r\n", b":", b"HTTP/1.1 200", b"BOOTID.UPNP.ORG: -1\r\n"]),
    "igd": Target(igd_description, (MappingError,), [DESCRIPTION], UPNP_WORDS),
    "soap": Target(soap, (MappingError,), [_ADDRESS, _SPECIFIC, _soap_fault(606)], UPNP_WORDS),
    "upnp": Target(
        upnp,
        (MappingError,),
        [UPNP_MARK.join(b"HTTP/1.1 200 OK\r\n\r\n" + answer for answer in UPNP_ANSWERS)],
        [UPNP_MARK, *UPNP_WORDS],
    ),
}
