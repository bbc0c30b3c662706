from __future__ import annotations

import pytest
from lab import run
from reach import answers, is_open, reboot


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_the_port_is_open_and_others_are_not(name: str) -> None:
    assert is_open(name)


def test_the_port_is_open_in_the_zone_of_every_interface() -> None:
    assert answers(("udp", "192.0.2.10", 40000, ""), ("udp", "192.0.2.10", 40001, "")) == [True, False]


def test_bans_stay_in_force() -> None:
    assert answers(("udp", "198.51.100.10", 40000, "198.51.100.66")) == [False]


def test_the_rules_of_others_are_unchanged() -> None:
    permanent = run("relay", "firewall-cmd --permanent --list-all-zones")
    assert permanent.replace(" peer-relay", "") == run("relay", "cat /root/somebodys-rules")
    assert "8081/tcp" in run("relay", "firewall-cmd --list-ports"), "a runtime-only rule was lost"


@pytest.mark.parametrize("command", ["firewall-cmd --reload", "systemctl restart firewalld"])
@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_it_stays_open_when_the_firewall_is_loaded_anew(name: str, command: str) -> None:
    run(name, command)
    assert is_open(name)
    assert "peer-relay" in run(name, "firewall-cmd --list-services").split()


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_it_stays_open_after_a_reboot(name: str) -> None:
    reboot(name)
    assert is_open(name)
