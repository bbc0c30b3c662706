from __future__ import annotations

from lab import run
from reach import answers

OUTER = ("udp", "198.51.100.22", 40000, "")
HOLE = ("udp", "2001:db8:2::10", 40000, "")
CLOSED = [("udp", "198.51.100.22", 40001, ""), ("udp", "2001:db8:2::10", 40001, "")]


def test_the_port_is_forwarded_and_others_are_not() -> None:
    assert answers(OUTER, HOLE, *CLOSED) == [True, True, False, False]
    assert answers(OUTER, asker="relay-b") == [True]  # by reflection


def test_its_sections_have_names_and_others_are_unchanged() -> None:
    settings = run("openwrt", "cat /etc/config/firewall")
    ours = settings.index("config redirect 'peer_relay_redirect_relay'")
    assert settings[:ours] == run("openwrt", "cat /root/somebodys-settings").rstrip("\n") + "\n\n"
    assert settings.count("peer_relay_") == 2
    assert run("openwrt", "uci changes firewall") == ""
