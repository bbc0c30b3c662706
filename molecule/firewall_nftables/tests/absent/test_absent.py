from __future__ import annotations

import pytest
from lab import machine, run
from reach import has_open, is_closed, reboot


def test_the_port_is_closed_again() -> None:
    assert is_closed("relay")


def test_the_firewall_that_was_turned_on_is_gone() -> None:
    assert has_open("fresh", "40000/udp", "40001/udp", "22/tcp")
    assert "peer_relay" not in run("fresh", "nft list ruleset")


def test_the_rules_are_as_they_were() -> None:
    assert run("relay", "nft --stateless list ruleset") == run("relay", "cat /root/somebodys-rules")


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_nothing_is_left(name: str) -> None:
    assert run(name, "find /etc /usr/local /run/systemd -name '*peer?relay*'") == ""
    assert not machine(name).service("peer-relay-firewall").exists


def test_it_stays_closed_after_a_reboot() -> None:
    reboot("relay")
    assert is_closed("relay")
