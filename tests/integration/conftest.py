# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the end-to-end tests, the logs of a failed one, and the table of figures at the end of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.netns import sweep
from harness.service import Relay
from harness.topology import Lab
from harness.trio import Trio


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--steady-seconds", type=float, default=60, help="how long a path is watched for changes")


def pytest_sessionstart() -> None:
    if os.geteuid():
        pytest.exit("the end-to-end tests make network namespaces: run them as root", returncode=2)
    sweep()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Note a measured figure and its goal for the table at the end."""

    def note(what: str, measured: str, goal: str = "") -> None:
        request.node.user_properties.append(("figure", (what, measured, goal)))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # With several processes, reports are all that reaches the one that prints.
    reports = (report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, []))
    found = (
        value for report in reports if report.when == "call" for key, value in report.user_properties if key == "figure"
    )
    rows = [("figure", "measured", "goal"), *found]
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    terminalreporter.section("figures")
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab:
        for log in sorted(lab.folder.glob("*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
    return report


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty lab, removed when the test ends, however it ends."""
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def relay(lab: Lab) -> Iterator[Relay]:
    """The relay, not started."""
    service = Relay(lab.relay_host, lab.folder)
    yield service
    service.remove()


@pytest.fixture
def trio(lab: Lab, relay: Relay) -> Trio:
    return Trio(lab, relay)


@pytest.fixture
def trio_up(trio: Trio) -> Trio:
    trio.up()
    return trio
