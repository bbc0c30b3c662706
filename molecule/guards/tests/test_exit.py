"""A device sends nothing around its exit node, whatever other daemons do to its rules."""

from __future__ import annotations

import json

import pytest
from lab import capture, fails, figure, machine, ping, reaches, run, source_address, wait_for

OUT = "203.0.113.9"
OUT6 = "2001:db8:9::9"
GUARD = "peer-guard@pr0"
DEVICES = pytest.mark.parametrize("name", ["laptop", "tablet"])  # with an agent, and without one
PRIORITIES = [28785, 28786, 28787]


def rules(name: str, version: int = 4) -> list[int]:
    """The priorities of those that are not the kernel's own."""
    priorities = [rule["priority"] for rule in json.loads(run(name, f"ip -j -{version} rule"))]
    return [priority for priority in priorities if 0 < priority < 32766]


def is_whole(name: str) -> bool:
    way_out = machine(name).run(f"ip route get {OUT}").stdout
    return rules(name) == rules(name, 6) == PRIORITIES and way_out.startswith(f"{OUT} dev pr0 ")


def leaks(name: str) -> bool:
    """Whether one of a few packets to the outside leaves by the device's own link."""
    with capture(name, "wan", f"host {OUT} or host {OUT6}") as packets:
        for address in (OUT, OUT6):
            machine(name).run(f"ping -n -q -i 0.1 -W 1 -c 5 {address}")
    return bool(packets)


@DEVICES
def test_everything_leaves_by_the_exit_node(name: str) -> None:
    wait_for("the exit node answers", lambda: reaches(name, OUT))
    with capture("internet", "wan", f"host {OUT} and icmp[icmptype] == icmp-echo") as packets:
        ping(name, OUT)
    assert {source_address(packet) for packet in packets} == {"198.51.100.40"}
    assert not leaks(name)
    assert reaches(name, "198.51.100.30")
    assert reaches(name, "2001:db8:ff::30"), "local networks stay, in a family that the exit node has not, too"


@DEVICES
@pytest.mark.parametrize("command", ["restart", "stop"])
def test_systemd_networkd_takes_nothing_away(name: str, command: str) -> None:
    run(name, "printf '[Match]\\nName=pr*\\n' >/etc/systemd/network/50-all.network")
    run(name, f"systemctl stop {GUARD} && systemctl {command} systemd-networkd")
    if command != "stop":
        wait_for("networkd has looked", lambda: "pr0" in run(name, "networkctl --no-legend list"))
        assert "unmanaged" in run(name, "networkctl --no-legend list pr0")
    whole = is_whole(name)
    run(name, f"systemctl start {GUARD}")
    assert whole
    ping(name, OUT)


# Each loss by itself: tests/integration/edge/test_guards.py.
@DEVICES
@pytest.mark.parametrize(
    "damage",
    [
        "ip rule del priority 28786",
        "ip route del default dev pr0 table 28786; nft flush ruleset",
        "ip -6 rule del priority 28786; ip -6 rule del priority 28785",
    ],
)
def test_what_is_taken_away_leaks_nothing_and_comes_back(name: str, damage: str) -> None:
    run(name, f"systemctl stop {GUARD}")
    run(name, damage)
    leaked = leaks(name)
    run(name, f"systemctl start {GUARD}")
    wait_for("it is put back", lambda: is_whole(name) and not fails(name, "nft list table inet pr0"))
    ping(name, OUT)
    assert not leaked


@DEVICES
def test_all_at_once_is_put_back_within_a_moment(name: str) -> None:
    wait_for("the guard looks", lambda: is_whole(name))
    run(name, "sleep 3")
    script = "for v in 4 6; do for p in 28785 28786 28787; do ip -$v rule del priority $p; done; done"
    script += "; nft flush ruleset"
    took = run(
        name,
        f"{script}; s=$(date +%s%N);"
        " until [ $(ip rule | grep -c 2878) = 3 ] && nft list table inet pr0 >/dev/null 2>&1; do sleep 0.01; done;"
        " echo $((($(date +%s%N) - s) / 1000000))",
    )
    figure(f"{name}: all rules and the table put back after", f"{took.strip()} ms")
    assert int(took) < 3000
    wait_for("all of it is back", lambda: is_whole(name))
    assert "somebody removed" in run(name, f"journalctl -u {GUARD} --no-pager")
    assert "Put back" in run(name, f"systemctl show -p StatusText {GUARD}")


@DEVICES
def test_an_interface_that_dies_leaks_nothing(name: str) -> None:
    run(name, "ip link del pr0")
    leaked = leaks(name)
    run(name, "systemctl restart wg-quick@pr0")
    wait_for("the exit node answers", lambda: reaches(name, OUT))
    assert not leaked


@DEVICES
def test_taking_it_down_by_hand_takes_all_away(name: str) -> None:
    run(name, "wg-quick down pr0")
    assert rules(name) == rules(name, 6) == []
    assert not run(name, "ip route show table 28786 2>/dev/null || true")
    assert fails(name, f"systemctl is-active {GUARD}")
    run(name, "wg-quick up pr0")
    wait_for("the exit node answers", lambda: reaches(name, OUT))
    assert is_whole(name)
    assert machine(name).service(GUARD).is_running
    run(name, "systemctl restart wg-quick@pr0")
    wait_for("the guard runs", lambda: machine(name).service(GUARD).is_running)
