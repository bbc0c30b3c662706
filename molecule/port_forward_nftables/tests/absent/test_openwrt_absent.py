from __future__ import annotations

from lab import run
from reach import answers


def test_nobody_gets_in() -> None:
    assert answers(("udp", "198.51.100.22", 40000, ""), ("udp", "2001:db8:2::10", 40000, "")) == [False, False]


def test_nothing_is_left() -> None:
    assert run("openwrt", "cat /etc/config/firewall") == run("openwrt", "cat /root/somebodys-settings")
    assert "40000" not in run("openwrt", "nft list ruleset")
