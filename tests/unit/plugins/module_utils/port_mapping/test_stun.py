# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A binding request of STUN, with the test vectors of RFC 5769."""

import struct

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import stun
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Malformed,
    MappingError,
    Unreachable,
)
from hypothesis import given
from hypothesis import strategies as st

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
HEADER = "2112a442b7e7a701bc34d686fa87dfae"
SOFTWARE = "8022000b7465737420766563746f7220"
# Sections 2.2 and 2.3.
RESPONSE_V4 = bytes.fromhex(
    f"0101003c{HEADER}{SOFTWARE}002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(
    f"01010048{HEADER}{SOFTWARE}002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def response(*attributes, kind=0x0101):
    body = b"".join(
        struct.pack(">HH", number, len(value)) + value + bytes(-len(value) % 4) for number, value in attributes
    )
    return struct.pack(">HHI12s", kind, len(body), 0x2112A442, TRANSACTION) + body


def test_request():
    assert stun.request(TRANSACTION).hex() == "000100002112a442b7e7a701bc34d686fa87dfae"


def test_vectors_of_the_standard():
    assert stun.read(RESPONSE_V4, TRANSACTION) == "192.0.2.1"
    assert stun.read(RESPONSE_V6, TRANSACTION) == "2001:db8:1234:5678:11:2233:4455:6677"


def test_a_server_of_rfc_3489():
    plain = (0x0001, bytes.fromhex("00018055c0000201"))
    assert stun.read(response(plain, (0x0005, bytes(8))), TRANSACTION) == "192.0.2.1"
    disguised = (0x0020, bytes.fromhex("0001a147ea12a679"))
    assert stun.read(response(plain, disguised), TRANSACTION) == "203.0.2.59"


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        (b"", "has 0 octets"),
        (RESPONSE_V4[:19], "has 19 octets"),
        (RESPONSE_V4[:-4], "answers no question"),
        (RESPONSE_V4 + bytes(4), "answers no question"),
        (RESPONSE_V4[:4] + bytes(4) + RESPONSE_V4[8:], "answers no question"),  # no magic cookie
        (RESPONSE_V4[:8] + bytes(12) + RESPONSE_V4[20:], "answers no question"),  # another transaction
        (response(kind=0x0001), "type 0x0001"),
        (response(), "gives no address"),
        (response((0x0020, b"")), "no known family"),
        (response((0x0020, bytes(4))), "no known family"),
        (response((0x0020, bytes.fromhex("0003a147e112a643"))), "no known family"),
        (response((0x0020, bytes.fromhex("0002a147e112a643"))), "no known family"),
        (response((0x0001, bytes.fromhex("0001a147e112"))), "no known family"),
        (struct.pack(">HHI12sHH", 0x0101, 4, 0x2112A442, TRANSACTION, 0x8022, 9), "ends within an attribute"),
    ],
)
def test_what_is_no_answer(datagram, words):
    with pytest.raises(Malformed, match=words):
        stun.read(datagram, TRANSACTION)


def test_an_error():
    with pytest.raises(Unreachable, match="name another STUN server"):
        stun.read(response((0x0009, b"\0\0\4\0no"), kind=0x0111), TRANSACTION)


@pytest.mark.parametrize(
    ("server", "asked"),
    [
        ("192.0.2.1", ("192.0.2.1", 3478)),
        ("192.0.2.1:19302", ("192.0.2.1", 19302)),
        ("[2001:db8::1]:5", ("2001:db8::1", 5)),
        ("[2001:db8::1]", ("2001:db8::1", 3478)),
    ],
)
def test_servers(monkeypatch, server, asked):
    def exchange(address, port, request, read, *, patience):
        assert (address, port) == asked
        return read(response((0x0020, bytes.fromhex("0001a147e112a643"))).replace(TRANSACTION, request[8:]))

    monkeypatch.setattr(stun, "exchange", exchange)
    assert stun.ask(server, 6 if "::" in server else 4) == "192.0.2.1"


@pytest.mark.parametrize(
    "server", ["", ":3478", "host:", "host:0", "host:65536", "host:x", "host:²", "[::1", "[]:1", "::1"]
)
def test_what_is_no_server(server):
    with pytest.raises(MappingError, match=r"STUN server .* is not of the form HOST or HOST:PORT"):
        stun.ask(server)


@pytest.mark.parametrize("server", ["[2001:db8::1]", "a" * 70 + ".invalid", "a..b"])
def test_a_server_without_an_address(server):
    with pytest.raises(Unreachable, match="has no IPv4 address that is known here"):
        stun.ask(server, 4)


@given(st.binary(max_size=100), st.binary(max_size=4))
def test_anything_is_read_or_refused(attributes, start):
    body = (start + attributes)[: (len(start + attributes)) // 4 * 4]
    datagram = struct.pack(">HHI12s", 0x0101, len(body), 0x2112A442, TRANSACTION) + body
    for data in (attributes, datagram):
        try:
            stun.read(data, TRANSACTION)
        except (Malformed, Unreachable) as error:
            assert str(error)
