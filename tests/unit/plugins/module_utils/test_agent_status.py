# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the agent's status file."""

import contextlib
import json
import os

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils import agent_status
from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import AgentError, AgentPath, load, parse
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000.5
PEER = {
    "name": "nas",
    "addresses": ["10.77.1.2", "fd77::2"],
    "path": "relay",
    "via": "oslo",
    "endpoint": "192.0.2.1:40000",
    "rtt_ms": 20.5,
    "since": NOW - 60,
    "why_not": "symmetric_nat",
    "why_not_text": "both routers: open a port",
    "changes": 2,
    "agent": True,
}
RELAY = {"name": "oslo", "alive": True, "fallback": True, "endpoint": "127.0.0.1:7", "rtt_ms": None, "seen": None}
STATUS = {"updated": NOW, "interface": "pr0", "problems": ["one"], "relays": [RELAY], "peers": [PEER]}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_status, "FOLDER", str(tmp_path))
    return tmp_path / "pr0.json"


def test_a_status_is_read(file):
    file.write_text(json.dumps(STATUS))
    status = load("pr0")
    told = AgentPath("relay", "oslo", NOW - 60, "symmetric_nat", "both routers: open a port")
    assert status.paths == {"10.77.1.2": told, "fd77::2": told}
    assert (status.problems, status.fallbacks) == (("one",), {"oslo"})
    assert (status.why_not, status.why_not_text) == ("", ""), "one of 1.2 does not tell"
    assert status.is_fresh(NOW + 59)
    assert not status.is_fresh(NOW + 61)
    assert not status.is_fresh(NOW - 61), "the clock was set back"


def test_a_reason_for_all_devices_is_read(file):
    file.write_text(
        json.dumps(STATUS | {"peers": [], "why_not": "peers_unchangeable", "why_not_text": "none: use one"})
    )
    status = load("pr0")
    assert (status.paths, status.why_not, status.why_not_text) == ({}, "peers_unchangeable", "none: use one")


def test_no_agent(file):
    assert load("pr0") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "the whole: not a dict"),
        (b"{}", "peers: not a list"),
        (json.dumps(STATUS | {"updated": None}).encode(), "updated: not a number of seconds"),
        (json.dumps(STATUS | {"updated": float("nan")}).encode(), "updated: not a number of seconds"),
        (json.dumps(STATUS | {"updated": 10**400}).encode(), "updated: not a number of seconds"),
        (json.dumps(STATUS | {"relays": [{}]}).encode(), "relays.fallback: not a bool"),
        (json.dumps(STATUS | {"peers": [PEER | {"path": "magic"}]}).encode(), "peers[0].path: 'magic' is not one of"),
        (json.dumps(STATUS | {"peers": [PEER, PEER | {"via": "a\nb"}]}).encode(), "peers[1].via: not a line of text"),
        (json.dumps(STATUS | {"peers": [PEER | {"why_not": "a" * 1001}]}).encode(), "why_not: not a line of text"),
        (json.dumps(STATUS | {"problems": [7]}).encode(), "problems: not a str"),
        (json.dumps(STATUS | {"why_not": ["x"]}).encode(), "why_not: not a str"),
        (json.dumps(STATUS | {"why_not_text": "a\nb"}).encode(), "why_not_text: not a line of text"),
        (b" " * (agent_status.MAX_SIZE + 1), "larger than"),
    ],
)
def test_garbage_is_refused_by_name(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(AgentError) as error:
        load("pr0")
    assert str(file) in str(error.value)
    assert reason in str(error.value)
    assert "restart peer-agent@pr0" in str(error.value)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)], ids=["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(file, make):
    make(file)
    with pytest.raises(AgentError, match="not a status of the agent"):
        load("pr0")


@given(st.binary())
def test_any_bytes_are_read_or_refused(content):
    with contextlib.suppress(AgentError):
        parse(content)
