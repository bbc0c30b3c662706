"""A device asks the name servers of peer_dns alone, through its exit node, and those of before when that is over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lab import attempt, capture, last_words, machine, play, reaches, run, source_address, wait_for

SERVER = "203.0.113.9"
SITE = "homelab.peer_relay.site"


def name_servers(name: str) -> list[str]:
    return re.findall(r"^nameserver (\S+)", run(name, "cat /etc/resolv.conf"), re.MULTILINE)


def with_servers(tmp_path: Path, name: str, *servers: str) -> list[str]:
    """Arguments that give a device other name servers."""
    file = tmp_path / "more.yml"
    file.write_text(json.dumps({"all": {"hosts": {name: {"peer_dns": servers}}}}))
    return ["--inventory", str(file), "--limit", name]


def test_questions_leave_by_the_exit_node_and_no_other_way() -> None:
    wait_for("the exit node answers", lambda: reaches("tablet", SERVER))
    with capture("internet", "wan", "udp port 53") as packets, capture("tablet", "wan", "udp port 53") as around:
        machine("tablet").run("timeout 3 getent hosts away.example")
    assert {source_address(packet) for packet in packets} == {"198.51.100.40"}
    assert not around


def test_they_go_with_the_interface_and_come_back_with_it() -> None:
    assert name_servers("tablet") == [SERVER]
    run("tablet", "systemctl stop wg-quick@pr0")
    before = name_servers("tablet")
    run("tablet", "systemctl start wg-quick@pr0")
    assert before == name_servers("laptop")
    assert name_servers("tablet") == [SERVER]


def test_the_inventory_takes_them_away_and_gives_them_back_in_place(tmp_path: Path) -> None:
    started = run("tablet", "systemctl show -p ActiveEnterTimestampMonotonic wg-quick@pr0")
    none = with_servers(tmp_path, "tablet")
    play(SITE, *none)
    assert name_servers("tablet") == name_servers("laptop")
    assert play(SITE, *none)["tablet"]["changed"] == 0
    play(SITE, "--limit", "tablet")
    assert name_servers("tablet") == [SERVER]
    assert run("tablet", "systemctl show -p ActiveEnterTimestampMonotonic wg-quick@pr0") == started


def test_an_interface_comes_up_where_they_cannot_be_set() -> None:
    """Somebody has removed what sets them."""
    run("tablet", "systemctl stop wg-quick@pr0 && mv /usr/sbin/resolvconf /root/ && systemctl start wg-quick@pr0")
    wait_for("the exit node answers", lambda: reaches("tablet", SERVER))
    said = run("tablet", "journalctl -u wg-quick@pr0 -n 200 --no-pager")
    run("tablet", "mv /root/resolvconf /usr/sbin/ && systemctl restart wg-quick@pr0")
    assert "The name servers of peer_dns are not set." in said
    assert name_servers("tablet") == [SERVER]


@pytest.mark.parametrize(
    ("servers", "words"),
    [((SERVER,), "its resolvconf is not openresolv's"), (("203.0.113.999",), "'203.0.113.999' is not an IP address")],
)
def test_what_would_not_be_asked_alone_is_refused_before_anything_changes(
    tmp_path: Path, servers: tuple[str, ...], words: str
) -> None:
    run("laptop", "printf '#!/bin/sh\\necho Debian resolvconf 1.91\\n' >/usr/local/sbin/resolvconf")
    run("laptop", "chmod +x /usr/local/sbin/resolvconf")
    file = run("laptop", "cat /etc/wireguard/pr0.conf")
    result = attempt(SITE, *with_servers(tmp_path, "laptop", *servers))
    run("laptop", "rm /usr/local/sbin/resolvconf")
    assert result.returncode == 2
    assert words in last_words(result.stdout)
    assert run("laptop", "cat /etc/wireguard/pr0.conf") == file
