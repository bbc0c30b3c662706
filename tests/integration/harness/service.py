# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay under test: settings, process, status."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from harness.netns import Namespace
from harness.notify import NotifySocket
from harness.processes import Process, run, wait_until
from harness.wireguard import KEEPALIVE, NETWORKS, Device

SERVICES = Path(__file__).parents[3] / "services"
PORT = 40000
ADDRESSES = ["10.77.0.1", "fd77:7065:6572::1"]


@dataclass
class Registration:
    """A device in the relay's settings."""

    name: str
    public_key: str
    addresses: list[str]
    groups: list[str] = field(default_factory=lambda: ["default"])
    rate_limit_mbit: float = 0
    expires: datetime | None = None

    def toml(self) -> str:
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return "[[device]]\n" + "".join(
            f"{key} = {value.isoformat() if isinstance(value, datetime) else json.dumps(value)}\n"
            for key, value in values.items()
        )


class Relay:
    """The service in its namespace. `start` returns once it says that it is ready."""

    def __init__(
        self,
        host: Namespace,
        folder: Path,
        listen_addresses: list[str] | None = None,
        name: str = "relay",
        addresses: list[str] = ADDRESSES,
        data_plane: str = "userspace",
    ):
        self.host = host
        self.folder = folder
        self.name = name
        self.addresses = addresses
        self.settings = folder / "relay.toml"
        self.state = folder / "state.json"
        self.key = folder / "private.key"
        self.status_socket = folder / "status.sock"
        self.listen_addresses = listen_addresses
        self.data_plane = data_plane
        self.bpf = folder / f"{name}-bpf"  # what the kernel keeps for the service
        self.wrapper: list[str] = []  # what starts the service: a command that takes privileges away, say
        self.patch = ""  # Python that changes constants before it runs
        self.registrations: dict[str, Registration] = {}
        self.process: Process | None = None
        self.public_key = self.command("keygen", str(self.key)).strip()

    def _program(self, *words: str) -> list[str]:
        start = ["-m", "peer_relay"]
        if self.patch:
            run_it = "import runpy; runpy.run_module('peer_relay', run_name='__main__', alter_sys=True)"
            start = ["-c", f"{self.patch}\n{run_it}"]
        return [sys.executable, *start, "--settings", str(self.settings), *words]

    def command(self, *words: str) -> str:
        """Run one of the service's own commands in its namespace."""
        return self.host.run("env", f"PYTHONPATH={SERVICES}", *self._program(*words))

    def register(self, *devices: Device) -> None:
        for device in devices:
            plain = [address.split("/")[0] for address in device.addresses]
            self.registrations[device.name] = Registration(device.name, device.public_key, plain)

    def write_settings(self) -> None:
        relay = {
            "name": self.name,
            "listen_port": PORT,
            "private_key_file": str(self.key),
            "networks": NETWORKS,
            "addresses": self.addresses,
            "state_file": str(self.state),
            "status_socket": str(self.status_socket),
            "data_plane": self.data_plane,
            "bpf_directory": str(self.bpf),
        }
        if self.listen_addresses:
            relay["listen_addresses"] = self.listen_addresses
        text = "[relay]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in relay.items())
        self.settings.write_text(text + "".join(device.toml() for device in self.registrations.values()))

    def start(self, seconds: float = 15) -> None:
        self.write_settings()
        if self.data_plane != "userspace" and not self.bpf.is_mount():
            self.bpf.mkdir(exist_ok=True)
            run("mount", "-t", "bpf", "bpf", str(self.bpf))
        notify = NotifySocket(self.folder / "notify.sock")
        environment = {**os.environ, "PYTHONPATH": str(SERVICES), "NOTIFY_SOCKET": str(notify.path)}
        self.process = self.host.spawn(*self.wrapper, *self._program("run"), log="service", environment=environment)
        notify.wait_ready("the relay", self.process, seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        return process.stop(number) if process else 0

    def remove(self) -> None:
        """End the service, and what the kernel forwards for it."""
        self.stop()
        if self.bpf.is_mount():
            self.command("unload")
            run("umount", str(self.bpf))

    def reload(self) -> None:
        self.write_settings()
        self.process.send_signal(signal.SIGHUP)

    def log(self) -> str:
        path = self.folder / f"{self.host.label}-service.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def get(self, path: str) -> bytes:
        """GET from the status socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.status_socket))
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return answer.partition(b"\r\n\r\n")[2]

    def status(self) -> dict:
        return json.loads(self.get("/status"))

    def device(self, name: str) -> dict:
        return next(device for device in self.status()["devices"] if device["name"] == name)

    def names(self) -> set[str]:
        """The devices that the running service knows."""
        return {device["name"] for device in self.status()["devices"]}

    def endpoint(self, name: str) -> str | None:
        return self.device(name)["endpoint"]

    def wait_bound(self, *devices: Device, seconds: float = 10) -> float:
        """Wait until the devices are bound; return how long that took."""
        names = {device.name for device in devices}

        def bound() -> bool:
            states = {device["name"]: device["state"] for device in self.status()["devices"]}
            return all(states[name] == "bound" for name in names)

        return wait_until(f"{', '.join(sorted(names))} bound", bound, seconds)

    def memory(self) -> int:
        return self.process.memory()

    def connect(self, device: Device, *others: Device, address: str = "203.0.113.10") -> None:
        """Configure a device: the relay with a keepalive, every other device at the same endpoint."""
        endpoint = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
        own = [f"{a}/{128 if ':' in a else 32}" for a in self.addresses]
        device.add_peer(self.public_key, endpoint, own, KEEPALIVE)
        for other in others:
            if other is not device:
                allowed = [address.split("/")[0] for address in other.addresses]
                device.add_peer(other.public_key, endpoint, [f"{a}/{128 if ':' in a else 32}" for a in allowed])
