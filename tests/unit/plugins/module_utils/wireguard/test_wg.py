# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what wg prints."""

import base64
import contextlib

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import (
    WireGuardError,
    format_endpoint,
    is_key,
    parse_dump,
    parse_endpoint,
)
from hypothesis import given
from hypothesis import strategies as st

SECRET, OWN, PEER = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
FIRST = f"{SECRET}\t{OWN}\t51820\toff"


def line(**changes):
    fields = {
        "key": PEER,
        "psk": "(none)",
        "endpoint": "192.0.2.1:40000",
        "allowed": "10.77.0.1/32,fd77::1/128",
        "handshake": "1700000000",
        "rx": "10",
        "tx": "20",
        "keepalive": "25",
    }
    return "\t".join({**fields, **changes}.values())


def test_a_dump():
    running = parse_dump(f"{FIRST}\n{line()}\n")
    assert (running.public_key, running.listen_port, running.fwmark) == (OWN, 51820, 0)
    peer = running.peers[PEER]
    assert peer.endpoint == "192.0.2.1:40000"
    assert peer.allowed_ips == {"10.77.0.1/32", "fd77::1/128"}
    assert (peer.latest_handshake, peer.rx_bytes, peer.tx_bytes, peer.persistent_keepalive) == (1700000000, 10, 20, 25)
    assert not peer.has_preshared_key


def test_what_is_not_set():
    running = parse_dump(f"(none)\t(none)\t0\t0x7072\n{line(endpoint='(none)', allowed='(none)', keepalive='off')}")
    peer = running.peers[PEER]
    assert (running.public_key, running.fwmark) == ("", 0x7072)
    assert (peer.endpoint, peer.allowed_ips, peer.persistent_keepalive) == ("", frozenset(), 0)


def test_no_secret_is_kept():
    running = parse_dump(f"{FIRST}\n{line(psk=SECRET)}")
    assert running.peers[PEER].has_preshared_key
    assert SECRET not in repr(running)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"{SECRET}\t{OWN}\t51820",
        f"{SECRET}\tAAAA\t51820\toff",
        f"{SECRET}\t{OWN}\t99999\toff",
        f"{SECRET}\t{OWN}\t51820\tmark",
        f"{FIRST}\n{PEER}",
        f"{FIRST}\n{line()}\n{line()}",
        *(
            f"{FIRST}\n{line(**{field: bad})}"
            for field, bad in [
                ("key", "x"),
                ("endpoint", "nowhere"),
                ("allowed", "10.0.0.1/8"),
                ("handshake", "-1"),
                ("rx", "1" * 30),
                ("tx", "²"),
                ("keepalive", "70000"),
            ]
        ),
    ],
)
def test_a_dump_that_does_not_fit_is_refused_without_its_secrets(text):
    with pytest.raises(WireGuardError) as caught:
        parse_dump(text)
    assert "wg show dump" in str(caught.value)
    assert SECRET not in str(caught.value)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(WireGuardError):
        parse_dump(text)


@given(st.lists(st.sampled_from([SECRET, "(none)", "off", "1", "10.0.0.0/8", "a:1", "\t", "\n", "x"])))
def test_any_mixture_is_read_or_refused(parts):
    with contextlib.suppress(WireGuardError):
        parse_dump("\t".join(parts))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.1:40000", ("192.0.2.1", 40000)),
        ("[2001:db8::1]:1", ("2001:db8::1", 1)),
        ("relay.example:65535", ("relay.example", 65535)),
    ],
)
def test_endpoints(text, parts):
    assert parse_endpoint(text) == parts
    assert format_endpoint(*parts) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "2001:db8::1:40000", "[host]:1", "host:0", "host:65536", "host:x"])
def test_bad_endpoints(text):
    with pytest.raises(WireGuardError, match="endpoint"):
        parse_endpoint(text)


@given(st.binary(max_size=40))
def test_a_key_has_32_bytes(data):
    assert is_key(base64.b64encode(data).decode()) == (len(data) == 32)
