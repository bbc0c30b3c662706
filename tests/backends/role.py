# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the role port_forward as its users do, by ansible-playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = [
    {
        "hosts": "relays",
        "gather_facts": False,
        "roles": ["homelab.peer_relay.port_forward"],
        "post_tasks": [{"ansible.builtin.debug": {"msg": "RESULT {{ port_forward_result | to_json }}"}}],
    }
]
RESULT = re.compile(r'"msg": ("RESULT .*")$', re.MULTILINE)
ADDRESS = "192.168.88.20"  # of the host "home", which stands for the relay
ADDRESS6 = "2001:db8:1::20"


@dataclass(frozen=True)
class Run:
    """What one run of the role did."""

    output: str
    changed: int
    result: dict | None  # the fact port_forward_result; none when the run failed

    @property
    def failed(self) -> bool:
        return self.result is None


class Role:
    """The role port_forward on the host "home" with one backend's variables."""

    def __init__(self, folder: Path, variables: dict, environment: dict[str, str]) -> None:
        self.folder = folder
        self.variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "port_forward_address": ADDRESS,
            "port_forward_address6": ADDRESS6,
            **variables,
        }
        self.environment = environment
        self.of_all: dict = {}  # variables of all hosts

    def run(self, *options: str, **variables: object) -> Run:
        """Run it; a failed run is the test's failure, except where the test expects an error."""
        run = self._run(*options, **variables)
        assert not run.failed, run.output
        return run

    def error(self, *options: str, **variables: object) -> str:
        """Run what has to fail, and give what the user sees."""
        run = self._run(*options, **variables)
        assert run.failed, run.output
        return " ".join(run.output.split())

    def _run(self, *options: str, **variables: object) -> Run:
        hosts = {"home": {**self.variables, **variables}}
        inventory = {"all": {"vars": self.of_all, "children": {"relays": {"hosts": hosts}}}}
        (self.folder / "inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
        (self.folder / "play.json").write_text(json.dumps(PLAYBOOK), encoding="utf-8")
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory.json", "play.json", *options]
        process = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False, timeout=120
        )
        output = process.stdout + process.stderr
        if process.returncode:
            return Run(output, 0, None)
        result = json.loads(RESULT.search(output)[1]).removeprefix("RESULT ")
        return Run(output, int(re.search(r"changed=(\d+)", output)[1]), json.loads(result))

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ}
        return {
            **kept,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_PIPELINING": "true",
            **self.environment,
        }
