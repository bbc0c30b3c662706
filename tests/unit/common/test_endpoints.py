# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""host:port as text: read in one way by all services."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from peer_common import endpoints


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:40000", "192.0.2.1", 40000),
        ("[2001:db8::1]:1", "2001:db8::1", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("relay.example.org:443", "relay.example.org", 443),
    ],
)
def test_what_is_written_is_read_again(text: str, host: str, port: int) -> None:
    assert endpoints.split(text) == (host, port)
    assert endpoints.join(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "9586",
        ":9586",
        "[]:9586",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:000080",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1: 1",
        "192.0.2.1:1_0",
        "192.0.2.1:\u0661",  # a digit of Arabic
        "192.0.2.1:\u00b2",  # what isdigit() takes for one, and int() does not
        "[192.0.2.1]:1",
        "2001:db8::1",
        "2001:db8::1:40000",  # where does the address end?
        "[2001:db8::1:40000",
        "2001:db8::1]:40000",
        "[2001:db8::1]",
        "[[2001:db8::1]:1",
        "192.0.2.1:" + "9" * 5000,
    ],
)
def test_all_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        endpoints.literal(text)


def test_a_literal_is_no_name() -> None:
    assert endpoints.literal("[2001:DB8:0::1]:5") == (ip_address("2001:db8::1"), 5)
    with pytest.raises(ValueError):
        endpoints.literal("relay.example.org:443")
