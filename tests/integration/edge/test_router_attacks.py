# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routers, and hosts beside them, that answer to do harm: not believed, nobody else asked, and over in no time."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fake_gateway import Gateway
from harness.fake_router import Answers, FakeRouter, OnRequest, response
from harness.keeper import Keeper
from harness.miniupnpd import GATEWAY, INSIDE, WAN_ADDRESS, Home
from harness.modules import run_module
from harness.processes import wait_until
from harness.topology import STRANGER_V4, Lab
from peer_relay.status import router as router_status
from port_mapping import discovery
from port_mapping.mapping import Client, Granted, MappingError, Wanted

WANTED = Wanted(40000, 40000, lease=600)
NAT_PMP_PORT = 5351  # and PCP's
OFF_PATH = "192.168.1.66"
FORGED = "6.6.6.6"
AT_ONCE = 3  # seconds; a request that nobody answers is given up in 2
IN_TIME = 8  # seconds; an answer that drips is cut after 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all: the daemon is not started."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made = Home(lab)
        made.router.ip(f"addr add {OFF_PATH}/24 dev lan0")
        yield made
    finally:
        lab.remove()


@pytest.fixture
def router(home: Home) -> Iterator[FakeRouter]:
    with FakeRouter(home.router) as fake:
        yield fake


@pytest.fixture
def elsewhere(home: Home) -> Iterator[FakeRouter]:
    """What a router wants this host to ask, which must never be asked."""
    with FakeRouter(home.outside) as fake:
        fake.on_http(STRANGER_V4, 80, lambda *_: b"")
        yield fake
    assert not fake.connections, "a host that the router named was asked"


def refused_within(home: Home, method: str, seconds: float) -> MappingError:
    start = time.monotonic()
    with home.inside.inside(), pytest.raises(MappingError) as refusal:
        discovery.find(method).map(WANTED)
    assert time.monotonic() - start < seconds
    return refusal.value


# --- PCP and NAT-PMP


def _pcp(request: bytes, external: str = WAN_ADDRESS) -> bytes:
    """A good answer."""
    head = struct.pack(">BBBBII12x", 2, request[1] | 0x80, 0, 0, 600, 1000)
    if len(request) < 60:
        return head
    address = bytes(10) + b"\xff\xff" + bytes(map(int, external.split(".")))
    return head + request[24:44] + address


def _natpmp(request: bytes, external: str = WAN_ADDRESS) -> bytes:
    head = struct.pack(">BBHI", 0, request[1] | 0x80, 0, 1000)
    if request[1] == 0:
        return head + bytes(map(int, external.split(".")))
    return head + request[4:8] + struct.pack(">I", 600)


GOOD = {"pcp": _pcp, "nat-pmp": _natpmp}
BOTH = pytest.mark.parametrize("method", ["pcp", "nat-pmp"])


def _strange(method: str, request: bytes) -> list[bytes]:
    """What looks like an answer and is none."""
    good = GOOD[method](request, FORGED)
    strange = [
        b"",
        good[:3],
        good[:-4],
        bytes([good[0], good[1] ^ 0x01]) + good[2:],  # to another question
        bytes([good[0], good[1] & 0x7F]) + good[2:],  # a request
        good + bytes(1200),
    ]
    if method == "pcp" and len(request) >= 60:
        strange.append(good[:24] + bytes(12) + good[36:])  # another nonce
    return strange


@BOTH
def test_only_the_router_itself_is_heard(home: Home, router: FakeRouter, method: str) -> None:
    """The forged answers arrive before the router's own."""

    def answer(request: bytes) -> Answers:
        forged, good = GOOD[method](request, FORGED), GOOD[method](request)
        return [(forged, (OFF_PATH, NAT_PMP_PORT)), (forged, (GATEWAY, NAT_PMP_PORT + 1)), (good, None)]

    router.on_udp(GATEWAY, NAT_PMP_PORT, answer)
    with home.inside.inside():
        client: Client = discovery.find(method)
        assert client.map(WANTED) == Granted(WAN_ADDRESS, 40000, 600)


@BOTH
def test_forged_answers_alone_are_no_router(home: Home, router: FakeRouter, method: str) -> None:
    router.on_udp(GATEWAY, NAT_PMP_PORT, lambda request: [(GOOD[method](request, FORGED), (OFF_PATH, NAT_PMP_PORT))])
    refused_within(home, method, AT_ONCE)


