# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: exit codes, what is printed, and a key that is never replaced."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from peer_common import packets
from peer_common.toml_table import key as decode_key
from peer_relay import cli
from peer_relay.status import client as status_client
from peer_relay.status import document as status_document
from peer_relay.wireguard import noise
from relay_world import World, at
from test_report import status
from test_settings import toml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    result = tmp_path / "relay.toml"
    result.write_text(toml({"status_socket": f'"{tmp_path}/status.sock"'}))
    return result


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the service answers, to be changed by the test."""
    document = status(World())
    monkeypatch.setattr(status_client, "fetch", lambda _socket: document)
    return document


def test_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--settings", str(file), "check"]) == 0
    assert capsys.readouterr().out == f"{file}: fine, 2 devices\n"
    assert cli.main(["--settings", str(file), "check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in document["devices"]] == ["laptop", "nas"]


@pytest.mark.parametrize("command", ["check", "status", "doctor", "run", "probe"])
def test_bad_settings(file: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    file.write_text(toml({"listen_port": "0"}))
    assert cli.main(["--settings", str(file), command]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"peer-relay: {file}: [relay] listen_port = 0: ")


@pytest.mark.parametrize("words", [[], ["dance"], ["check", "--colour"], ["keygen"]])
def test_bad_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: peer-relay" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_unreachable(file: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main(["--settings", str(file), command]) == 3
    assert "is the service running? systemctl status peer-relay" in capsys.readouterr().err


def test_status(file: Path, answer: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--settings", str(file), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    assert cli.main(["--settings", str(file), "status"]) == 0
    assert capsys.readouterr().out.startswith("relay: userspace data plane")
    answer["healthy"] = False
    assert cli.main(["--settings", str(file), "status"]) == 1


def test_doctor(file: Path, answer: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--settings", str(file), "doctor"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    answer["data_plane_reason"] = "no CAP_BPF: grant it"
    assert cli.main(["--settings", str(file), "doctor"]) == 0
    assert capsys.readouterr().out == (
        "nothing is wrong\nby the way: userspace forwards, not the kernel: no CAP_BPF: grant it\n"
    )
    answer["data_plane_reason"] = None
    answer["problems"] = ["fan: broken: mend it"]
    assert cli.main(["--settings", str(file), "doctor"]) == 1
    assert capsys.readouterr().out == "relay: fan: broken: mend it\n"
    assert cli.main(["--settings", str(file), "doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "findings": [{"subject": "relay", "problem": "fan: broken", "cure": "mend it"}],
        "remarks": [],
    }


def test_doctor_of_a_real_document(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.add("ann", at("192.0.2.1"))
    monkeypatch.setattr(status_client, "fetch", lambda _socket: status(world))
    assert cli.main(["--settings", str(file), "doctor"]) == 1


# --- probe ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path, file: Path) -> noise.Identity:
    """The relay's own key, in its file."""
    path = tmp_path / "private.key"
    cli.main(["keygen", str(path)])
    relay = {
        "private_key_file": f'"{path}"',
        "listen_addresses": '["192.0.2.9", "2001:db8::9"]',
        "public_endpoint": '"relay.example.org:40001"',
    }
    file.write_text(toml(relay))
    return noise.Identity(decode_key(path.read_text().strip()))


def test_probes_are_answered_by_the_relay_with_this_key(
    file: Path, key: noise.Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["--settings", str(file), "probe", "--count", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["public_key"] == status_document.encode_key(key.public)
    assert document["endpoint"] == "relay.example.org:40001"
    assert document["own_endpoints"] == ["192.0.2.9:40000", "[2001:db8::9]:40000"]
    assert document["inner_endpoint"] is None
    assert len(set(document["initiations"])) == 3
    for initiation in map(bytes.fromhex, document["initiations"]):
        reader = noise.InitiationReader(key, initiation)
        assert reader.initiator == key.public
        assert abs(noise.tai64n_to_unix(reader.timestamp()) - time.time()) < 10


def test_probe_without_json(file: Path, key: noise.Identity, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["--settings", str(file), "probe"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(bytes.fromhex(line)) == packets.INITIATION_SIZE


@pytest.mark.parametrize("count", ["0", "-1", "2049", "many"])
def test_probe_of_an_impossible_count(file: Path, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--settings", str(file), "probe", "--count", count])
    assert stop.value.code == 2
    assert "--count" in capsys.readouterr().err


# --- keygen -----------------------------------------------------------------------------------------------------------


def test_keygen_makes_a_private_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "private.key"
    assert cli.main(["keygen", str(file)]) == 0
    private = decode_key(file.read_text().strip())
    assert capsys.readouterr().out.strip() == status_document.encode_key(noise.public_key(private))
    assert file.stat().st_mode & 0o777 == 0o600


def test_keygen_never_replaces_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "private.key"
    cli.main(["keygen", str(file)])
    before, first = file.read_text(), capsys.readouterr().out
    assert cli.main(["keygen", str(file)]) == 0
    assert file.read_text() == before
    assert capsys.readouterr().out == first


def test_keygen_leaves_a_broken_key_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "private.key"
    file.write_text("broken")
    assert cli.main(["keygen", str(file)]) == 2
    assert file.read_text() == "broken"
    assert str(file) in capsys.readouterr().err


def test_keygen_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "private.key").symlink_to(victim)
    assert cli.main(["keygen", str(tmp_path / "private.key")]) == 2
    assert not victim.exists()


def test_keygen_where_there_is_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keygen", str(tmp_path / "no" / "private.key")]) == 2
    assert "create its directory" in capsys.readouterr().err


def test_umask_does_not_open_the_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cli.main(["keygen", str(tmp_path / "private.key")])
    finally:
        os.umask(before)
    assert (tmp_path / "private.key").stat().st_mode & 0o777 == 0o600
