# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging paths."""

import base64

import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_targets import overlay_targets
from ansible_collections.homelab.peer_relay.plugins.filter.path_rows import path_rows
from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import AgentPath, AgentStatus
from ansible_collections.homelab.peer_relay.plugins.module_utils.paths import Device, judge, parse_guard, parse_ping
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import RunningInterface, RunningPeer
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000
ENDPOINT = "192.0.2.1:40000"


def peer(number, address, endpoint=ENDPOINT, age=10):
    key = base64.b64encode(bytes([number]) * 32).decode()
    handshake = 0 if age is None else NOW - age
    return RunningPeer(key, False, endpoint, frozenset([f"{address}/32"]), handshake, 0, 0, 0)


def path(*peers, rtt=None, address="10.77.1.2", name="nas", agent=None):
    running = RunningInterface("", 0, 0, {p.public_key: p for p in peers})
    target = {"name": name, "addresses": [{"address": address, "rtt_ms": rtt}]}
    return judge(target, Device("pr0", running, {"10.77.0.1": "oslo", "10.77.0.2": "rome"}, agent, "no_agent"), NOW)


RELAY = peer(1, "10.77.0.1")


def test_by_way_of_the_relay():
    found = path(RELAY, peer(2, "10.77.1.2"), rtt=41.2)
    assert (found["ok"], found["path"], found["endpoint"], found["rtt_ms"]) == (True, "relay", ENDPOINT, 41.2)
    assert (found["handshake_age_seconds"], found["reason"]) == (10, "")
    assert (found["via"], found["path_age_seconds"], found["why_not"]) == ("oslo", None, "no_agent")
    assert "peer-agent@pr0" in found["why_not_text"]


def test_by_way_of_the_other_relay():
    other = peer(3, "10.77.0.2", endpoint="192.0.2.2:40000")
    assert path(RELAY, other, peer(2, "10.77.1.2", endpoint=other.endpoint), rtt=5)["via"] == "rome"


def test_directly():
    found = path(RELAY, peer(2, "10.77.1.2", endpoint="203.0.113.9:1"), rtt=5)
    assert (found["ok"], found["path"]) == (True, "direct")
    assert (found["via"], found["why_not"]) == (None, "")


def test_the_agent_tells_the_path():
    told = AgentPath("fallback", "oslo", NOW - 90.5, "blocked_udp", "no relay answers over UDP: let it out")
    agent = AgentStatus(NOW, (), frozenset(["oslo"]), {"10.77.1.2": told})
    found = path(RELAY, peer(2, "10.77.1.2", endpoint="127.0.0.1:7"), rtt=5, agent=agent)
    assert (found["path"], found["via"], found["path_age_seconds"]) == ("fallback", "oslo", 90)
    assert (found["why_not"], found["why_not_text"]) == (told.why_not, told.why_not_text)
    found = path(RELAY, rtt=5, address="10.77.0.1", name="oslo", agent=agent)
    assert (found["path"], found["via"], found["why_not"]) == ("fallback", None, "")


def test_a_device_that_the_agent_does_not_know():
    agent = AgentStatus(NOW, (), frozenset(), {})
    assert path(RELAY, peer(2, "10.77.1.2"), rtt=5, agent=agent)["why_not"] == "not_settled"


def test_the_wireguard_here_takes_no_change():
    agent = AgentStatus(NOW, (), frozenset(), {}, "peers_unchangeable", "this WireGuard takes none: use another")
    found = path(RELAY, peer(2, "10.77.1.2"), rtt=5, agent=agent)
    assert (found["path"], found["via"], found["why_not"]) == ("relay", "oslo", "peers_unchangeable")
    assert found["why_not_text"] == agent.why_not_text
    found = path(RELAY, peer(2, "10.77.1.2", endpoint="203.0.113.9:1"), rtt=5, agent=agent)
    assert (found["path"], found["why_not"]) == ("direct", ""), "whoever sent from there was followed"


def test_no_answer_has_no_path_whatever_the_agent_says():
    agent = AgentStatus(NOW, (), frozenset(), {"10.77.1.2": AgentPath("lan", "", NOW, "", "")})
    found = path(RELAY, peer(2, "10.77.1.2"), agent=agent)
    assert (found["ok"], found["path"], found["via"]) == (False, "none", None)


@pytest.mark.parametrize(
    ("peers", "reason"),
    [
        ([RELAY], "pr0 has no peer with its address 10.77.1.2"),
        ([peer(1, "10.77.0.1", age=None), peer(2, "10.77.1.2", age=None)], "no session with the relay"),
        ([RELAY, peer(2, "10.77.1.2", age=None)], "no handshake was ever answered"),
        ([RELAY, peer(2, "10.77.1.2", age=500)], "the last handshake was 500 s ago"),
        ([RELAY, peer(2, "10.77.1.2")], "10.77.1.2 gives no echo"),
    ],
)
def test_faults(peers, reason):
    found = path(*peers)
    assert (found["ok"], found["path"], found["rtt_ms"]) == (False, "none", None)
    assert reason in found["reason"]
    assert found["cure"]


def test_a_relay_that_never_answered():
    found = path(peer(1, "10.77.0.1", age=None), address="10.77.0.1", name="relay")
    assert found["cure"] == f"is the relay running, and UDP open on the way to {ENDPOINT}?"


def test_ping_is_read():
    assert parse_ping("x\nrtt min/avg/max/mdev = 0.513/0.612/0.701/0.077 ms\n") == 0.612
    assert parse_ping("round-trip min/avg/max = 1/2/3 ms") == 2
    assert parse_ping("3 packets transmitted, 0 received, 100% packet loss") is None


@given(st.text())
def test_any_output_of_ping_is_read(text):
    parse_ping(text)


def test_targets_are_the_relay_and_who_shares_a_group():
    hosts = {"laptop": {}, "nas": {}, "camera": {"peer_groups": ["cameras"]}, "gone": {"peer_state": "absent"}}
    relay = {"name": "relay", "addresses": ["10.77.0.1"]}
    targets = overlay_targets(list(hosts), hosts, ["10.77.0.0/16"], "laptop", relay)
    assert [target["name"] for target in targets] == ["relay", "nas"]
    assert targets[0]["addresses"] == ["10.77.0.1"]


def test_rows_tell_who_was_not_reached():
    hosts = {
        "laptop": {"result": {"paths": [{"name": "phone", "ok": False}, {"name": "relay", "ok": True}]}},
        "nas": {"result": {"unreachable": True, "msg": "no route"}},
        "tv": {},
        "phone": {"peer_managed": "false"},
        "gone": {"peer_state": "absent"},
    }
    rows = path_rows(list(hosts), hosts, "result")
    assert [(row["from"], row["to"], row["managed"], row["ok"]) for row in rows] == [
        ("laptop", "phone", False, False),
        ("laptop", "relay", True, True),
        ("nas", "anybody", True, False),
        ("tv", "anybody", True, False),
    ]
    assert [row["reason"] for row in rows[2:]] == ["no route", "Ansible did not reach it"]


def test_what_systemd_says_of_the_guard():
    said = "ActiveState=active\nStatusText=Put back 2 times, last at noon: rule 4 28786=\x1b[2J\n"
    assert parse_guard(said) == {"state": "running", "text": "Put back 2 times, last at noon: rule 4 28786=[2J"}
    assert parse_guard("ActiveState=failed\nStatusText=Put back 2 times\n") == {"state": "stopped", "text": ""}
    assert parse_guard("") == {"state": "stopped", "text": ""}, "no systemd"
