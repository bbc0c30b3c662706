# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses from other machines: only an address comes through."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.address import canonical_address, parse_address
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::0001", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:201", "192.0.2.1"),
        ("2001:0db8:0000:0000:0000:0000:192.168.200.101", "2001:db8::c0a8:c865"),
        (bytes([192, 0, 2, 1]), "192.0.2.1"),
        (bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]), "192.0.2.1"),
        (bytes.fromhex("20010db8") + bytes(11) + b"\1", "2001:db8::1"),
    ],
)
def test_one_text_for_one_address(value: str | bytes, address: str) -> None:
    assert canonical_address(value) == address
    assert parse_address(value) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "value",
    [
        "2001:db8::1%x\n[Interface]\nPreUp = id",
        "fe80::1%eth0",
        "fe80::1%",
        "192.0.2.1\n",
        " 192.0.2.1",
        "192.0.2.1/32",
        "192.0.2.1:80",
        "[2001:db8::1]",
        "192.0.2.01",
        "192.0.2",
        "3221225985",
        "0x7f000001",
        "١٩٢.0.2.1",
        "192。0。2。1",
        "::\u0661",
        "2001:db8::1\0",
        "\ud800",
        "",
        ":" * 100_000,
        "1" * 100_000,
        b"192.0.2.1",
        b"",
        bytes(5),
        bytes(100_000),
    ],
)
def test_what_is_no_address_is_named_in_short(value: str | bytes) -> None:
    with pytest.raises(ValueError, match="is no IP address: give one like") as error:
        parse_address(value)
    assert len(str(error.value)) < 400
    assert str(error.value).isascii()
    assert str(error.value).isprintable()


@given(st.text(st.sampled_from("0123456789abcdefx:.%/[] \n\0\u0661"), max_size=50))
def test_whatever_comes_through_is_an_address(text: str) -> None:
    try:
        written = canonical_address(text)
    except ValueError:
        return
    assert set(written) <= set("0123456789abcdef:.")
    assert canonical_address(written) == written
