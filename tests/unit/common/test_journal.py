# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for the journal: each has its priority, and whatever others say stays within one."""

from __future__ import annotations

import logging
import sys

import pytest
from peer_common.journal import Formatter


def record(level: int, text: str, *words: object, error: bool = False) -> logging.LogRecord:
    return logging.LogRecord("name", level, __file__, 1, text, words, sys.exc_info() if error else None)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>")],
)
def test_the_journal_learns_the_priority(monkeypatch: pytest.MonkeyPatch, level: int, priority: str) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert Formatter().format(record(level, "%s: bound", "ann")) == f"{priority}ann: bound"
    monkeypatch.delenv("JOURNAL_STREAM")
    assert Formatter().format(record(level, "%s: bound", "ann")) == "ann: bound"


def test_a_message_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    said = "closed\n<0>the house burns\x1b[2J\u2028ä"
    shown = r"closed\n<0>the house burns\x1b[2J\u2028ä"
    assert Formatter().format(record(logging.INFO, "%s", said)) == f"<6>{shown}"


def test_each_line_of_an_exception_has_the_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    try:
        raise ValueError("one\x1b\ntwo")
    except ValueError:
        text = Formatter().format(record(logging.ERROR, "a fault", error=True))
    first, *lines = text.split("\n")
    assert first == "<3>a fault"
    assert all(line.startswith("<3>") for line in lines)
    assert lines[-2:] == [r"<3>ValueError: one\x1b", "<3>two"]
