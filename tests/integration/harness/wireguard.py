# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stock WireGuard devices: one wireguard-go each, configured by `wg`."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from harness.netns import Namespace
from harness.processes import Process, run, wait_until
from harness.topology import Lab

_PROGRAM = os.environ.get("WIREGUARD_GO", "wireguard-go")
_numbers = itertools.count(1)
NETWORKS = ["10.77.0.0/16", "fd77:7065:6572::/64"]
MTU = 1420
KEEPALIVE = 25


class Device:
    """A device of the overlay network: host, interface, keys, addresses."""

    def __init__(self, lab: Lab, host: Namespace, name: str, addresses: list[str]):
        self.host = host
        self.name = name
        self.addresses = addresses
        # wireguard-go's sockets of all namespaces share one folder: the name must be unique on the machine.
        self.interface = f"w{os.getpid()}x{next(_numbers)}"
        self.private_key = run("wg", "genkey").strip()
        self.public_key = run("wg", "pubkey", stdin=self.private_key).strip()
        self._lab = lab
        self.start()

    def start(self) -> None:
        """Make the interface, without peers."""
        self.process: Process = self._lab.start(self.host.spawn(_PROGRAM, "-f", self.interface, log=self.name))
        socket = Path("/var/run/wireguard", f"{self.interface}.sock")
        wait_until(f"wireguard-go of {self.name} is ready", socket.exists, 5)
        self.host.ip(
            *(f"addr add {address} dev {self.interface} nodad" for address in self.addresses),
            f"link set {self.interface} mtu {MTU}",
        )
        self._up = False
        self._prepared: list[str] = []  # peers, as `wg set` takes them
        self._wg("set", self.interface, "private-key", "/dev/stdin", stdin=self.private_key)

    def _wg(self, *words: str, stdin: str | None = None) -> str:
        return self.host.run("wg", *words, stdin=stdin)

    @property
    def address(self) -> str:
        """Its first overlay address."""
        return self.addresses[0]

    def add_peer(self, public_key: str, endpoint: str, allowed: list[str], keepalive: int = 0) -> None:
        """Add or change a peer; one that is added before `up` counts from then on."""
        words = ["peer", public_key, "endpoint", endpoint, "allowed-ips", ",".join(allowed)]
        words += ["persistent-keepalive", str(keepalive)]
        if self._up:
            self._wg("set", self.interface, *words)
        else:
            self._prepared += words

    def remove_peer(self, public_key: str) -> None:
        self._wg("set", self.interface, "peer", public_key, "remove")

    def use_key_of(self, other: Device) -> None:
        """Become a copy of another device."""
        self.private_key, self.public_key = other.private_key, other.public_key
        self._wg("set", self.interface, "private-key", "/dev/stdin", stdin=self.private_key)

    def up(self, routes: list[str] | None = None) -> None:
        """Bring the interface up and let its peers be known: wireguard-go makes its first handshakes now."""
        self._up = True
        if routes is None:
            routes = [f"route add {network} dev {self.interface}" for network in NETWORKS]
        self.host.ip(f"link set {self.interface} up", *routes)
        self._wg("set", self.interface, *self._prepared)

    def rebind(self) -> None:
        """Open a new socket, as the apps do on a change of network.

        wireguard-go sends from the address it used before until the kernel says EINVAL; recent kernels say ENETUNREACH.
        """
        self._wg("set", self.interface, "listen-port", "0")

    def handshakes(self) -> dict[str, int]:
        """Public key of each peer -> Unix time of the latest handshake, 0 for none."""
        lines = self._wg("show", self.interface, "latest-handshakes").splitlines()
        return {key: int(seconds) for key, seconds in (line.split() for line in lines)}

    def describe(self) -> str:
        return self._wg("show", self.interface)
