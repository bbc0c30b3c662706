"""Agents that the role has set up, on two sites behind NAT routers with a relay between them."""

from __future__ import annotations

import base64
import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from agents import CUT, NO_UDP, OTHER, in_the_way, path, pings, told, wait_path
from lab import fails, figure, machine, play, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SITE = "homelab.peer_relay.site"
UNIT = "peer-agent@pr0.service"
WIREGUARD_GO, HELPERS = "/var/run/wireguard/pr0.sock", "/run/peer-agent-wireguard/pr0.sock"
HELPER = "peer-agent-wireguard@pr0.service"
USER = "peer-agent"
ASK = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect(sys.argv[2])
s.sendall(sys.argv[1].encode() + b"\\n")
print(s.makefile().readline())"""
DEVICES = pytest.mark.parametrize("name", OTHER)
DIRECT = {"laptop": "198.51.100.22", "home": "198.51.100.21"}  # the other's router


def endpoints(name: str) -> list[str]:
    return sorted(run(name, "wg show pr0 endpoints").splitlines())


def changed(*arguments: str) -> dict[str, int]:
    """How much the playbook site changed on each device."""
    stats = play(SITE, *arguments)
    return {name: stats[name]["changed"] for name in OTHER}


@DEVICES
def test_the_agent_runs_and_comes_back_at_boot(name: str) -> None:
    assert machine(name).service(UNIT).is_running
    assert machine(name).service(UNIT).is_enabled


@DEVICES
def test_the_agent_is_shut_in(name: str) -> None:
    exposure = re.search(
        r"UNIT: (.*)$", run(name, f"systemd-analyze security {UNIT}").replace(UNIT, "UNIT"), re.MULTILINE
    )
    assert exposure
    figure(f"systemd-analyze security on {name}", exposure[1])
    process = run(name, f"systemctl show --property MainPID --value {UNIT}").strip()
    capabilities = re.search(r"CapEff:\s*(\w+)", run(name, f"cat /proc/{process}/status"))
    assert capabilities
    # Before Linux 5.17, a mark takes CAP_NET_ADMIN.
    marks = tuple(map(int, os.uname().release.split(".")[:2])) >= (5, 17)
    assert int(capabilities[1], 16) == 1 << 13 | (0 if marks else 1 << 12), "CAP_NET_RAW"
    assert run(name, f"stat --format %U /proc/{process}").strip() == USER


@DEVICES
def test_whoever_takes_over_the_agent_gets_no_key(name: str) -> None:
    key = machine(name).file("/etc/wireguard/pr0.key").content_string.strip()
    ours = base64.b64decode(key).hex()
    as_agent = f"setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps -all"
    for secret in ("/etc/wireguard/pr0.key", "/etc/wireguard/pr0.conf", "/etc/shadow"):
        assert fails(name, f"{as_agent} dd if={secret} of=/dev/null")
    for questions in ("get=1", "show", "show private-key", f"endpoint {key} 192.0.2.1:1"):
        answer = run(name, f"{as_agent} python3 -c '{ASK}' '{questions}' {HELPERS}")
        assert answer.startswith("{"), answer
        assert key not in answer
        assert ours not in answer
        assert ("error" in answer) == (questions != "show")
    nobody = "setpriv --reuid nobody --regid nogroup --clear-groups"
    for who, place in ((as_agent, WIREGUARD_GO), (nobody, WIREGUARD_GO), (nobody, HELPERS)):
        assert "PermissionError" in machine(name).run(f"{who} python3 -c '{ASK}' get=1 {place}").stderr


@DEVICES
def test_both_parts_have_room(name: str) -> None:
    for unit in (UNIT, HELPER):
        process = run(name, f"systemctl show --property MainPID --value {unit}").strip()
        most = re.search(r"VmHWM:\s*(\d+) kB", run(name, f"cat /proc/{process}/status"))
        room = int(run(name, f"systemctl show --property MemoryMax --value {unit}"))
        assert most
        figure(f"memory of {unit} on {name}", f"{int(most[1]) / 1024:.0f} of {room >> 20} MiB")
        assert int(most[1]) * 1024 * 3 < room
        assert run(name, f"systemctl show --property TasksMax --value {unit}").strip().isdigit()


def test_the_helper_may_die() -> None:
    before = run("laptop", f"systemctl show --property MainPID --value {HELPER}").strip()
    with pings() as seen:
        run("laptop", f"kill -9 {before}")
        wait_for("it is back", lambda: run("laptop", f"systemctl is-active {HELPER} || true").strip() == "active")
        wait_path("direct")
    assert seen.lost == 0
    assert run("laptop", f"systemctl show --property MainPID --value {HELPER}").strip() not in ("0", before)


def test_the_watcher_of_earlier_versions_is_gone() -> None:
    assert fails("laptop", "ls /etc/systemd/system/*/peer-relay-endpoint* /etc/systemd/system/peer-relay-endpoint*")
    assert fails("laptop", "ls /usr/local/lib/peer-relay-endpoint*")


def test_the_command_says_what_is_not_there() -> None:
    assert "peer-relay agent" in machine("laptop").run("peer-relay status").stderr
    assert "peer_agent" in machine("relay").run("peer-relay agent status").stderr


def test_the_devices_come_together_directly() -> None:
    wait_path("direct")
    for name, router in DIRECT.items():
        assert any(f"\t{router}:" in line for line in endpoints(name))


def test_verify_shows_it(tmp_path: Path) -> None:
    play("homelab.peer_relay.verify", "--extra-vars", f"verify_report={tmp_path}/report.json")
    rows = json.loads((tmp_path / "report.json").read_text())["paths"]
    assert {(row["from"], row["to"]): row["path"] for row in rows if row["to"] in OTHER} == dict.fromkeys(
        OTHER.items(), "direct"
    )


def test_a_direct_path_that_is_cut_gives_way_to_the_relay_and_comes_back() -> None:
    with pings() as seen:
        with in_the_way(CUT):
            wait_path("relay", 5)
        wait_path("direct")
    figure("direct, relay, direct again", f"{seen.longest_gap:.2f} s without an answer, {seen.lost} pings lost")
    assert seen.longest_gap < 2


@DEVICES
def test_a_restart_of_the_agent_changes_no_path(name: str) -> None:
    before = endpoints(name)
    with pings() as seen:
        run(name, f"systemctl restart {UNIT}")
        wait_for("it goes on", lambda: path(name).get("path") == "direct")
        assert endpoints(name) == before
    assert seen.lost == 0


def test_a_reload_changes_no_path() -> None:
    before = endpoints("laptop")
    run("laptop", f"systemctl reload {UNIT}")
    assert endpoints("laptop") == before
    run("laptop", "echo nonsense >>/etc/peer-agent/pr0.toml")
    assert fails("laptop", f"systemctl reload {UNIT}"), "and settings with an error are refused"
    run("laptop", "sed -i '$ d' /etc/peer-agent/pr0.toml")
    wait_path("direct")


def test_the_agent_outlives_the_interface() -> None:
    process = run("laptop", f"systemctl show --property MainPID {UNIT}")
    run("laptop", "systemctl restart wg-quick@pr0")
    wait_path("direct", 40)
    assert run("laptop", f"systemctl show --property MainPID {UNIT}") == process


def test_settings_that_the_agent_never_heard_of_are_taken_over() -> None:
    """A play was cut after it had written them; the agent still runs those of before, in which there is nobody else."""
    settings = "/etc/peer-agent/pr0.toml"
    run("laptop", f"cp -p {settings} /run/lab-settings && sed -i '/^\\[\\[peer/,$d' {settings}")
    run("laptop", f"systemctl reload {UNIT}")
    wait_for("nobody else is known", lambda: not told("laptop"))
    run("laptop", f"mv /run/lab-settings {settings}")
    assert not told("laptop")
    assert play(SITE, "--limit", "relay,laptop")["laptop"]["changed"] == 1
    assert path("laptop"), "the role has waited for it"
    wait_path("direct")


def test_without_udp_there_is_the_fallback_and_the_role_leaves_it_alone() -> None:
    with pings() as seen:
        with in_the_way(NO_UDP):
            wait_for("the laptop is on the fallback", lambda: path("laptop").get("path") == "fallback", 10)
            assert changed() == dict.fromkeys(OTHER, 0)
            assert path("laptop")["path"] == "fallback"
            # For half a second in five, the relay's own [Peer] is at its UDP port: an attempt.
            wait_for("all is there", lambda: all("\t127.0.0.1:" in line for line in endpoints("laptop")), 2)
        wait_path("direct", 40)
    figure("no UDP, fallback, direct again", f"{seen.longest_gap:.2f} s without an answer, {seen.lost} pings lost")
    assert seen.longest_gap < 5


def test_a_device_without_the_agent_reaches_all_through_the_relay() -> None:
    """The last one: it takes the agents away."""
    assert all(changed("--extra-vars", "peer_agent=false").values())
    for name in OTHER:
        assert {line.split()[1] for line in endpoints(name)} == {"198.51.100.10:40000"}
        assert fails(name, f"ls -d /usr/local/*/peer-* /etc/peer-agent /run/peer-agent /etc/systemd/system/{UNIT}")
        assert fails(name, "ls -d /run/peer-agent-*")
        assert fails(name, "ls -d /etc/systemd/system/peer-agent*")
        assert fails(name, f"getent passwd {USER}")
