# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fuzzed: for each parser a function of bytes, what it may raise, and inputs to begin with."""

from __future__ import annotations

import copy
import io
import ipaddress
import json
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / f"roles/{role}/files") for role in ("relay", "port_forward", "peer")]
sys.path[:0] = [str(ROOT / "tests/unit/relay"), str(ROOT / "tests/unit/fallback")]
sys.path.append(str(ROOT / "plugins/module_utils"))  # port_mapping, as it is installed beside the keeper
runpy.run_path(str(ROOT / "tests/unit/conftest.py"))  # makes the collection importable

import fallback
import port_keeper.settings
import port_keeper.state
from ansible_collections.homelab.peer_relay.plugins.module_utils import (
    firewalld,
    nft,
    relay,
    relay_probe,
    ufw,
    wg_quick,
    wireguard,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.firewall import Port
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import (
    http,
    igd,
    natpmp_client,
    pcp_client,
    ssdp,
    stun,
    upnp_client,
    upnp_gateway,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Malformed,
    MappingError,
    Unreachable,
    Wanted,
)
from peer_agent.control import Message, MessageError, decode, encode
from peer_agent.endpoints import Endpoint
from peer_agent.probes import PING, PONG, Key, Probe
from peer_relay import (
    diagnose,
    directory,
    edge,
    lookup,
    metrics,
    overlay,
    packets,
    probe,
    report,
    settings,
    state,
    status_client,
    tables,
)
from peer_relay.cookies import CookieJar
from peer_relay.datagrams import BatchSocket
from peer_relay.drops import Refused
from peer_relay.noise import HandshakeError, Identity, InitiationReader, InitiationWriter
from peer_relay.session import Session
from relay_world import World, at, check_consistency, echo_v4, echo_v6, udp


class Target(NamedTuple):
    """One parser."""

    run: Callable[[bytes], object]
    expected: tuple[type[Exception], ...]
    corpus: list[bytes]
    words: list[bytes] = []


VECTORS = json.loads((ROOT / "tests/unit/relay/vectors.json").read_text())
TO_RELAY, FROM_RELAY = (
    {key: bytes.fromhex(value) for key, value in VECTORS[way].items() if isinstance(value, str)}
    for way in ("to_relay", "from_relay")
)
RELAY, DEVICE = Identity(bytes.fromhex(VECTORS["relay_private"])), Identity(bytes.fromhex(VECTORS["device_private"]))


# --- the network ------------------------------------------------------------------------------------------------------


def _scene() -> tuple[World, list[bytes]]:
    """A bound pair, a device that is not bound, and real datagrams of all types."""
    world = World()
    ann, bob, cid = (world.add(name, at(f"192.0.2.{number}")) for number, name in enumerate("abc", 1))
    ann.connect()
    bob.connect()
    ann.shake_hands(bob)
    (challenge,) = world.raw(at("198.18.0.1"), bob.transport(ann, bytes(200)))
    (forwarded,) = world.raw(ann.address, ann.initiation(bob))
    real = [
        ann.initiation(),
        ann.initiation(bob),
        cid.initiation(),
        cid.initiation(ann),
        probe.make(world.identity, world.wall),
        ann.transport(None, bytes(60)),
        ann.transport(None, udp("10.77.1.2", "10.77.0.1", directory.write_request(bytes(8), []))),
        ann.transport(),
        ann.transport(bob, bytes(300)),
        *bob.receive(challenge.datagram),
        *bob.receive(forwarded.datagram),
        bob.mint.reply(forwarded.datagram, b"", world.now),
    ]
    world.log.clear()
    return world, real


WORLD, REAL = _scene()
SOURCES = [*(at(f"192.0.2.{number}") for number in (1, 2, 3)), at("198.18.0.1"), at("2001:db8::1")]
MAC1_KEYS = [WORLD.identity.mac1_key, *(device.identity.mac1_key for device in WORLD.devices.values())]


def _entry(source: int, repair: int, datagram: bytes) -> bytes:
    return bytes([source, repair]) + struct.pack(">H", len(datagram)) + datagram


def switchboard(data: bytes) -> None:
    """A series of datagrams: each has a source, a choice of keys to repair its mac1 with, and a length before it."""
    world = copy.deepcopy(WORLD)
    sent: dict[bytes, int] = {}
    received: dict[bytes, int] = {}
    bound = set(world.switchboard.bound)
    while len(data) > 4:
        source, repair = SOURCES[data[0] % len(SOURCES)], data[1] % (len(MAC1_KEYS) + 1)
        size = struct.unpack_from(">H", data, 2)[0] % 1500
        datagram, data = data[4 : 4 + size], data[4 + size :]
        if repair and packets.message_type(datagram) in (packets.INITIATION, packets.RESPONSE):
            datagram = packets.append_macs(datagram[:-32], MAC1_KEYS[repair - 1])
        received[source] = received.get(source, 0) + len(datagram)
        world.now += 0.01
        for out in world.raw(source, datagram):
            sent[out.binding.address] = sent.get(out.binding.address, 0) + len(out.datagram)
        bound |= set(world.switchboard.bound)
    world.switchboard.tick(world.now + 1, world.wall)
    check_consistency(world.switchboard)
    for address in sent.keys() - bound:
        assert sent[address] <= received.get(address, 0), "amplification"


def initiation(data: bytes) -> None:
    """The responder reads and answers."""
    if packets.message_type(data) == packets.INITIATION:
        packets.mac1_valid(RELAY.mac1_key, data)
        reader = InitiationReader(RELAY, data)
        reader.timestamp()
        reader.respond(1)


WRITER = InitiationWriter(RELAY, DEVICE.public, VECTORS["from_relay"]["relay_index"], bytes(12))


def response(data: bytes) -> None:
    """The initiator reads the answer."""
    if packets.message_type(data) == packets.RESPONSE:
        WRITER.finish(data)


def cookie_reply(data: bytes) -> None:
    """The initiator is asked for mac2."""
    if packets.message_type(data) == packets.COOKIE_REPLY:
        CookieJar().store(data, DEVICE.public, packets.split_macs(WRITER.datagram)[1], 0.0)


def transport(data: bytes) -> None:
    """A message on the relay's own session."""
    if packets.message_type(data) == packets.TRANSPORT:
        reader = InitiationReader(RELAY, TO_RELAY["initiation"])
        reader.timestamp()
        Session(reader.respond(1)[1], 1, 0.0, initiator=False).open(data, 1.0)


def control(data: bytes) -> None:
    """The control messages of a received batch."""
    sock = BatchSocket.__new__(BatchSocket)
    sock._parsed = {}
    sock._parse(data)


def _control(level: int, kind: int, payload: bytes) -> bytes:
    return (struct.pack("@Nii", 16 + len(payload), level, kind) + payload).ljust(16 + -(-len(payload) // 8) * 8, b"\0")


PINGS = [echo_v4("10.77.1.2", "10.77.0.1"), echo_v6("fd77::2", "fd77::1")]


def directory_packet(data: bytes) -> None:
    """A packet in the tunnel, and what the relay answers: never more than was asked with."""
    ann = next(iter(WORLD.devices.values()))
    find = WORLD.switchboard._owners.get
    reply = overlay.udp_reply(data, directory.PORT, lambda message: lookup.answer(ann.record, message, find, WORLD.now))
    assert reply is None or len(reply) <= len(data)


def directory_answer(data: bytes) -> None:
    """What a lying relay tells a device."""
    answer = directory.read_answer(data)
    assert len(answer.targets) <= directory.MOST_TARGETS
    assert directory.read_answer(directory.write_answer(answer)) == answer


DIRECTORY_REQUEST = directory.write_request(b"12345678", [ipaddress.ip_address(f"10.77.1.{n}") for n in (2, 3, 9)])
DIRECTORY_ANSWER = directory.write_answer(
    directory.Answer(
        b"12345678",
        directory.Entry(("192.0.2.1", 51820), True),
        (directory.Entry(("2001:db8::1", 1), True), directory.Entry()),
    )
)
DIRECTORY_PACKETS = [udp("10.77.1.2", "10.77.0.1", DIRECTORY_REQUEST), udp("fd77::1:2", "fd77::1", DIRECTORY_REQUEST)]
# Without a checksum, which IPv4 allows: what is changed inside gets through to the directory.
DIRECTORY_PACKETS.append(DIRECTORY_PACKETS[0][:26] + bytes(2) + DIRECTORY_PACKETS[0][28:])


# --- the disk and the service's own answers ---------------------------------------------------------------------------


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


def _file(name: str, data: bytes) -> _File:
    file = _File(name)
    file.data = data
    return file


def settings_toml(data: bytes) -> None:
    settings.load(_file("relay.toml", data))


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
    saved, _problem = state.read(_file("state.json", data))
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


# --- the keeper of the router's ports ---------------------------------------------------------------------------------


def keeper_settings(data: bytes) -> None:
    port_keeper.settings.load(_file("ports.toml", data))


KEEPER_SETTINGS = b"""[router]
method = "auto"
gateway = "fe80::1%eth0"
stun_server = "stun.example.org:3478"
lease = 3600
poll_seconds = 3
[keeper]
status_file = "/run/peer-relay-ports/status.json"
state_file = "/var/lib/peer-relay-ports/state.json"
[[mapping]]
name = "relay"
protocol = "udp"
internal_port = 40000
external_port = 41000
[[mapping]]
name = "relay"
internal_port = 40000
family = 6
"""


def keeper_state(data: bytes) -> None:
    """A mapping that it remembers is one that can be deleted."""
    for wanted in port_keeper.state.read(_file("state.json", data)).mappings:
        assert wanted.family in (4, 6)
        assert 0 < wanted.external_port < 65536


KEEPER_STATE = {
    "mappings": [[4, "udp", 40000, 41000], [6, "tcp", 80, 80]],
    "addresses": {"4": ["203.0.113.1", 1800000000.5, 2]},
}


def edge_status(data: bytes) -> None:
    """What the keeper tells the relay: whatever is in the file, doctor, metrics and tables can say it."""
    document = edge.parse(data) | {"age_seconds": 1.0, "address_age_seconds": 2.0}
    told = EDGE_HEAD | report.traffic(WORLD.switchboard, WORLD.now) | {"edge": document}
    json.dumps(told, allow_nan=False)
    for finding in diagnose.findings(told):
        assert finding.subject
    tables.status(told)
    metrics.exposition(told)


EDGE_HEAD = {
    "version": "1.0.0",
    "name": "relay",
    "data_plane": "userspace",
    "healthy": True,
    "problems": [],
    "uptime_seconds": 5.0,
    "listen": ["0.0.0.0:40000"],
    "endpoint": "203.0.113.9:40000",
}
EDGE = {
    "updated": 1800000000.5,
    "router": {"address": "192.0.2.1", "method": "pcp"},
    "external_address": "203.0.113.1",
    "seen_address": "",
    "address_since": 1800000000.5,
    "address_changes": 1,
    "nat": "cgnat",
    "explanation": "It is not public. Move.",
    "mappings": [
        {
            "name": "relay",
            "protocol": "udp",
            "family": 4,
            "internal_port": 40000,
            "external_port": 41000,
            "external_address": "203.0.113.1",
            "state": "refused",
            "lease_seconds": 3600,
            "expires": 1800000600.5,
            "renewals": 1,
            "restores": 0,
            "problem": "the router says no: ask it",
        }
    ],
    "problems": ["something: do something"],
}


# --- what programs on the hosts say -----------------------------------------------------------------------------------


def relay_answers(data: bytes) -> None:
    relay.query(lambda *words: (0, data.decode(errors="replace"), ""))


def wg_dump(data: bytes) -> None:
    wireguard.parse_dump(data.decode(errors="replace"))


def wg_endpoint(data: bytes) -> None:
    wireguard.parse_endpoint(data.decode(errors="replace"))


def probe_answer(data: bytes) -> None:
    """What comes back for a probe that a device carried."""
    index = relay_probe.answered(data, RELAY.public)
    assert index is None or 0 <= index < 2**32


def route_json(data: bytes) -> None:
    assert isinstance(relay_probe.read_route(data.decode(errors="replace")), str)


def wg_quick_file(data: bytes) -> None:
    wg_quick.read_back(data.decode(errors="replace"))


PACKETS = [
    nft.Packet("udp", 40000),
    nft.Packet("tcp", None),
    nft.Packet("udp", 40000, "192.168.1.10", translated=True),
]


def nft_json(data: bytes) -> None:
    ruleset = nft.parse_ruleset(data.decode(errors="replace"))
    for chain in ruleset.base_chains("input"):
        for packet in PACKETS:
            nft.fate(ruleset, chain, packet)


def ufw_rules(data: bytes) -> None:
    rules = ufw.parse_rules(data.decode(errors="replace"))
    ufw.fate(ufw.Ufw(True, rules, True), rules, Port("udp", 40000, ""))


def firewalld_blocks(data: bytes) -> None:
    firewalld.parse_blocks(data.decode(errors="replace"))


KEY = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
DUMP = (
    f"{KEY}\t{KEY}\t51820\toff\n"
    f"{KEY}\t(none)\t192.0.2.1:40000\t10.77.0.1/32,fd77::1/128\t1700000000\t100\t200\t25\n"
    f"{KEY}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
)
QUICK = f"""[Interface]
Address = 10.77.0.2/32, fd77::2/128
ListenPort = 51820
MTU = 1420
PostUp = wg set %i private-key /etc/wireguard/%i.key
[Peer]
PublicKey = {KEY}
Endpoint = [2001:db8::1]:40000
AllowedIPs = 10.77.0.1/32, 0.0.0.0/0
PersistentKeepalive = 25
"""
_MATCH = {"left": {"payload": {"protocol": "udp", "field": "dport"}}, "op": "==", "right": {"set": [40000, [1, 2]]}}
RULESET = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {
            "chain": {
                "family": "inet",
                "table": "filter",
                "name": "input",
                "handle": 1,
                "type": "filter",
                "hook": "input",
                "prio": 0,
                "policy": "drop",
            }
        },
        {"chain": {"family": "inet", "table": "filter", "name": "other", "handle": 2}},
        {"set": {"family": "inet", "table": "filter", "name": "ports", "elem": [40000, {"range": [1, 9]}]}},
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "input",
                "handle": 3,
                "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new"]}}, {"accept": None}],
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "input",
                "handle": 4,
                "expr": [{"match": _MATCH}, {"jump": {"target": "other"}}],
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "other",
                "handle": 5,
                "expr": [
                    {"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["udp", {"drop": None}]]}}},
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                            "right": "@ports",
                        }
                    },
                    {"reject": {"type": "icmp"}},
                ],
            }
        },
    ]
}
UFW = b"""Added user rules (see 'ufw status' for running firewall):
ufw allow 22/tcp
ufw limit from 192.0.2.0/24 to any port 40000 proto udp comment 'peer_relay'
ufw deny in on eth0 to any app OpenSSH
ufw allow out 53
ufw reject 1000:2000/udp
"""
FIREWALLD = b"""public (active)
  target: default
  interfaces: eth0
  services: dhcpv6-client ssh
  ports: 40000/udp 1000-2000/tcp
  rich rules:
\trule family="ipv4" source address="192.0.2.0/24" drop

home
  target: ACCEPT
"""
JSON_WORDS = [b"null", b"{}", b"[]", b"[", b"}", b",", b":", b'""', b"-1", b"1e999", b"NaN", b"true", b"0", b'"ff"']
_SAVED = json.dumps(state.export(WORLD.switchboard, WORLD.now, WORLD.wall)).encode()
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_BODY = json.dumps(STATUS).encode()

