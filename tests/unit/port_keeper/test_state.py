# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a restart of the keeper."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from keeper_world import RELAY, WEB
from peer_common import files
from port_keeper import state
from port_keeper.lease import key
from port_keeper.state import Address, State

HERE = {4: Address("203.0.113.1", 1_800_000_000.5, 2)}


def test_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    state.write(file, [WEB.wanted, RELAY.wanted, RELAY.wanted], HERE)
    found = state.read(file)
    assert {key(wanted) for wanted in found.mappings} == {key(RELAY.wanted), key(WEB.wanted)}
    assert len(found.mappings) == 2
    assert found.addresses == HERE
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"mappings": 1, "addresses": {}}',
        '{"mappings": [[4, "udp", 1]], "addresses": {}}',
        '{"mappings": [[5, "udp", 1, 1]], "addresses": {}}',
        '{"mappings": [[4, "udp", 1, 65536]], "addresses": {}}',
        '{"mappings": [[4, "udp", 1.0, 1]], "addresses": {}}',
        '{"mappings": [[4, ["udp"], 1, 1]], "addresses": {}}',
        '{"mappings": [], "addresses": {"4": ["a", 1]}}',
        '{"mappings": [], "addresses": {"x": ["a", 1, 1]}}',
        '{"mappings": [], "addresses": {"4": ["a", NaN, 1]}}',
        '{"mappings": [], "addresses": {"4": ["a", 1, -1]}}',
        '{"mappings": [], "addresses": {"4": ["2001:db8::1%x\\n[Interface]", 1, 1]}}',
        json.dumps({"mappings": [[4, "udp", port, port] for port in range(1, 258)], "addresses": {}}),
        "[" * 100_000,
    ],
)
def test_what_makes_no_sense_is_nothing(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state.json"
    file.write_text(content)
    assert state.read(file) == State()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{file}: ")
    assert len(record.getMessage()) < 400


def test_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert state.read(tmp_path / "state.json") == State()
    assert not caplog.records


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    files.replace(file, ["old"], 0o644)
    with file.open() as reader:
        files.replace(file, [json.dumps({"new": 1})], 0o644)
        assert reader.read() == "old"
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("put", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), Path.mkdir])
def test_root_waits_for_nothing_in_a_folder_of_the_services(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """`status` and `release` are root's; whoever has taken over the keeper puts there what he likes."""
    file = tmp_path / "state.json"
    put(file)
    assert state.read(file) == State()
    with pytest.raises((OSError, ValueError)):
        state.load(file)
