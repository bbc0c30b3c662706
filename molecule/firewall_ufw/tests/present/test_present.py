from __future__ import annotations

import pytest
from lab import run
from reach import answers, is_open, reboot

RULE = "ufw allow 40000/udp comment 'homelab.peer_relay: relay'"


def rules(name: str) -> list[str]:
    return run(name, "ufw show added").splitlines()


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_the_port_is_open_and_others_are_not(name: str) -> None:
    assert is_open(name)
    assert rules(name).count(RULE) == 1


def test_bans_stay_in_force() -> None:
    assert answers(("udp", "198.51.100.10", 40000, "198.51.100.66")) == [False]


def test_the_rules_of_others_are_unchanged() -> None:
    assert [line for line in rules("relay") if line != RULE] == run("relay", "cat /root/somebodys-rules").splitlines()


def test_ssh_was_let_in_before_the_firewall_was_turned_on() -> None:
    assert rules("fresh")[1] == "ufw allow 22/tcp comment 'SSH, allowed by homelab.peer_relay'"


@pytest.mark.parametrize("command", ["ufw reload", "systemctl restart ufw"])
@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_it_stays_open_when_the_firewall_is_loaded_anew(name: str, command: str) -> None:
    run(name, command)
    assert is_open(name)


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_it_stays_open_after_a_reboot(name: str) -> None:
    reboot(name)
    assert is_open(name)
