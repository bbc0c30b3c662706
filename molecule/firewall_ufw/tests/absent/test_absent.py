from __future__ import annotations

import pytest
from lab import run
from reach import is_closed


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_the_port_is_closed_again_and_ssh_is_not(name: str) -> None:
    assert is_closed(name)


def test_the_rules_are_as_they_were() -> None:
    assert run("relay", "ufw show added") == run("relay", "cat /root/somebodys-rules")


def test_the_firewall_that_was_turned_on_stays_on() -> None:
    assert "Status: active" in run("fresh", "ufw status")
    assert "homelab.peer_relay: " not in run("fresh", "ufw show added")
