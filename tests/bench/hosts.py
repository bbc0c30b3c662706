# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts between which a contestant relays: one with all devices, and the relay's, joined by two cables.

    devices   eth0 10.1.0.2 --- 10.1.0.1 in0    relay
    10.64.x.x eth1 10.2.0.2 --- 10.2.0.1 out0
    10.128.x.x

Senders have addresses of the first network, receivers of the second one. Sender and receiver are one process on the
first core; all that the relay's host does is on the second core. Each contestant has hosts of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from ipaddress import IPv4Address
from pathlib import Path

from harness.netns import Namespace, link

LOAD_CORE, RELAY_CORE = 0, 1
SENDERS, RECEIVERS = "10.64", "10.128"  # the first half of their addresses
RELAY_IN, RELAY_OUT = "10.1.0.1", "10.2.0.1"
MARK = bytes.fromhex("62656e63686d6172")  # of load, where WireGuard has its counter
_GATEWAYS = {"eth0": (RELAY_IN, "10.1.0.2", "in0"), "eth1": (RELAY_OUT, "10.2.0.2", "out0")}
_RELAY_INTERFACES = [interface for _, _, interface in _GATEWAYS.values()]
# Load has reached its goal when it is at the device's interface: what comes then is not the relay's work.
_SINK = """
table netdev sink {{
  chain load {{
    type filter hook ingress devices = {{ eth0, eth1 }} priority 0; policy accept;
    meta l4proto udp @th,128,64 0x{mark} drop
  }}
}}
"""


def _hardware(address: str) -> str:
    return ":".join(f"{octet:02x}" for octet in (2, 0, *IPv4Address(address).packed))


def pin(pid: int) -> None:
    """Keep a process and its threads on the relay's core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread.name), {RELAY_CORE})


class Hosts:
    """The devices' host and the relay's. Made with two cables in use and no merging of packets into trains."""

    def __init__(self, label: str, logs: Path):
        self.logs = logs / label
        self.logs.mkdir()
        self.devices, self.relay = Namespace(f"{label}-devices", self.logs), Namespace(f"{label}-relay", self.logs)
        for namespace in (self.devices, self.relay):
            namespace.sysctl(
                net__ipv4__conf__all__rp_filter=0,
                net__ipv4__conf__default__rp_filter=0,
                net__ipv6__conf__default__disable_ipv6=1,
            )
        # What a device sends comes back to the same host.
        self.devices.sysctl(net__ipv4__conf__all__accept_local=1)
        self.relay.sysctl(net__ipv4__ip_forward=1)
        for interface, (gateway, address, relay_interface) in _GATEWAYS.items():
            link(self.devices, interface, self.relay, relay_interface)
            # Each knows the other for good: nothing waits, or is lost, for being looked up.
            ends = ((self.devices, interface, address), (self.relay, relay_interface, gateway))
            for (host, name, own), (_, _, other) in itertools.permutations(ends):
                host.ip(
                    f"link set {name} address {_hardware(own)}",
                    f"addr add {own}/24 dev {name}",
                    f"neigh replace {other} lladdr {_hardware(other)} nud permanent dev {name}",
                )
            # A train is cut where it leaves, so that only the receiving interface can make it again.
            for namespace, name in ((self.devices, interface), (self.relay, relay_interface)):
                self._features(namespace, name, gro=False, tso=False, tx_udp_segmentation=False)
        self.devices.ip(
            f"route add local {SENDERS}.0.0/16 dev lo",
            f"route add local {RECEIVERS}.0.0/16 dev lo",
            # From one device to another by way of the relay, although both are here.
            "rule add pref 200 lookup local",
            "rule del pref 0",
            f"rule add pref 100 iif lo to {RECEIVERS}.0.0/16 lookup 100",
            f"rule add pref 100 iif lo to {SENDERS}.0.0/16 lookup 100",
        )
        self.devices.run("nft", "-f", "-", stdin=_SINK.format(mark=MARK.hex()))
        for interface in _RELAY_INTERFACES:
            self._steer(self.relay, interface, RELAY_CORE)
        self._loaded: bool | None = None
        self._hairpin: bool | None = None
        self._merging = False
        self.hairpin(False)
        self.loaded(False)

    @staticmethod
    def _features(namespace: Namespace, interface: str, **features: bool) -> None:
        words = [word for name, on in features.items() for word in (name.replace("_", "-"), "on" if on else "off")]
        namespace.run("ethtool", "-K", interface, *words)

    @staticmethod
    def _steer(namespace: Namespace, interface: str, core: int | None) -> None:
        """Let packets be received on a core; None is the one that sent them."""
        mask = 0 if core is None else 1 << core
        namespace.run("sh", "-c", f"echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus")

    def loaded(self, on: bool) -> None:
        """Receive on the devices' core, as with network cards of their own; load, on the relay's.

        It is only discarded there, and the devices' core has enough to do with sending: the relay must be the one that
        is busy.
        """
        if on != self._loaded:
            self._loaded = on
            for interface in _GATEWAYS:
                self._steer(self.devices, interface, None if on else LOAD_CORE)

    def hairpin(self, on: bool) -> None:
        """Let the relay use one interface for all, or one for senders and one for receivers."""
        if on == self._hairpin:
            return
        self._hairpin = on
        far = "eth0" if on else "eth1"
        gateway, address, interface = _GATEWAYS[far]
        near_gateway, near_address, near_interface = _GATEWAYS["eth0"]
        self.devices.ip(
            f"route replace {RECEIVERS}.0.0/16 via {near_gateway} table 100",
            f"route replace {SENDERS}.0.0/16 via {gateway} table 100",
            f"route replace {RELAY_OUT}/32 " + (f"via {gateway}" if on else f"dev {far}"),
        )
        self.relay.ip(
            f"route replace {SENDERS}.0.0/16 via {near_address} dev {near_interface}",
            f"route replace {RECEIVERS}.0.0/16 via {address} dev {interface}",
        )
        self.arrival = far

    def merging(self, on: bool) -> None:
        """Let the relay's interfaces merge equal datagrams into trains (GRO)."""
        if on == self._merging:
            return
        self._merging = on
        for interface in _RELAY_INTERFACES:
            self._features(self.relay, interface, gro=on)
            if on:
                # Merging is work of the relay's, too: by itself, it would be done on the core of whoever sends.
                self.relay.run("sh", "-c", f"echo 1 > /sys/class/net/{interface}/threaded")
        for name in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if name.read_text().startswith(("napi/in0", "napi/out0")):
                    pin(int(name.parent.name))

    def remove(self) -> None:
        for namespace in (self.devices, self.relay):
            namespace.remove()
