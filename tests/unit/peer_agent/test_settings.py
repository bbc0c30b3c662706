# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: what is taken, and what is said about the rest."""

from __future__ import annotations

import base64
import copy
import hashlib
from ipaddress import ip_address
from pathlib import Path

import pytest
from peer_agent.settings import HostPort, load, parse
from peer_common.toml_table import SettingsError

FILE = Path("/etc/peer-agent/pr0.toml")
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 4)]
GOOD = {
    "agent": {"addresses": ["10.77.1.1"], "networks": ["10.77.0.0/16"]},
    "relay": [
        {
            "name": "relay",
            "public_key": KEYS[0],
            "addresses": ["10.77.0.1"],
            "endpoints": ["relay.example:40000", "[2001:db8::1]:40000"],
            "fallback_url": "wss://relay.example:443/",
            "fallback_fingerprint": "AB:" * 31 + "AB",
        }
    ],
    "peer": [{"name": "nas", "public_key": KEYS[1], "addresses": ["10.77.1.2", "fd77::2"]}],
}


def test_good_settings() -> None:
    settings = parse(GOOD, FILE)
    assert settings.interface == "pr0"
    assert settings.status_file == Path("/run/peer-agent/pr0.json")
    assert (settings.control_port, settings.directory_port) == (7078, 7077)
    relay = settings.relays[0]
    assert relay.endpoints == (HostPort("relay.example", 40000), HostPort("2001:db8::1", 40000))
    assert relay.fallback_fingerprint == "ab" * 32
    assert settings.peers[0].addresses == (ip_address("10.77.1.2"), ip_address("fd77::2"))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("agent", "interfaces"), "pr0", "interfaces = 'pr0': unknown key"),
        (("agent", "interface"), "a/b", "interface = 'a/b': the name of a network interface"),
        (("agent", "addresses"), [], "addresses = []: a list of overlay addresses"),
        (("agent", "addresses"), ["fe80::1%eth0"], "addresses"),
        (("agent", "networks"), ["10.77.0.1/16"], "networks"),
        (("agent", "control_port"), True, "control_port = True: a port from 1 to 65535"),
        (("agent", "control_port"), 65536, "control_port = 65536"),
        (("agent", "status_file"), "status", "status_file = 'status': an absolute path"),
        (("relay", 0, "endpoints"), [], "[[relay]] relay: endpoints = []"),
        (("relay", 0, "endpoints"), ["2001:db8::1:40000"], "an IPv6 address is in brackets"),
        (("relay", 0, "endpoints"), ["relay:0"], "endpoints"),
        (("relay", 0, "fallback_url"), "https://relay", "fallback_url"),
        (("relay", 0, "fallback_fingerprint"), "abcd", "64 hex digits"),
        (("peer", 0, "public_key"), "abc", "[[peer]] nas: public_key = 'abc': 32 bytes in base64"),
        (("peer", 0, "public_key"), KEYS[0], "is already that of relay"),
        (("peer", 0, "addresses"), ["10.77.1.1"], "is already that of this device"),
        (("peer", 0, "name"), "two words", "name = 'two words'"),
    ],
)
def test_errors_say_where_and_what(path: tuple, value: object, words: str) -> None:
    content = copy.deepcopy(GOOD)
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(SettingsError) as caught:
        parse(content, FILE)
    assert words in str(caught.value)
    assert str(FILE) in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"agent": 1}, {**GOOD, "relay": []}, {**GOOD, "peer": [1]}])
def test_tables_that_are_none(content: dict) -> None:
    with pytest.raises(SettingsError):
        parse(content, FILE)


def test_settings_know_their_file(tmp_path: Path) -> None:
    file = tmp_path / "pr0.toml"
    text = '[agent]\naddresses = ["10.77.1.1"]\nnetworks = ["10.77.0.0/16"]\n[[relay]]\nname = "relay"\n'
    text += f'public_key = "{KEYS[0]}"\naddresses = ["10.77.0.1"]\nendpoints = ["relay.example:40000"]\n'
    file.write_text(text)
    before = load(file)
    assert before.sha256 == hashlib.sha256(text.encode()).hexdigest()
    file.write_text(text + "# a comment\n")
    assert load(file).sha256 != before.sha256
    assert load(file) == before, "it says the same"


def test_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "pr0.toml")
    (tmp_path / "pr0.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not TOML"):
        load(tmp_path / "pr0.toml")
