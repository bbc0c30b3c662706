# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent needs is not there: it says so, goes on, and takes it as soon as it is."""

from __future__ import annotations

import shutil

from harness.paths import Paths, Watched
from harness.processes import wait_until

_NO_TOOL = "wg is missing, so a session cannot be renewed: install wireguard-tools"


def test_neither_wg_nor_the_interface(paths: Paths) -> None:
    paths.up(agents=False)
    ann, agent = paths.ann, paths.agents[0]
    ann.process.stop()
    agent.programs = paths.lab.folder / "programs"
    agent.programs.mkdir()
    paths.start_agents()

    def says(*problems: str) -> None:
        wait_until(f"it says {problems}", lambda: agent.status().get("problems") == [*problems], 10)

    says(_NO_TOOL, f"{ann.interface} is not there: start wg-quick@{ann.interface}")
    assert not agent.status()["peers"]

    ann.start()
    paths.connect(ann)
    ann.up()
    paths.wait("direct", seconds=30)
    says(_NO_TOOL)

    (agent.programs / "wg").symlink_to(shutil.which("wg"))
    says()
    with Watched(ann, paths.bob) as watched:
        watched.connection.check()
    assert agent.process.running
    assert agent.path(paths.bob)["path"] == "direct"
