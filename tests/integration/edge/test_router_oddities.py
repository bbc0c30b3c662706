# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routers that do not keep to their protocols and are understood all the same, as their owners reported them."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from harness.fake_gateway import DEVICE, SERVICE, Gateway, Reply, envelope, fault, http, results
from harness.fake_router import FakeRouter
from harness.keeper import Keeper
from harness.miniupnpd import GATEWAY, INSIDE, NEIGHBOR, WAN_ADDRESS, Home
from harness.processes import wait_until
from harness.topology import Lab
from port_mapping import discovery
from port_mapping.mapping import Conflict, Granted, Life, MappingError, Refused, Wanted

WANTED = Wanted(40000, 40000, lease=600)
OPEN = Granted(WAN_ADDRESS, 40000, 600)
CTL = "/ctl/0"
OTHER_CTL = "/ctl/1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all: the daemon is not started."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield Home(lab)
    finally:
        lab.remove()


@pytest.fixture
def router(home: Home) -> Iterator[FakeRouter]:
    with FakeRouter(home.router) as fake:
        yield fake


@pytest.fixture
def gateway() -> Gateway:
    return Gateway(GATEWAY, INSIDE, WAN_ADDRESS)


class Found:
    """What a client makes of the gateway."""

    def __init__(self, home: Home, router: FakeRouter, gateway: Gateway):
        gateway.serve(router)
        self._home = home
        with home.inside.inside():
            self.client = discovery.find("upnp")

    def map(self) -> Granted:
        with self._home.inside.inside():
            return self.client.map(WANTED)

    def look(self) -> Life:
        with self._home.inside.inside():
            return self.client.look()


def understood(home: Home, router: FakeRouter, gateway: Gateway, *oddities: str) -> None:
    """The port is open, and the client tells whose fault was which."""
    found = Found(home, router, gateway)
    assert found.map() == OPEN
    assert found.look().external_address == WAN_ADDRESS
    assert found.client.model == "Acme Box 7"
    assert found.client.oddities == oddities


def test_one_that_does_all_as_it_should(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    understood(home, router, gateway)


# --- two uplinks ------------------------------------------------------------------------------------------------------


def _silent() -> Iterator[bytes]:
    time.sleep(8)
    yield b""


BROKEN: dict[str, Callable[[], Reply]] = {
    "404": lambda: http("<html>Not Found</html>", "404 Not Found"),
    "nothing": lambda: b"",
    "silence": _silent,
    "garbage": lambda: bytes(range(256)) * 4,
    "no XML": lambda: http("Welcome"),
    "an endless body": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b"<" * 65536)),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("broken", [CTL, OTHER_CTL])
def test_the_other_service_is_used(home: Home, router: FakeRouter, gateway: Gateway, what: str, broken: str) -> None:
    gateway.services *= 2
    gateway.replies[broken, ""] = BROKEN[what]
    understood(home, router, gateway, "has a service that does not work")
    assert gateway.mapped == [OTHER_CTL if broken == CTL else CTL]


