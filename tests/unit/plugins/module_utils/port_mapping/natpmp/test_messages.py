# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec of NAT-PMP: octets as RFC 6886 draws them, and as miniupnpd 2.3.1 sends them."""

import struct

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed, Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import messages as natpmp
from hypothesis import given
from hypothesis import strategies as st

# Recorded.
ADDRESS = bytes.fromhex("00800000000000070b162115")
MAPPED = bytes.fromhex("00810000000000079c4001bb00000e10")
UNKNOWN_OPCODE = bytes.fromhex("0089000500000001")
PCP_ONLY = bytes.fromhex("028000010000000000000001000000000000000000000000")


def test_address():
    assert natpmp.address_request() == b"\0\0"
    assert natpmp.read_address(ADDRESS) == natpmp.Response(result=0, epoch=7, address="11.22.33.21")


def test_no_address():
    assert natpmp.read_address(ADDRESS[:8] + bytes(4)).address == ""


def test_map():
    assert natpmp.map_request("udp", 40000, 443, 3600).hex() == "000100009c4001bb00000e10"
    assert natpmp.map_request("tcp", 40000, 0, 0).hex() == "000200009c40000000000000"
    assert natpmp.read_map(MAPPED, "udp", 40000) == natpmp.Response(0, 7, "", 443, 3600)


@pytest.mark.parametrize("body", [b"", bytes(4), bytes(8), bytes(100)])
@pytest.mark.parametrize("result", [1, 2, 3, 4, 5, 6, 65535])
def test_a_refusal_need_not_have_a_body(result, body):
    assert natpmp.read_map(struct.pack(">BBHI", 0, 129, result, 9) + body, "udp", 40000) == (result, 9, "", 0, 0)
    assert natpmp.read_address(struct.pack(">BBHI", 0, 128, result, 9) + body) == (result, 9, "", 0, 0)


def test_refusal_of_the_version():
    """Section 3.5: opcode 0, result 1."""
    assert natpmp.read_map(bytes.fromhex("0000000100000007"), "udp", 40000).result == 1


def test_a_server_of_the_successor():
    for read in (natpmp.read_address, lambda datagram: natpmp.read_map(datagram, "udp", 40000)):
        with pytest.raises(Unreachable, match="speaks version 2 of NAT-PMP's successor PCP, not NAT-PMP"):
            read(PCP_ONLY)


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        (b"", "has 0 octets"),
        (MAPPED[:7], "has 7 octets"),
        (MAPPED[:15], "has 15 octets instead of 16"),
        (MAPPED + b"\0", "has 17 octets instead of 16"),
        (ADDRESS, "kind 128"),
        (UNKNOWN_OPCODE, "kind 137"),
        (b"\0\x01" + MAPPED[2:], "kind 1$"),  # a request
        (b"\0\x82" + MAPPED[2:], "kind 130"),  # of TCP
        (MAPPED[:8] + b"\0\x01" + MAPPED[10:], "about port 1, not 40000"),
    ],
)
def test_what_is_no_answer(datagram, words):
    with pytest.raises(Malformed, match=words):
        natpmp.read_map(datagram, "udp", 40000)


def test_every_result_of_the_standard_has_words():
    assert sorted({*natpmp.RESULTS, natpmp.NETWORK_FAILURE}) == list(range(1, 6))
    assert all(answer.name and answer.words and answer.fix for answer in natpmp.RESULTS.values())


@given(
    st.sampled_from(["udp", "tcp"]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_a_request_comes_back_as_its_answer(protocol, internal, external, lifetime, epoch):
    request = natpmp.map_request(protocol, internal, external, lifetime)
    datagram = struct.pack(">BBHI", 0, request[1] | 128, 0, epoch) + request[4:]
    assert natpmp.read_map(datagram, protocol, internal) == natpmp.Response(0, epoch, "", external, lifetime)


@given(st.binary(max_size=40))
def test_anything_is_read_or_refused(datagram):
    for read in (natpmp.read_address, lambda data: natpmp.read_map(data, "udp", 40000)):
        try:
            read(datagram)
        except (Malformed, Unreachable) as error:
            assert str(error)
