from __future__ import annotations

import time

from lab import machine, run
from reach import answers

OUTER = ("udp", "198.51.100.21", 51820, "")
HOLE = ("udp", "2001:db8:1::10", 40000, "")


def test_nobody_gets_in() -> None:
    assert answers(OUTER, HOLE) == [False, False]
    assert answers(OUTER, asker="laptop") == [False]


def test_a_device_that_has_been_inside_is_out() -> None:
    before = run("laptop", "cat /run/answers")
    time.sleep(2)
    assert run("laptop", "cat /run/answers") == before


def test_the_rules_are_as_they_were() -> None:
    assert run("router", "nft --stateless list ruleset") == run("router", "cat /root/somebodys-rules")


def test_nothing_is_left() -> None:
    assert run("router", "find /etc /usr/local /run/systemd -name '*peer?relay*'") == ""
    assert not machine("router").service("peer-relay-forwards").exists