# --- what routers answer by PCP and NAT-PMP, and servers by STUN ------------------------------------------------------


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
# --- what routers answer by UPnP --------------------------------------------------------------------------------------

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

# --- agents -----------------------------------------------------------------------------------------------------------

AGENT_KEYS = [Key(bytes(32), bytes(range(32)), leader) for leader in (True, False)]
AGENT_PROBES = [AGENT_KEYS[1].seal(Probe(kind, 2**40, in_use)) for kind in (PING, PONG) for in_use in (True, False)]
AGENT_MESSAGE = encode(Message(bytes(32), (Endpoint("192.0.2.1", 1),), {"relay": 0.02}, *[True] * 5))


def agent_probe(data: bytes) -> None:
    probe = AGENT_KEYS[0].open(data)
    assert probe is None or data == AGENT_KEYS[1].seal(probe)


def agent_message(data: bytes) -> None:
    message = decode(data)
    assert decode(encode(message)).candidates == message.candidates


TARGETS = {
    "switchboard": Target(
        switchboard,
        (),
        [
            b"".join(_entry(source, 0, datagram) for datagram in REAL[part : part + 3])
            for source in range(len(SOURCES))
            for part in (0, 3, 6, 9)
        ]
        + [_entry(0, repair, REAL[1]) + _entry(1, repair, REAL[-2]) for repair in range(5)],
        REAL,
    ),
    "initiation": Target(initiation, (HandshakeError,), [TO_RELAY["initiation"]]),
    "response": Target(response, (HandshakeError,), [FROM_RELAY["response"], TO_RELAY["response"]]),
    "cookie_reply": Target(cookie_reply, (), [REAL[-1]]),
    "transport": Target(transport, (Refused,), [TO_RELAY["keepalive"]]),
    "echo": Target(overlay.echo_reply, (), PINGS),
    "directory": Target(directory_packet, (), DIRECTORY_PACKETS),
    "directory_answer": Target(directory_answer, (directory.Malformed,), [DIRECTORY_ANSWER]),
    "control": Target(
        control,
        (),
        [_control(0, 8, bytes(12)), _control(41, 50, bytes(20)), _control(17, 104, bytes(4)), b""],
    ),
    "settings": Target(
        settings_toml,
        (settings.SettingsError,),
        [SETTINGS],
        [b"[", b"]", b'"', b"=", b"{}", b"0x" + b"f" * 40, b"1" * 5000, b"inf", b"nan", b"\\u0000", b"%eth0", b"''"],
    ),
    "state": Target(state_json, (state.StateError,), [_SAVED], JSON_WORDS),
    "status": Target(
        status_body,
        (status_client.Unreachable,),
        [_HTTP % (len(_BODY), _BODY), _HTTP % (2, b"[]"), b"HTTP/1.1 503 no\r\n\r\nproblem", b""],
        [b"\r\n", b"Transfer-Encoding: chunked\r\n", *JSON_WORDS],
    ),
    "fallback_bridge": Target(
        fallback.fallback_bridge,
        (),
        [fallback.REQUEST + b"".join(fallback.FRAMES), *(fallback.REQUEST + frame for frame in fallback.FRAMES)],
        fallback.WORDS,
    ),
    "fallback_device": Target(
        fallback.fallback_device,
        (),
        [fallback.RESPONSE + frame for frame in fallback.ANSWERS],
        fallback.WORDS,
    ),
    "fallback_proxy": Target(
        fallback.fallback_proxy,
        (fallback.Refused,),
        [b"HTTP/1.1 200 OK\r\nVia: a\r\n\r\n", b"HTTP/1.0 403 No\r\n\r\n"],
        fallback.WORDS,
    ),
    "keeper_settings": Target(
        keeper_settings,
        (port_keeper.settings.SettingsError,),
        [KEEPER_SETTINGS],
        [b"[", b"]", b'"', b"=", b"{}", b"0x" + b"f" * 40, b"1" * 5000, b"inf", b"nan", b"true", b"\\u0000", b"''"],
    ),
    "keeper_state": Target(keeper_state, (), [json.dumps(KEEPER_STATE).encode()], JSON_WORDS),
    "edge_status": Target(edge_status, (edge.EdgeError,), [json.dumps(EDGE).encode()], JSON_WORDS),
    "relay_answers": Target(
        relay_answers, (relay.RelayError,), [json.dumps(STATUS | {"findings": []}).encode()], JSON_WORDS
    ),
    "wg_dump": Target(
        wg_dump, (wireguard.WireGuardError,), [DUMP.encode()], [b"\t", b"\n", b"(none)", b"off", b"[::1]:1"]
    ),
    "wg_endpoint": Target(wg_endpoint, (wireguard.WireGuardError,), [b"192.0.2.1:40000", b"[2001:db8::1]:1", b"a.b:2"]),
    "probe_answer": Target(probe_answer, (), [FROM_RELAY["response"], TO_RELAY["response"], REAL[-1]]),
    "ip_route": Target(
        route_json, (relay_probe.ProbeError,), [b'[{"dst":"192.0.2.1","dev":"eth0","flags":[]}]'], JSON_WORDS
    ),
    "wg_quick": Target(
        wg_quick_file, (wireguard.WireGuardError, ValueError), [QUICK.encode()], [b"[Peer]\n", b" = ", b"\n"]
    ),
    "nft": Target(nft_json, (nft.RulesetError,), [json.dumps(RULESET).encode()], [b'"udp"', b'"@ports"', *JSON_WORDS]),
    "ufw": Target(ufw_rules, (), [UFW], [b"ufw ", b" to ", b" from ", b" any", b" port ", b"/", b":", b",", b"'"]),
    "firewalld": Target(firewalld_blocks, (), [FIREWALLD], [b"  ", b": ", b"\n", b"ports: ", b"-", b"/udp"]),
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
    "agent_probe": Target(agent_probe, (), AGENT_PROBES),
    "agent_message": Target(agent_message, (MessageError,), [AGENT_MESSAGE], [b'"[::1]:1"', *JSON_WORDS]),
}
