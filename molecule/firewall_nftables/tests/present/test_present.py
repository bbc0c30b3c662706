from __future__ import annotations

import pytest
from lab import machine, run
from reach import answers, is_closed, is_open, reboot

TAG = 'comment "homelab.peer_relay: relay"'


def listing(name: str) -> list[str]:
    return run(name, "nft --stateless list ruleset").splitlines()


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_the_port_is_open_and_others_are_not(name: str) -> None:
    assert is_open(name)


def test_every_chain_that_drops_has_one_rule() -> None:
    assert sum(TAG in line for line in listing("relay")) == 2


def test_bans_stay_in_force() -> None:
    assert answers(("udp", "198.51.100.10", 40000, "198.51.100.66")) == [False]


def test_the_rules_of_others_are_unchanged() -> None:
    before = run("relay", "cat /root/somebodys-rules").splitlines()
    assert [line for line in listing("relay") if TAG not in line] == before


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("relay", "systemctl reload nftables"),
        ("relay", "systemctl restart nftables"),
        ("relay", "systemctl stop nftables && systemctl start nftables"),
        ("fresh", "systemctl start nftables"),
    ],
)
def test_it_stays_open_when_the_ruleset_is_loaded_anew(name: str, command: str) -> None:
    run(name, command)
    assert is_open(name)


def test_it_follows_a_ruleset_that_has_changed() -> None:
    run("relay", "sed -i.before 's/table inet filter/table inet walls/; s/chain input/chain gate/' /etc/nftables.conf")
    run("relay", "systemctl reload nftables")
    assert is_open("relay")
    run("relay", "mv /etc/nftables.conf.before /etc/nftables.conf && systemctl reload nftables")
    assert is_open("relay")


def test_a_chain_of_iptables_is_written_by_iptables() -> None:
    run("relay", "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    run("relay", "iptables -A INPUT -p tcp --dport 22 -j ACCEPT")
    run("relay", "iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited")
    assert answers(("udp", "198.51.100.10", 40000, "")) == [False]
    run("relay", "systemctl restart peer-relay-firewall")
    assert is_open("relay")
    assert "homelab.peer_relay: relay" in run("relay", "iptables -S INPUT").splitlines()[3]
    run("relay", "systemctl restart nftables")


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_it_stays_open_after_a_reboot(name: str) -> None:
    reboot(name)
    assert is_open(name)
    assert machine(name).service("peer-relay-firewall").is_running


def test_the_listing_without_the_unit_is_somebodys_own() -> None:
    run("relay", "nft -f /etc/nftables.conf")
    assert is_closed("relay")
    run("relay", "systemctl restart peer-relay-firewall")
    assert is_open("relay")