@BOTH
def test_strange_answers_are_passed_over(home: Home, router: FakeRouter, method: str) -> None:
    router.on_udp(
        GATEWAY,
        NAT_PMP_PORT,
        lambda request: [(reply, None) for reply in (*_strange(method, request), GOOD[method](request))],
    )
    with home.inside.inside():
        assert discovery.find(method).map(WANTED) == Granted(WAN_ADDRESS, 40000, 600)


@BOTH
def test_strange_answers_alone_are_no_router(home: Home, router: FakeRouter, method: str) -> None:
    router.on_udp(GATEWAY, NAT_PMP_PORT, lambda request: [(reply, None) for reply in _strange(method, request) * 20])
    refused_within(home, method, AT_ONCE)


# --- UPnP


def _found(location: str) -> bytes:
    target = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    return f"HTTP/1.1 200 OK\r\nST: {target}\r\nUSN: uuid:1::{target}\r\nLOCATION: {location}\r\n\r\n".encode()


def _description(control: str = "/control") -> str:
    return f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>{control}</controlURL>
<eventSubURL>/event</eventSubURL><SCPDURL>/scpd.xml</SCPDURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""


_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE bomb [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {one} "{f"&{other};" * 10}">' for other, one in itertools.pairwise("abcdefghij"))
    + "]><root>&j;</root>"
)
_FILE = '<?xml version="1.0"?><!DOCTYPE root [<!ENTITY file SYSTEM "file:///etc/passwd">]><root>&file;</root>'
_HEAD = b"HTTP/1.1 200 OK\r\n"


def _drip() -> Iterator[bytes]:
    yield _HEAD + b"Content-Length: 100000\r\n\r\n"
    while True:
        time.sleep(0.1)
        yield b"<"


def _chunks() -> Iterator[bytes]:
    yield _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"1000\r\n" + b"<" * 0x1000 + b"\r\n"


HOSTILE = {
    "a redirect": response("", "302 Found", f"Location: http://{STRANGER_V4}/\r\n"),
    "an entity bomb": response(_BOMB),
    "a file of this host": response(_FILE),
    "deep nesting": response("<a>" * 100_000),
    "an endless body": lambda: itertools.chain([_HEAD + b"\r\n"], itertools.repeat(b"<" * 65536)),
    "endless chunks": _chunks,
    "a body that drips": _drip,
    "endless headers": lambda: itertools.chain([_HEAD], itertools.repeat(b"X: y\r\n" * 1000)),
    "one endless header": lambda: itertools.chain([_HEAD + b"X: "], itertools.repeat(b"y" * 65536)),
    "a body of ten terabytes": _HEAD + b"Content-Length: 10000000000000\r\n\r\n<root/>",
    "a negative length": _HEAD + b"Content-Length: -1\r\n\r\n<root/>",
    "what is no HTTP": b"\0" * 1000,
    "nothing": b"",
}


def _serve(what: bytes | object) -> OnRequest:
    return lambda *_: what if isinstance(what, bytes) else what()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_description_is_refused(home: Home, router: FakeRouter, elsewhere: FakeRouter, what: str) -> None:
    router.on_udp(GATEWAY, 1900, lambda _: [(_found(f"http://{GATEWAY}:5000/"), None)])
    router.on_http(GATEWAY, 5000, _serve(HOSTILE[what]))
    refused_within(home, "upnp", IN_TIME)


@pytest.mark.parametrize("what", [what for what in HOSTILE if "drips" not in what])
def test_a_hostile_answer_to_an_action_is_refused(
    home: Home, router: FakeRouter, elsewhere: FakeRouter, what: str
) -> None:
    def answer(line: bytes, _action: str) -> bytes | Iterator[bytes]:
        return response(_description()) if line.startswith(b"GET") else _serve(HOSTILE[what])(line, "")

    router.on_udp(GATEWAY, 1900, lambda _: [(_found(f"http://{GATEWAY}:5000/"), None)])
    router.on_http(GATEWAY, 5000, answer)
    refused_within(home, "upnp", IN_TIME)


@pytest.mark.parametrize(
    "location",
    [
        f"http://{STRANGER_V4}/",
        f"http://{GATEWAY}@{STRANGER_V4}/",
        f"http://{GATEWAY}.{STRANGER_V4}.example/",
        "http://localhost/",
        "http://127.0.0.1/",
        f"https://{GATEWAY}/",
        "file:///etc/passwd",
        f"http://{GATEWAY}:99999/",
        "http://[::1",
        "",
    ],
)
def test_a_description_elsewhere_is_not_fetched(
    home: Home, router: FakeRouter, elsewhere: FakeRouter, location: str
) -> None:
    router.on_udp(GATEWAY, 1900, lambda _: [(_found(location), None)])
    refused_within(home, "upnp", IN_TIME)


