# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease keeper under test: settings, process, status."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from harness.netns import Namespace
from harness.notify import NotifySocket
from harness.processes import Process, wait_until

_ROOT = Path(__file__).parents[3]
_PATH = f"{_ROOT / 'services'}:{_ROOT / 'plugins/module_utils'}"


class Keeper:
    """The service in a host's namespace; `router` and `mappings` are the tables of its settings."""

    def __init__(self, host: Namespace, folder: Path, *mappings: dict, **router: object):
        self.host = host
        self.folder = folder
        self.mappings = list(mappings)
        self.router = router
        self.status_file = folder / "ports-status.json"
        self._settings = folder / "ports.toml"
        self._process: Process | None = None

    def _write_settings(self) -> None:
        keeper = {"status_file": str(self.status_file), "state_file": str(self.folder / "ports-state.json")}
        tables = [("[router]", self.router), ("[keeper]", keeper)]
        tables += [("[[mapping]]", mapping) for mapping in self.mappings]
        text = [[name, *(f"{key} = {json.dumps(value)}" for key, value in table.items())] for name, table in tables]
        self._settings.write_text("\n".join(line for lines in text for line in lines) + "\n")

    def _program(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "port_keeper", "--settings", str(self._settings), *words]

    def command(self, *words: str) -> str:
        return self.host.run("env", f"PYTHONPATH={_PATH}", *self._program(*words))

    def start(self) -> None:
        self._write_settings()
        notify = NotifySocket(self.folder / "ports-notify.sock")
        environment = {**os.environ, "PYTHONPATH": _PATH, "NOTIFY_SOCKET": str(notify.path)}
        self._process = self.host.spawn(*self._program("run"), log="keeper", environment=environment)
        notify.wait_ready("the keeper", self._process)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        process, self._process = self._process, None
        return process.stop(number) if process else 0

    def reload(self) -> None:
        self._write_settings()
        self._process.send_signal(signal.SIGHUP)

    def memory(self) -> int:
        """Resident memory in bytes."""
        return self._process.memory()

    def log(self) -> str:
        return (self.folder / f"{self.host.label}-keeper.log").read_text()

    def status(self) -> dict:
        return json.loads(self.status_file.read_text())

    def mapping(self, name: str = "relay") -> dict:
        return next(mapping for mapping in self.status()["mappings"] if mapping["name"] == name)

    def wait_state(self, state: str, name: str = "relay", seconds: float = 10) -> dict:
        """Wait for a state of the mapping; return it."""

        def reached() -> bool:
            return (name, state) in [(mapping["name"], mapping["state"]) for mapping in self.status()["mappings"]]

        wait_until(f"{name} {state}", reached, seconds)
        return self.mapping(name)

    def __enter__(self) -> Keeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
