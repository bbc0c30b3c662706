# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The path agent of a device: settings, process, status."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from harness.notify import NotifySocket
from harness.processes import Process, wait_until
from harness.topology import Lab
from harness.wireguard import NETWORKS, Device

_SERVICES = Path(__file__).parents[3] / "services"
# What `time` says to the agent: a host that sleeps, or whose time of day is set, cannot be had in a lab.
_CLOCK = """
import os, time
_boottime, _time = time.clock_gettime, time.time
def _ahead(which):
    with open(os.environ["CLOCK"]) as file:
        return float(file.read().split()[which])
time.clock_gettime = lambda clock: _boottime(clock) + (_ahead(0) if clock == time.CLOCK_BOOTTIME else 0)
time.time = lambda: _time() + _ahead(1)
"""


# Runs a program with a socket that systemd would have made, again and again.
_AS_SYSTEMD = """
import os, socket, subprocess, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.bind(sys.argv[1] + "~")
sock.listen()
os.dup2(sock.fileno(), 3)
os.rename(sys.argv[1] + "~", sys.argv[1])
os.environ["LISTEN_FDS"] = "1"
while True:
    subprocess.run(["setpriv", "--pdeathsig", "KILL", *sys.argv[2:]], pass_fds=[3])
"""
_NO_RIGHTS = ["setpriv", "--bounding-set", "-all,+net_raw", "--inh-caps", "-all", "--"]


def stage(folder: Path) -> Path:
    """Put together what the role installs on a device; return the folder for PYTHONPATH."""
    place = folder / "agent"
    if not place.exists():
        ignore = shutil.ignore_patterns("__pycache__")
        for package in ("peer_agent", "peer_common"):
            shutil.copytree(_SERVICES / package, place / package, ignore=ignore)
        compileall.compile_dir(place, quiet=1)  # once, not at each start
    return place


class Agent:
    """The agent beside one device. `relays` are [[relay]] tables, in their stated order."""

    def __init__(self, lab: Lab, device: Device, relays: list[dict], others: list[Device]):
        self.lab = lab
        self.device = device
        self.folder = device.host.logs
        self.settings = self.folder / f"{device.name}.toml"
        self.status_file = self.folder / f"{device.name}.json"
        self.relays = relays
        self.others = [other for other in others if other is not device]
        self.process: Process | None = None
        self.hosts: Path | None = None  # stands in for /etc/hosts
        self.resolvers: Path | None = None  # stands in for /etc/resolv.conf
        self.clock: Path | None = None
        self.apart = False  # without rights over WireGuard, beside a helper that has them: as the role has it
        self.programs: Path | None = None  # a folder with those that it finds, if not with all

    def jump(self, asleep: float = 0, forward: float = 0) -> None:
        """Let the host have slept so long, or have its time of day set forward; once before the start to allow it."""
        if not self.clock:
            folder = self.folder / f"clock-{self.device.name}"
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(_CLOCK)
            self.clock = folder / "ahead"
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(f"{asleep} {forward}")
        fresh.replace(self.clock)

    def write_settings(self) -> None:
        agent = {
            "interface": self.device.interface,
            "addresses": _plain(self.device.addresses),
            "networks": NETWORKS,
            "status_file": str(self.status_file),
        }
        text = _table("[agent]", agent)
        for relay in self.relays:
            text += _table("[[relay]]", relay)
        for other in self.others:
            entry = {"name": other.name, "public_key": other.public_key, "addresses": _plain(other.addresses)}
            text += _table("[[peer]]", entry)
        self.settings.write_text(text)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it without waiting for it. Not from a thread that ends: the agent would end with it."""
        self.write_settings()
        self._notify = notify = NotifySocket(self.folder / f"{self.device.name}.notify")
        folders = [stage(self.folder)]
        words = ["env", f"NOTIFY_SOCKET={notify.path}", "PEER_AGENT_STRICT=1"]
        if self.clock:
            folders.append(self.clock.parent)
            words.append(f"CLOCK={self.clock}")
        if self.programs:
            words.append(f"PATH={self.programs}")
        words.append(f"PYTHONPATH={':'.join(map(str, folders))}")
        words += [sys.executable, "-m", "peer_agent", "--settings", str(self.settings), "run"]
        if self.apart:
            words = [*_NO_RIGHTS, *words, "--wireguard", str(self._start_helper(folders[0]))]
        for file, place in ((self.hosts, "/etc/hosts"), (self.resolvers, "/etc/resolv.conf")):
            if file:  # `ip netns exec` has given it a mount namespace of its own
                words = ["sh", "-c", f'mount --bind {file} {place} && exec "$@"', "-", *words]
        self.process = self.lab.start(self.device.host.spawn(*words, log=f"agent-{self.device.name}"))

    def _start_helper(self, package: Path) -> Path:
        path = self.folder / f"{self.device.name}.sock"
        path.unlink(missing_ok=True)
        words = ["env", f"PYTHONPATH={package}", sys.executable, "-c", _AS_SYSTEMD, str(path), sys.executable]
        words += ["-m", "peer_agent", "--interface", self.device.interface, "wireguard"]
        self.helper = self.lab.start(self.device.host.spawn(*words, log=f"helper-{self.device.name}"))
        wait_until("the helper listens", path.exists, 10)
        return path

    def kill_helper(self) -> None:
        """What systemd starts again when it is asked the next time."""
        pid = self.helper.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def wait_ready(self, seconds: float = 10) -> None:
        self._notify.wait_ready("the agent", self.process, seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        return self.process.stop(number)

    def reload(self) -> None:
        self.write_settings()
        self.process.send_signal(signal.SIGHUP)

    def busy_seconds(self) -> float:
        return self.process.busy_seconds()

    def status(self) -> dict:
        try:
            return json.loads(self.status_file.read_text())
        except FileNotFoundError:
            return {"peers": [], "relays": []}

    def path(self, other: Device) -> dict | None:
        """What the agent says of its path to another device."""
        return next((peer for peer in self.status()["peers"] if peer["name"] == other.name), None)

    def wait_path(
        self, other: Device, kind: str, via: str | None = None, seconds: float = 15, after: float = 0
    ) -> None:
        """Wait until the path is of that kind, and that since a moment of `time.time()`."""

        def there() -> bool:
            path = self.path(other)
            return bool(path) and path["path"] == kind and via in (None, path["via"]) and path["since"] >= after

        try:
            wait_until(f"{self.device.name} reaches {other.name} by {kind} {via or ''}", there, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.path(other)}") from None


def _plain(addresses: list[str]) -> list[str]:
    return [address.split("/")[0] for address in addresses]


def _table(head: str, content: dict[str, object]) -> str:
    return f"{head}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items()) + "\n"
