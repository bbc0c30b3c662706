# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fallback under test: the relay's bridge, and a device's end of it, without the rest of the agent."""

from __future__ import annotations

import hashlib
import itertools
import os
import ssl
import subprocess
import sys
from pathlib import Path

from harness.netns import Namespace
from harness.notify import NotifySocket
from harness.processes import Process, run, wait_until
from harness.service import ADDRESSES, PORT, Relay
from harness.topology import RELAY_V4, Lab
from harness.traffic import Stream
from harness.wireguard import Device

URL = f"wss://{RELAY_V4[0]}:443/"
_numbers = itertools.count(1)
_PATH = str(Path(__file__).parents[3] / "services")
# As the agent does: one attempt after the other, and WireGuard is told of each that succeeds.
_DEVICE = """
import subprocess, sys, threading, time
from peer_agent.host.fallback import Fallback
url, fingerprint, interface, port, *keys = sys.argv[1:]
while True:
    ended = threading.Event()
    def report(endpoint, reason):
        print(f"up {endpoint}" if endpoint else f"ended: {reason}", flush=True)
        if endpoint:
            words = [word for key in keys for word in ("peer", key, "endpoint", str(endpoint))]
            subprocess.run(["wg", "set", interface, *words], check=True)
        else:
            ended.set()
    Fallback(url, fingerprint, 0, int(port), report)
    ended.wait()
    time.sleep(0.5)
"""


def _environment(library: Path | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{library}:{_PATH}" if library else _PATH}


class Certificate:
    """A certificate that signs itself, made as the role relay does."""

    def __init__(self, folder: Path, name: str):
        self.file, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        words = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=peer-relay"
        )
        run(*words.split(), "-keyout", str(self.key), "-out", str(self.file))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.file.read_text())).hexdigest()


class Bridge:
    """The service beside the relay; without a certificate it is behind a reverse proxy.

    `library`: a folder with another version of the WebSocket library, here and of a `Carrier`.
    """

    def __init__(self, host: Namespace, certificate: Certificate | None, *options: str, listen: str = "0.0.0.0:443"):
        self.host = host
        self.certificate = certificate
        self._options = ["--listen", listen, *options]
        self.process: Process | None = None
        self.library: Path | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "peer_relay_fallback", "--relay", f"127.0.0.1:{PORT}", *self._options]
        if self.certificate:
            words += ["--certificate", str(self.certificate.file), "--key", str(self.certificate.key)]
        notify = NotifySocket(self.host.logs / "fallback.notify")
        environment = {**_environment(self.library), "NOTIFY_SOCKET": str(notify.path)}
        self.process = self.host.spawn(*words, log="bridge", environment=environment)
        notify.wait_ready("the bridge", self.process)

    def stop(self) -> int:
        process, self.process = self.process, None
        return process.stop() if process else 0

    def text(self) -> str:
        return self.process.text()

    def memory(self) -> int:
        return self.process.memory()

    def descriptors(self) -> int:
        return self.process.descriptors()


class Carrier:
    """A device's end: keeps a connection to the bridge, and points the device's peers at it."""

    def __init__(self, lab: Lab, device: Device, url: str, fingerprint: str, *keys: str, library: Path | None = None):
        port = device.host.run("wg", "show", device.interface, "listen-port").strip()
        words = [sys.executable, "-c", _DEVICE, url, fingerprint, device.interface, port, *keys]
        environment = _environment(library)
        # A log of its own: what it says is not what one before has said.
        log = f"carrier{next(_numbers)}"
        self._process = lab.start(device.host.spawn(*words, log=log, environment=environment))

    def text(self) -> str:
        return self._process.text()

    def cpu(self) -> float:
        return self._process.busy_seconds()

    def memory(self) -> int:
        return self._process.memory()

    @property
    def running(self) -> bool:
        return self._process.running

    def wait_said(self, text: str, times: int = 1, seconds: float = 10) -> float:
        return wait_until(f"the device's end says {text!r}", lambda: self.text().count(text) >= times, seconds)

    def stop(self) -> None:
        self._process.stop()


class Blocked:
    """`ann`, whose site lets no UDP pass from `block` on, and `bob`. Both have the relay; the bridge is not started."""

    def __init__(self, lab: Lab, relay: Relay, *options: str):
        self.lab, self.relay = lab, relay
        self.site, other = lab.site(), lab.site()
        self.ann = Device(lab, self.site.host("ann"), "ann", ["10.77.1.1/32", "fd77:7065:6572::1:1/128"])
        self.bob = Device(lab, other.host("bob"), "bob", ["10.77.1.2/32", "fd77:7065:6572::1:2/128"])
        relay.register(self.ann, self.bob)
        relay.start()
        for device in (self.ann, self.bob):
            relay.connect(device, self.ann, self.bob)
            device.up()
        relay.wait_bound(self.ann, self.bob)
        self.certificate = Certificate(lab.folder, "certificate")
        self.bridge = Bridge(lab.relay_host, self.certificate, *options)

    def block(self) -> None:
        self.site.router.nft(
            "table inet blocked { chain forward { type filter hook forward priority -10; meta l4proto udp drop; }; }"
        )

    def carry(self, url: str = URL, fingerprint: str | None = None, library: Path | None = None) -> Carrier:
        pin = self.certificate.fingerprint if fingerprint is None else fingerprint
        keys = self.relay.public_key, self.bob.public_key
        return Carrier(self.lab, self.ann, url, pin, *keys, library=library)

    def carried(self) -> Carrier:
        """Block UDP, and have the pair's traffic go over the fallback."""
        with Stream(self.ann, self.bob) as stream:
            stream.wait_flowing()
            self.block()
            carrier = self.carry()
            carrier.wait_said("up 127.0.0.1:")
            # As the agent does: a question to the relay tells it the new address.
            self.ann.host.run("ping", "-c", "1", "-W", "5", ADDRESSES[0])
            stream.wait_flowing()
        return carrier


def have(program: str) -> bool:
    return subprocess.run(["which", program], check=False, capture_output=True).returncode == 0
