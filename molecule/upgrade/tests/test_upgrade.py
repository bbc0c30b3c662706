from __future__ import annotations

import re

import pytest
from lab import figure, machine, overlay, ping, run, status, wait_for


def test_not_one_packet_was_lost() -> None:
    run("laptop", "systemctl kill --signal INT lab-ping")
    found = wait_for(
        "ping ends", lambda: re.search(r"(\d+) packets transmitted, (\d+) received", run("laptop", "cat /root/ping"))
    )
    sent, received = int(found[1]), int(found[2])
    figure("packets lost while 1.2.0 became this", f"{sent - received} of {sent}")
    assert sent > 1000
    assert sent - received <= 1, "more than the one that was under way when ping was ended"


@pytest.mark.parametrize("name", ["laptop", "home"])
def test_no_tunnel_was_made_anew(name: str) -> None:
    assert run(name, "cat /sys/class/net/pr0/ifindex; pgrep wireguard-go") == run(name, "cat /root/tunnel")


def test_the_relay_is_the_new_one() -> None:
    assert "peer_common" in run("relay", "ls /usr/local/lib/peer-relay")
    assert [pair["plane"] for pair in status()["pairs"]] == ["kernel", "kernel"]


@pytest.mark.parametrize("name", ["relay", "laptop", "home"])
def test_nothing_failed_and_nothing_of_the_old_one_is_left(name: str) -> None:
    assert run(name, "systemctl --failed --no-legend") == ""
    assert not machine(name).file("/usr/local/lib/peer-relay/peer_relay/switchboard.py").exists


def test_a_pair_talks_afterwards() -> None:
    ping("laptop", overlay("home", 4))