@pytest.mark.parametrize(
    "address",
    [
        "2001:db8::1%x&#10;[Interface]&#10;PreUp = touch /tmp/owned",
        "2001:db8::1%x&#x1b;[2J",
        "198.51.100.1&#10;[Peer]",
        "1" * 100_000,
        "١٩٢.0.2.1",
    ],
)
def test_an_external_address_is_an_address_or_nothing(home: Home, router: FakeRouter, address: str) -> None:
    Gateway(GATEWAY, INSIDE, address).serve(router)
    said = str(refused_within(home, "upnp", IN_TIME))
    assert "names an external address that is none" in said
    assert said.isprintable() and len(said) < 1500


def test_an_external_address_is_told_as_an_address_or_not_at_all(
    home: Home, router: FakeRouter, tmp_path: Path
) -> None:
    """By modules, keeper and relay: it goes into other hosts' files."""
    Gateway(GATEWAY, INSIDE, "2001:db8::1%x&#10;[Interface]&#10;PreUp = touch /tmp/owned").serve(router)
    options = {"method": "upnp", "internal_port": 40000, "lease_file": str(tmp_path / "leases.json")}
    with pytest.raises(RuntimeError, match="names an external address that is none") as failed:
        run_module(home.inside, "port_mapping", **options)
    assert '"external_address"' not in str(failed.value)
    assert run_module(home.inside, "port_mapping_info", method="upnp")["external_address"] == ""
    with Keeper(home.inside, tmp_path, {"name": "relay", "internal_port": 40000}, method="upnp") as made:
        wait_until("it is told", lambda: "that is none" in str(made.status()), 10)
        status = made.status()
        assert status["external_address"] == ""
        assert [mapping["external_address"] for mapping in status["mappings"]] == [""]
        assert router_status.parse(made.status_file.read_bytes())["external_address"] == ""


def test_those_who_keep_us_waiting_do_not_hide_the_router(home: Home, router: FakeRouter, tmp_path: Path) -> None:
    """32 answers in the router's name, each with a description that never comes, and then its own."""
    box = Gateway(GATEWAY, INSIDE, WAN_ADDRESS)
    router.on_http(GATEWAY, 81, lambda *_: _forever())
    router.on_http(GATEWAY, 5000, box.answer)
    found = _found(f"http://{GATEWAY}:5000/desc.xml")

    def search(_request: bytes) -> Answers:
        tar = [(_found(f"http://{GATEWAY}:81/{number}"), None) for number in range(32)]
        return [*tar, (found, None)]

    router.on_udp(GATEWAY, 1900, search)
    with home.inside.inside():
        start = time.monotonic()
        assert discovery.find("upnp").map(WANTED) == Granted(WAN_ADDRESS, 40000, 600)
        assert time.monotonic() - start < 25
    with Keeper(home.inside, tmp_path, {"name": "relay", "internal_port": 40000}, method="upnp") as made:
        ages, mapped = [], False
        start = time.monotonic()
        while not mapped and time.monotonic() - start < 40:
            time.sleep(0.5)
            ages.append(time.time() - made.status()["updated"])
            mapped = made.mapping()["state"] == "mapped"
        assert mapped
        assert max(ages) < 11, "its loop waits for nobody"
        assert made.memory() < 64 << 20


def _forever() -> Iterator[bytes]:
    yield _HEAD
    while True:
        time.sleep(0.5)
        yield b"X"


def test_a_service_elsewhere_is_not_called(home: Home, router: FakeRouter, elsewhere: FakeRouter) -> None:
    router.on_udp(GATEWAY, 1900, lambda _: [(_found(f"http://{GATEWAY}:5000/"), None)])
    router.on_http(GATEWAY, 5000, lambda *_: response(_description(f"http://{STRANGER_V4}/control")))
    refused_within(home, "upnp", IN_TIME)


def test_an_answer_to_a_search_from_elsewhere_is_not_the_router(
    home: Home, router: FakeRouter, elsewhere: FakeRouter
) -> None:
    """Another host says that the router is at a stranger's."""
    answer = _found(f"http://{STRANGER_V4}/")
    router.on_udp(GATEWAY, 1900, lambda _: [(answer, (OFF_PATH, 1900))])
    refused_within(home, "upnp", IN_TIME)