def test_a_service_that_breaks_with_the_mapping(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    gateway.services *= 2
    gateway.replies[CTL, "AddPortMapping"] = BROKEN["404"]
    understood(home, router, gateway, "has a service that does not work")
    assert gateway.mapped == [CTL, OTHER_CTL]


def test_the_uplink_that_has_an_address(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    gateway.services *= 2
    gateway.replies[CTL, "GetExternalIPAddress"] = lambda: http(results("GetExternalIPAddress"))
    understood(home, router, gateway)
    assert gateway.mapped == [OTHER_CTL]


# --- text -------------------------------------------------------------------------------------------------------------


def damaged(code: int) -> bytes:
    return fault(code).encode().replace(b"</errorDescription>", b"\xff\x01<errorDescr")


def test_a_code_in_a_damaged_fault(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    reply = http(damaged(714), "500 Internal Server Error")
    gateway.replies[CTL, "GetSpecificPortMappingEntry"] = lambda: reply if not gateway.mapped else http(gateway.entry())
    understood(home, router, gateway, "damages the text of its refusals", "sends text that is not UTF-8")


def test_a_refusal_that_is_damaged_is_one(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    gateway.replies[CTL, "AddPortMapping"] = lambda: http(damaged(606), "500 Internal Server Error")
    with pytest.raises(Refused, match=r"192\.168\.1\.1 \(Acme Box 7\) refuses AddPortMapping \(606\): its rules"):
        Found(home, router, gateway).map()


NAMES = {"cp1251": "Роутер", "latin-1": "Größe", "gb2312": "路由器"}


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("declared", [False, True])
def test_a_description_in_another_encoding(
    home: Home, router: FakeRouter, gateway: Gateway, encoding: str, declared: bool
) -> None:
    gateway.model += f"<friendlyName>{NAMES[encoding]}</friendlyName>"
    text = gateway.description()
    if declared:
        text = text.replace("?>", f' encoding="{encoding}"?>', 1)
    gateway.replies["/desc.xml", ""] = lambda: http(text.encode(encoding))
    understood(home, router, gateway, "sends text that is not UTF-8")


@pytest.mark.parametrize("encoding", NAMES)
def test_a_mapping_of_somebody_elses_in_another_encoding(
    home: Home, router: FakeRouter, gateway: Gateway, encoding: str
) -> None:
    entry = {"NewInternalPort": 40000, "NewInternalClient": NEIGHBOR, "NewPortMappingDescription": NAMES[encoding]}
    reply = http(results("GetSpecificPortMappingEntry", **entry).encode(encoding))
    gateway.replies[CTL, "GetSpecificPortMappingEntry"] = lambda: reply
    with pytest.raises(Conflict, match=NEIGHBOR):
        Found(home, router, gateway).map()
    assert not gateway.mapped


# --- finding it -------------------------------------------------------------------------------------------------------

NAMELESS = "names itself by an address that is none in the network"


@pytest.mark.parametrize("host", ["[::1]", "169.254.1.1", "127.0.0.1", "0.0.0.0"])
def test_a_location_that_names_nobody(home: Home, router: FakeRouter, gateway: Gateway, host: str) -> None:
    gateway.location = f"http://{host}:5000/desc.xml"
    understood(home, router, gateway, NAMELESS)


@pytest.mark.parametrize("target", ["upnp:rootdevice", f"{SERVICE}WANIPConnection:1", f"{SERVICE}WANPPPConnection:1"])
def test_one_that_answers_one_kind_of_search(home: Home, router: FakeRouter, gateway: Gateway, target: str) -> None:
    gateway.answers_to = (target,)
    understood(home, router, gateway)


def test_an_answer_whose_lines_end_with_a_feed(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    found = gateway.found
    gateway.found = lambda target=DEVICE: found(target).replace(b"\r\n", b"\n")
    understood(home, router, gateway)


# --- answers ----------------------------------------------------------------------------------------------------------

ADDRESS = results("GetExternalIPAddress", NewExternalIPAddress=WAN_ADDRESS)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def _open(body: str) -> Callable[[], Iterator[bytes]]:
    """An answer without a length, on a connection that stays open."""

    def reply() -> Iterator[bytes]:
        yield HEAD + body.encode()
        time.sleep(8)

    return reply


MISNAMED = "gives its answers no name, or a wrong one"
ODD: dict[str, tuple[str, Callable[[], Reply], tuple[str, ...]]] = {
    "a length that is too short": (
        "GetExternalIPAddress",
        lambda: http(ADDRESS, length=100),
        ("announces a length that is too short",),
    ),
    "a length that is too long": ("GetExternalIPAddress", lambda: http(ADDRESS, length=5000), ()),
    "no length, and the connection stays open": ("GetExternalIPAddress", _open(ADDRESS), ()),
    "an empty response": ("AddPortMapping", lambda: http(envelope("")), (MISNAMED,)),
    "a response of another name": (
        "GetExternalIPAddress",
        lambda: http(ADDRESS.replace("GetExternalIPAddressResponse", "ExternalIPAddressResponse")),
        (MISNAMED,),
    ),
    "bytes after the end": (
        "GetExternalIPAddress",
        lambda: http(f"{ADDRESS}\r\n\0\0garbage<"),
        ("sends something after the end of its documents",),
    ),
    "header lines that end with a feed": (
        "GetExternalIPAddress",
        lambda: http(ADDRESS).replace(b"\r\n", b"\n"),
        (),
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_an_answer_that_is_odd(home: Home, router: FakeRouter, gateway: Gateway, what: str) -> None:
    action, reply, oddities = ODD[what]
    gateway.replies[CTL, action] = reply
    start = time.monotonic()
    understood(home, router, gateway, *oddities)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found"])
def test_a_fault_with_another_status(home: Home, router: FakeRouter, gateway: Gateway, status: str) -> None:
    gateway.replies[CTL, "GetSpecificPortMappingEntry"] = lambda: (
        http(gateway.entry()) if gateway.mapped else http(fault(714), status)
    )
    understood(home, router, gateway, "refuses with another HTTP status than 500")


def test_null_is_no_address(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    gateway.external = "(null)"
    found = Found(home, router, gateway)
    assert found.look().external_address == ""
    assert found.client.oddities == ("says (null) where it has no external address",)


@pytest.mark.parametrize("action", ["GetExternalIPAddress", "AddPortMapping"])
def test_what_can_mean_anything_is_refused_with_the_model(
    home: Home, router: FakeRouter, gateway: Gateway, action: str
) -> None:
    gateway.replies[CTL, action] = lambda: http("<html>Login</html>")
    with pytest.raises(MappingError, match=r"192\.168\.1\.1 \(Acme Box 7\) answers " + action):
        Found(home, router, gateway).map()


# --- the keeper -------------------------------------------------------------------------------------------------------

RELAY = {"name": "relay", "internal_port": 40000}


def test_the_keeper_tells_the_model_and_what_is_wrong_with_it(home: Home, router: FakeRouter, gateway: Gateway) -> None:
    gateway.location = "http://[::1]:5000/desc.xml"
    gateway.model += "<friendlyName>Größe</friendlyName>"
    text = gateway.description().encode("latin-1")
    gateway.replies["/desc.xml", ""] = lambda: http(text)
    gateway.serve(router)
    with Keeper(home.inside, home.lab.folder, RELAY, method="upnp") as made:
        made.wait_state("mapped")
        status = made.status()
        assert status["router_model"] == "Acme Box 7"
        assert status["router_oddities"] == [NAMELESS, "sends text that is not UTF-8"]
        assert status["problems"] == []
        assert f"the router {NAMELESS}: understood all the same" in made.command("status")


def test_an_epoch_that_stands_still_tells_nothing(home: Home, router: FakeRouter) -> None:
    asked: list[int] = []

    def answer(request: bytes) -> list:
        asked.append(request[1])
        head = struct.pack(">BBHI", 0, request[1] | 0x80, 0, 0)
        tail = bytes(map(int, WAN_ADDRESS.split("."))) if not request[1] else request[4:8] + struct.pack(">I", 600)
        return [(head + tail, None)]

    router.on_udp(GATEWAY, 5351, answer)
    with Keeper(home.inside, home.lab.folder, RELAY, method="nat-pmp") as made:
        made.wait_state("mapped")
        wait_until("it has been asked some times", lambda: asked.count(0) > 8, 60)
        assert asked.count(1) <= 2
        wait_until("it is told", lambda: "stands still" in str(made.status()["router_oddities"]), 12)
        assert made.status()["problems"] == []
