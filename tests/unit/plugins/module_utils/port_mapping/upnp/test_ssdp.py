# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for gateways: its messages, and whose answers count."""

import socket
import threading

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import search as upnp_search
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import ssdp

GATEWAY = "urn:schemas-upnp-org:device:InternetGatewayDevice:"
# As sent by miniupnpd 2.3.1.
MINIUPNPD = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"USN: uuid:00000000-0000-0000-0000-000000000001::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\n"
    b"SERVER: Debian/6.18.44 UPnP/1.1 MiniUPnPd/2.3.1\r\nLOCATION: http://192.168.7.1:46691/rootDesc.xml\r\n"
    b'OPT: "http://schemas.upnp.org/upnp/1/0/"; ns=01\r\n01-NLS: 1795437155\r\nBOOTID.UPNP.ORG: 1795437155\r\n'
    b"CONFIGID.UPNP.ORG: 1337\r\n\r\n"
)
# As the Portable SDK sends it, which most vendors build on: no boot id, empty and odd headers.
PORTABLE_SDK = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nDATE: Tue, 14 Dec 2021 07:51:29 GMT\r\nEXT:\r\n"
    b"LOCATION: http://192.168.0.1:49153/69692b70/gatedesc0b.xml\r\n01-NLS: cabd6488-1dd1-11b2-9e52-a7461e1f098e\r\n"
    b"SERVER: \r\nUser-Agent: redsonic\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)


def test_search_message():
    first, second, *others = ssdp.searches(4)
    assert first == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
    assert b"InternetGatewayDevice:2\r\n" in second
    assert b"HOST: [ff02::c]:1900\r\n" in ssdp.searches(6)[0]
    # Routers that do not answer a search for the device.
    assert any(b"ST: upnp:rootdevice\r\n" in other for other in others)
    assert sum(b"ST: urn:schemas-upnp-org:service:WAN" in other for other in others) == 4


@pytest.mark.parametrize("target", ["upnp:rootdevice", "urn:schemas-upnp-org:service:WANPPPConnection:1"])
def test_answers_of_another_kind(target):
    datagram = MINIUPNPD.replace(f"ST: {GATEWAY}1".encode(), f"ST: {target}".encode())
    assert ssdp.parse(datagram).target == target


def test_lines_that_end_with_a_feed_alone():
    assert ssdp.parse(MINIUPNPD.replace(b"\r\n", b"\n")) == ssdp.parse(MINIUPNPD)


@pytest.mark.parametrize(
    ("datagram", "answer"),
    [
        (MINIUPNPD, ssdp.Answer(f"{GATEWAY}1", "http://192.168.7.1:46691/rootDesc.xml", 1795437155)),
        (PORTABLE_SDK, ssdp.Answer(f"{GATEWAY}1", "http://192.168.0.1:49153/69692b70/gatedesc0b.xml", None)),
    ],
)
def test_answers_of_routers(datagram, answer):
    assert ssdp.parse(datagram) == answer


def test_header_names_in_any_case_and_the_first_counts():
    datagram = (
        b"HTTP/1.0 200 OK\r\nst:urn:schemas-upnp-org:device:InternetGatewayDevice:2\r\nlocation:\thttp://192.0.2.1/a\r\n"
        b"Location: http://192.0.2.1/b\r\nbootid.upnp.org: 7\r\n\r\n"
    )
    assert ssdp.parse(datagram) == ssdp.Answer(f"{GATEWAY}2", "http://192.0.2.1/a", 7)


@pytest.mark.parametrize("boot_id", [b"-1", b"", b"1e3", b"\xb2", b"9" * 5000, b"0x10"])
def test_a_boot_id_that_is_no_number_is_none(boot_id):
    assert ssdp.parse(MINIUPNPD.replace(b"ORG: 1795437155", b"ORG: " + boot_id)).boot_id is None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0" * 500,
        b"\r\n" * 500,
        b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.0.2.1/\r\n\r\n",
        b"M-SEARCH * HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
        MINIUPNPD.replace(b"InternetGatewayDevice", b"MediaServer"),
        MINIUPNPD.replace(b"LOCATION", b"X-LOCATION"),
        MINIUPNPD[:60],
    ],
)
def test_everything_else_is_malformed(datagram):
    with pytest.raises(Malformed):
        ssdp.parse(datagram)


class Responder:
    """A UDP socket on a loopback address that answers each datagram with those given."""

    def __init__(self, *answers, address="127.0.0.1", other=()):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, 0))
        self.other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.answers, self.others = answers, other
        self.heard = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            _search, sender = self.sock.recvfrom(2048)
            if not _search:
                return
            self.heard += 1
            for answer in self.others:
                self.other.sendto(answer, sender)
            for answer in self.answers:
                self.sock.sendto(answer, sender)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.other.sendto(b"", self.sock.getsockname())
        self.thread.join(5)
        self.sock.close()
        self.other.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(upnp_search, "_SECONDS", 0.4)
    monkeypatch.setattr(upnp_search, "_REPEAT", 0.15)


def search(monkeypatch, responder):
    monkeypatch.setattr(ssdp, "PORT", responder.sock.getsockname()[1])
    return list(upnp_search.search("127.0.0.1", "127.0.0.1"))


def test_hears_each_answer_once_and_asks_again(monkeypatch):
    other = MINIUPNPD.replace(b"Device:1", b"Device:2").replace(b"rootDesc", b"rootDesc2")
    with Responder(b"noise", MINIUPNPD, MINIUPNPD, other) as responder:
        assert search(monkeypatch, responder) == [("127.0.0.1", ssdp.parse(text)) for text in (MINIUPNPD, other)]
        assert responder.heard >= 4  # both versions, twice


def test_does_not_hear_another_socket(monkeypatch):
    with Responder(other=[MINIUPNPD]) as responder:
        assert search(monkeypatch, responder) == []


def test_a_closed_port_is_no_answer_at_once(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(ssdp, "PORT", closed.getsockname()[1])
    monkeypatch.setattr(upnp_search, "_SECONDS", 60)
    assert list(upnp_search.search("127.0.0.1", "127.0.0.1")) == []


def test_an_address_that_is_not_this_hosts_is_no_answer():
    assert list(upnp_search.search("127.0.0.1", "192.0.2.77")) == []
