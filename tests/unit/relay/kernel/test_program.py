# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped bytecode."""

from __future__ import annotations

import struct

import pytest
from peer_relay.dataplane.kernel import bpf
from peer_relay.dataplane.kernel.program import Program


def test_only_references_to_the_map_are_filled_in(monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr(bpf, "load_program", lambda name, code: loaded.append((name, code)) or 9)
    program = Program("ethernet")
    assert program.load(0x1234) == 9
    ((name, code),) = loaded
    assert name == program.name and len(name) <= 15  # what the kernel keeps of it
    changed = [at for at in range(0, len(code), 8) if code[at : at + 8] != program.instructions[at : at + 8]]
    assert changed
    for at in changed:
        operation, registers, _, immediate = struct.unpack_from("<BBhi", code, at)
        assert (operation, registers >> 4, immediate) == (0x18, 1, 0x1234)


_STORES, _WIDE, _STACK = (2, 3), 0x18, 10


@pytest.mark.parametrize("kind", ["ethernet", "ip"])
def test_the_stack_is_written_in_whole_words(kind: str) -> None:
    """The verifier of Linux 6.1 refuses anything else of a service without CAP_PERFMON, though not of root."""
    for operation, registers, _, _ in struct.iter_unpack("<BBhi", Program(kind).instructions):
        if operation & 7 in _STORES and registers & 15 == _STACK:
            assert operation & 0x18 == _WIDE


def test_the_name_tells_versions_apart(monkeypatch) -> None:
    program = Program("ethernet")
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, encoding: "bf16000000000000\n")
    assert Program("ethernet").name != program.name
