# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec of PCP: octets as RFC 6887 draws them, and as miniupnpd 2.3.1 sends them."""

import ipaddress
import struct

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed, Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import messages as pcp
from hypothesis import given
from hypothesis import strategies as st

NONCE = bytes.fromhex("b6709600df37f3d9c0a95b6a")
MAPPING = pcp.Mapping(NONCE, 17, 40000, 443)

# Recorded; the first two are what this host sent, the others what the router answered.
ANNOUNCE = "020000000000000000000000000000000000ffffc0a8010b"
MAP = (
    "0201000000000e1000000000000000000000ffffc0a8010b"
    "b6709600df37f3d9c0a95b6a110000009c4001bb00000000000000000000ffff0000000002000000"
)
ANNOUNCED = "028000000000000000000007000000000000000000000000"
MAPPED = (
    "0281000000000e1000000007000000000000000000000000"
    "b6709600df37f3d9c0a95b6a110000009c4001bb00000000000000000000ffff0b16211502000000"
)
DENIED = (
    "0281000b0000000000000000000000000000000000000000"
    "b6709600df37f3d9c0a95b6a110000009c4001bb00000000000000000000ffff0b16211502000000"
)
MAPPED_V6 = (
    "0281000000000e1000000001000000000000000000000000"
    "b6709600df37f3d9c0a95b6a110000009c409c4020010db800010000000000000000001102000000"
)
OTHER_VERSION = "028000010000000000000001000000000000000000000000"
NAT_PMP_ONLY = "0080000100000001"


def test_announce():
    assert pcp.announce("192.168.1.11").hex() == ANNOUNCE
    assert pcp.read(bytes.fromhex(ANNOUNCED), pcp.ANNOUNCE) == pcp.Response(result=0, lifetime=0, epoch=7)


def test_map():
    assert pcp.map_request("192.168.1.11", MAPPING, 3600, prefer_failure=True).hex() == MAP
    granted = pcp.Mapping(NONCE, 17, 40000, 443, "11.22.33.21")
    assert pcp.read(bytes.fromhex(MAPPED), pcp.MAP) == pcp.Response(0, 3600, 7, granted)


def test_a_refusal_repeats_the_request():
    response = pcp.read(bytes.fromhex(DENIED), pcp.MAP)
    assert (response.result, response.mapping.is_answer_to(MAPPING)) == (pcp.CANNOT_PROVIDE_EXTERNAL, True)


def test_a_refusal_need_not_repeat_the_request():
    assert pcp.read(bytes.fromhex(DENIED)[:24], pcp.MAP) == pcp.Response(pcp.CANNOT_PROVIDE_EXTERNAL, 0, 0)


def test_the_end_of_a_mapping():
    """Section 15.1: lifetime 0, no external port, and no option, which would be malformed here."""
    request = pcp.map_request("192.168.1.11", pcp.Mapping(NONCE, 6, 40000), 0)
    assert request.hex() == (
        "020100000000000000000000000000000000ffffc0a8010b"
        "b6709600df37f3d9c0a95b6a060000009c40000000000000000000000000ffff00000000"
    )


def test_a_pinhole_of_ipv6():
    request = pcp.map_request("2001:db8:1::11", pcp.Mapping(NONCE, 17, 40000, 40000), 3600)
    assert request.hex() == (
        "0201000000000e1020010db8000100000000000000000011"
        "b6709600df37f3d9c0a95b6a110000009c409c4000000000000000000000000000000000"
    )
    assert pcp.read(bytes.fromhex(MAPPED_V6), pcp.MAP).mapping.external_address == "2001:db8:1::11"


@pytest.mark.parametrize("address", ["::", "::ffff:0.0.0.0"])
def test_no_external_address(address):
    datagram = bytes.fromhex(MAPPED)[:44] + ipaddress.IPv6Address(address).packed
    assert pcp.read(datagram, pcp.MAP).mapping.external_address == ""


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        (NAT_PMP_ONLY, "speaks NAT-PMP, not PCP version 2"),
        ("0000000100000001", "speaks NAT-PMP, not PCP version 2"),  # as RFC 6886, section 3.5, draws it
        ("01" + OTHER_VERSION[2:], "speaks version 1, not PCP version 2"),
    ],
)
def test_servers_of_another_version(datagram, words):
    with pytest.raises(Unreachable, match=words):
        pcp.read(bytes.fromhex(datagram), pcp.ANNOUNCE)


@pytest.mark.parametrize(
    ("datagram", "opcode", "words"),
    [
        (b"", pcp.ANNOUNCE, "has 0 octets"),
        (b"\x02", pcp.ANNOUNCE, "has 1 octets"),
        (bytes.fromhex(ANNOUNCED)[:20], pcp.ANNOUNCE, "has 20 octets"),
        (bytes.fromhex(ANNOUNCED) + b"\0", pcp.ANNOUNCE, "has 25 octets"),
        (bytes.fromhex(ANNOUNCED) + bytes(1080), pcp.ANNOUNCE, "has 1104 octets"),
        (bytes.fromhex(ANNOUNCE), pcp.ANNOUNCE, "version 2 and kind 0"),  # a request
        (bytes.fromhex(MAPPED), pcp.ANNOUNCE, "version 2 and kind 129"),
        (bytes.fromhex(ANNOUNCED), pcp.MAP, "version 2 and kind 128"),
        (bytes.fromhex(MAPPED)[:56], pcp.MAP, "does not say which"),
    ],
)
def test_what_is_no_answer(datagram, opcode, words):
    with pytest.raises(Malformed, match=words):
        pcp.read(datagram, opcode)


@pytest.mark.parametrize("other", [{"nonce": bytes(12)}, {"protocol": 6}, {"internal_port": 40001}])
def test_whose_answer_it_is(other):
    answer = pcp.Mapping(**{"nonce": NONCE, "protocol": 17, "internal_port": 40000, "external_port": 5} | other)
    assert not answer.is_answer_to(MAPPING)


def test_every_result_of_the_standard_has_words():
    assert sorted({*pcp.RESULTS, pcp.NETWORK_FAILURE}) == list(range(1, 14))
    assert all(answer.name.isupper() and answer.words and answer.fix for answer in pcp.RESULTS.values())


ADDRESSES = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
).filter(lambda address: not address.is_unspecified)


@given(
    st.binary(min_size=12, max_size=12),
    st.sampled_from([6, 17]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    ADDRESSES,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_a_request_comes_back_as_its_answer(nonce, protocol, internal, external, address, lifetime, epoch, prefer):
    mapping = pcp.Mapping(nonce, protocol, internal, external, str(address))
    request = pcp.map_request(str(address), mapping, lifetime, prefer)
    assert len(request) % 4 == 0
    header = struct.pack(">BBBBII12x", 2, 0x81, 0, 0, lifetime, epoch)
    assert pcp.read(header + request[24:], pcp.MAP) == pcp.Response(0, lifetime, epoch, mapping)


@given(st.binary(max_size=1200), st.sampled_from([pcp.ANNOUNCE, pcp.MAP]))
def test_anything_is_read_or_refused(datagram, opcode):
    try:
        pcp.read(datagram, opcode)
    except (Malformed, Unreachable) as error:
        assert str(error)
