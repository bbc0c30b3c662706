from __future__ import annotations

import json

import pytest
from lab import machine, run
from reach import answers

ADDRESSES = {"legacy": ("198.51.100.10", "2001:db8:ff::10"), "variant": ("198.51.100.11", "2001:db8:ff::11")}
PROGRAMS = {"legacy": "legacy", "variant": "nft"}
HOSTS = pytest.mark.parametrize("name", ADDRESSES)


@HOSTS
def test_the_port_is_open_and_others_are_not(name: str) -> None:
    for address in ADDRESSES[name]:
        ports = [("udp", 40000), ("udp", 40001), ("tcp", 22)]
        assert answers(*((kind, address, port, "") for kind, port in ports)) == [True, False, True]


@HOSTS
def test_bans_stay_in_force(name: str) -> None:
    assert answers(("udp", ADDRESSES[name][0], 40000, "198.51.100.66")) == [False]


@HOSTS
def test_one_rule_more_in_each_chain(name: str) -> None:
    for program in ("iptables", "ip6tables"):
        listing = run(name, f"{program}-{PROGRAMS[name]}-save -t filter")
        assert listing.count("homelab.peer_relay: relay") == 1


@HOSTS
def test_it_comes_back_with_the_unit(name: str) -> None:
    run(
        name,
        f"iptables-{PROGRAMS[name]} -D INPUT -p udp -m udp --dport 40000 -m comment"
        " --comment 'homelab.peer_relay: relay' -j ACCEPT",
    )
    run(name, "systemctl restart peer-relay-firewall")
    assert "INPUT" in run(name, "journalctl -u peer-relay-firewall --no-pager -n 3")
    assert answers(("udp", ADDRESSES[name][0], 40000, "")) == [True]


def test_what_cannot_be_read_is_told() -> None:
    result = json.loads(run("hidden", "cat /root/firewall-result"))
    assert result["backend"] == "none"
    assert "Cannot tell what becomes of 40000/udp" in result["msg"]
    assert "iptables-legacy filter" in result["msg"]
    assert "Install iptables" in result["msg"]
    assert not machine("hidden").file("/etc/systemd/system/peer-relay-firewall.service").exists
