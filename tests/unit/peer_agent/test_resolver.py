# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names are looked up past the tunnel where this host's own way gives nothing."""

from __future__ import annotations

import time
from pathlib import Path

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_agent.endpoints import Endpoint
from peer_agent.host import resolver

NAME = "relay.example"


def question(kind: str = "A") -> dnslib.DNSRecord:
    made = dnslib.DNSRecord.question(NAME, kind)
    made.header.id = 7
    return made


def answer(asked: dnslib.DNSRecord, *records: tuple[str, object]) -> bytes:
    made = asked.reply()
    for kind, data in records:
        made.add_answer(dnslib.RR(NAME, getattr(dnslib.QTYPE, kind), rdata=data, ttl=1))
    return made.pack()


def test_the_addresses_of_an_answer_are_read() -> None:
    records = ("CNAME", dnslib.CNAME("other.example")), ("A", dnslib.A("192.0.2.1")), ("A", dnslib.A("192.0.2.2"))
    assert resolver.read_answer(answer(question(), *records), question()) == ["192.0.2.1", "192.0.2.2"]
    asked = question("AAAA")
    assert resolver.read_answer(answer(asked, ("AAAA", dnslib.AAAA("2001:db8::1"))), asked) == ["2001:db8::1"]
    assert resolver.read_answer(answer(asked), asked) == []


def test_an_answer_to_something_else_is_none() -> None:
    other = question()
    other.header.id = 8
    told = ("A", dnslib.A("192.0.2.1"))
    assert resolver.read_answer(answer(other, told), question()) is None
    assert resolver.read_answer(question().pack(), question()) is None, "a question"
    assert resolver.read_answer(answer(question("AAAA"), told), question()) is None
    assert len(resolver.read_answer(answer(question(), *[told] * 40), question())) == resolver.MAX_ADDRESSES


@given(st.binary(max_size=200))
def test_nothing_that_comes_is_raised(packet: bytes) -> None:
    assert resolver.read_answer(packet, question()) in (None, [])
    resolver.read_answer(answer(question(), ("A", dnslib.A("192.0.2.1")))[:12] + packet, question())


def test_the_networks_resolvers_are_found_and_stubs_are_not(tmp_path: Path) -> None:
    assert resolver.servers(tmp_path) == []
    for file, text in {
        "etc/resolv.conf": "nameserver 127.0.0.53\nnameserver 10.77.1.1\n",
        "run/systemd/resolve/resolv.conf": "# from the router\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\n",
        "run/resolvconf/interface/eth0.dhcp": "search lan\nnameserver 192.168.1.1\nnameserver 2001:db8::53\n",
        "run/resolvconf/interface/broken": "nameserver \nnameserver nonsense\nnameserver " + "1" * 999,
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert resolver.servers(tmp_path) == ["192.168.1.1", "2001:db8::53", "10.77.1.1"]
    (tmp_path / "etc/resolv.conf.bak").write_text("nameserver 192.168.2.1\n")
    assert resolver.servers(tmp_path)[2:] == ["192.168.2.1", "10.77.1.1"], "what was there before the tunnel's"


def test_the_hosts_own_way_comes_first_and_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    past = [Endpoint("192.0.2.2", 1)]
    monkeypatch.setattr(resolver, "_past_the_tunnel", lambda *_: past)
    place = (2, 2, 17, "", ("192.0.2.1", 1))
    monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_, **__: [place])
    assert resolver.look_up(NAME, 1, 0) == [Endpoint("192.0.2.1", 1)]

    def hang(*_: object, **__: object) -> list:
        time.sleep(3)
        return [place]

    monkeypatch.setattr(resolver.socket, "getaddrinfo", hang)
    started = time.monotonic()
    assert resolver.look_up(NAME, 1, 0) == past
    assert time.monotonic() - started < 2.5
    started = time.monotonic()
    assert resolver.look_up(NAME, 1, 0) == past
    assert time.monotonic() - started < 1, "one look-up of a name at a time"
